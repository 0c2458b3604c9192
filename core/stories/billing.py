"""The cost of a story: the worst case is reserved before sending, and the real cost is settled at the end."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Spend
from core.errors import Refused
from core.message import msg, with_cause
from core.pricing import budget, spend, tokens
from core.pricing.price_book import PriceBook, cost_of
from core.providers import CompletionRequest, StreamFacts
from core.sanitize import storable
from core.stories.story_record import MAX_MODEL_NAME_LENGTH, same_model


@dataclass(frozen=True, slots=True)
class Bill:
    """The cost of one request.

    Attributes:
        counted_tokens: completion tokens counted here; None if the endpoint reported its own count.
        cost_usd: cost in US dollars; None if unknown.
    """

    counted_tokens: int | None
    cost_usd: Decimal | None


class StoryBilling:
    """Reserves and settles the cost of one request."""

    def __init__(
        self,
        store: Store,
        actor: Actor,
        book: PriceBook,
        provider: str,
        request: CompletionRequest,
        reference: str,
        page: spend.Page = "story",
    ) -> None:
        self._store, self._actor, self._book = store, actor, book
        self._provider, self._request, self._reference, self._page = provider, request, reference, page
        price = book.find(provider, request.model)
        self._free = price is not None and price.local
        self._spend_id: int | None = None
        self._worst_case_usd: Decimal | None = None

    def reserve(self) -> None:
        """Record the worst-case cost before the request is sent. Free models need no reservation.

        Raises:
            OverBudget: the request would exceed a budget.
            Refused: a viewer requested a paid model and no budget is set.
        """
        if self._free:
            return
        worst_case_usd = cost_of(
            self._book, self._provider, self._request.model, self._count_prompt_tokens(), self._request.max_tokens
        )
        self._worst_case_usd = worst_case_usd
        with self._store.session() as session:
            reference, actor = self._reference, self._actor
            if actor.role == "viewer" and budget.remaining_in(session, actor, reference) is None:
                raise Refused(
                    with_cause(
                        msg("Viewers can use paid models only within a budget, and no budget is set."), "shared_budget"
                    ),
                    msg("Choose a model on this machine, or ask an admin to set a budget on the cost page."),
                )
            if worst_case_usd is None:  # `record` checks known amounts
                budget.check(session, actor, None, reference)
            self._spend_id = spend.record(
                session,
                actor,
                self._page,
                provider=self._provider,
                model=self._request.model,
                reference=reference,
                cost_usd=worst_case_usd,
            )

    def compute_bill(self, seen: StreamFacts, written: str, *, no_response: bool = False) -> Bill:
        """The cost when the stream has ended. Completion tokens are counted here if the endpoint did not report them.

        Args:
            seen: the facts that the stream reported.
            written: the model's text, including its thinking.
            no_response: the request was sent but ended without text and without a reply that rules out a charge. The
                cost is then unknown, as it is when thinking was streamed but not counted.
        """
        counted = tokens.count([written], self._request.model).tokens if seen.tokens is None and written else None
        if not _used_tokens(seen, written):
            return Bill(counted, None if (no_response or seen.started) and not self._free else Decimal(0))
        prompt_tokens = self._count_prompt_tokens() if seen.prompt_tokens is None else seen.prompt_tokens
        completion_tokens = counted if seen.tokens is None and not seen.has_thinking else seen.tokens
        cached = seen.cached_tokens
        cost = cost_of(self._book, self._provider, seen.model, prompt_tokens, completion_tokens, cached_tokens=cached)
        if cost is None and same_model(self._request.model, seen.model):
            cost = cost_of(
                self._book, self._provider, self._request.model, prompt_tokens, completion_tokens, cached_tokens=cached
            )
        return Bill(counted, cost)

    def settle(self, session: Session, seen: StreamFacts, written: str, bill: Bill) -> None:
        """Write the call to the spend ledger. A request that failed before using tokens is not recorded."""
        model = storable(seen.model)[:MAX_MODEL_NAME_LENGTH]
        billable = _used_tokens(seen, written) or bill.cost_usd is None
        if self._spend_id is None:
            if billable:
                spend.record(
                    session, self._actor, self._page, provider=self._provider, model=model, reference=self._reference,
                    prompt_tokens=seen.prompt_tokens, completion_tokens=seen.tokens, cost_usd=bill.cost_usd,
                    counted_completion_tokens=bill.counted_tokens,
                )  # fmt: skip
            return
        row = session.get_one(Spend, self._spend_id)
        if not billable:
            session.delete(row)
            return
        spend.settle(
            session, row.id, prompt_tokens=seen.prompt_tokens, completion_tokens=seen.tokens,
            cost_usd=bill.cost_usd, counted_completion_tokens=bill.counted_tokens,
        )  # fmt: skip
        row.model = model

    def rescue_entry(self, seen: StreamFacts, bill: Bill) -> dict[str, Any]:
        """The call in the format of a rescue file (see `core.jobs.recovery`)."""
        return {
            "id": self._spend_id,
            "actor": self._actor.id,
            "page": self._page,
            "provider": self._provider,
            "model": storable(seen.model)[:MAX_MODEL_NAME_LENGTH],
            "reference": self._reference,
            "prompt_tokens": seen.prompt_tokens,
            "completion_tokens": seen.tokens,
            "counted_completion_tokens": bill.counted_tokens,
            "cost_usd": bill.cost_usd,
            "estimated_usd": self._worst_case_usd,
        }

    def _count_prompt_tokens(self) -> int:
        return tokens.count([self._request.system + self._request.prompt], self._request.model).tokens


def _used_tokens(seen: StreamFacts, written: str) -> bool:
    return bool(written) or seen.prompt_tokens is not None
