"""What a story costs: reserved before it is sent, within the budgets, and settled when it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import budget, spend, tokens
from core.cost.price_book import PriceBook, cost_of
from core.db.store import Store
from core.db.tables import Spend
from core.errors import Refused
from core.message import msg
from core.providers import CompletionRequest, StreamFacts
from core.sanitize import storable
from core.story.story_facts import same_model

LONGEST_NAME = 200  # characters of a model's name that the tables take


@dataclass(frozen=True, slots=True)
class Bill:
    """What one request took: `counted` tokens where the endpoint gave no number; `cost_usd` None where unknown."""

    counted: int | None
    cost_usd: Decimal | None


class StoryBilling:
    """The money of one request."""

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
        self._worst: Decimal | None = None

    def reserve(self) -> None:
        """Before anything is sent: the worst case, where it costs anything.

        Raises:
            OverBudget: it would go over a budget.
            Refused: a viewer without a budget.
        """
        if self._free:
            return
        worst = cost_of(self._book, self._provider, self._request.model, self._read(), self._request.max_tokens)
        self._worst = worst
        with self._store.session() as session:
            ref, who = self._reference, self._actor
            if who.role == "viewer" and budget.remaining_in(session, who, ref) is None:
                raise Refused(
                    msg("Visitors may write with a paid model only within a budget, and there is none."),
                    msg("Choose a model on this machine, or ask an admin to set a budget on the cost page."),
                )
            if worst is None:
                budget.check(session, who, None, ref)
                return
            self._spend_id = spend.record(
                session,
                who,
                self._page,
                provider=self._provider,
                model=self._request.model,
                reference=ref,
                cost_usd=worst,
            )

    def bill(self, seen: StreamFacts, written: str, *, unheard: bool = False) -> Bill:
        """At the end: by our own count where the stream ended before the endpoint gave its own.

        `unheard`: the request was sent, and ended before a word came, without an answer that says that it is not
        billed. Then its cost is unknown, as it is where thinking was streamed and never counted.
        """
        counted = tokens.count([written], self._request.model).tokens if seen.tokens is None and written else None
        if not _took(seen, written):
            return Bill(counted, None if (unheard or seen.begun) and not self._free else Decimal(0))
        read = self._read() if seen.prompt_tokens is None else seen.prompt_tokens
        wrote = counted if seen.tokens is None and not seen.thought else seen.tokens  # thinking cannot be counted here
        cached = seen.cached_tokens
        cost = cost_of(self._book, self._provider, seen.model, read, wrote, cached_tokens=cached)
        if cost is None and same_model(self._request.model, seen.model):
            cost = cost_of(self._book, self._provider, self._request.model, read, wrote, cached_tokens=cached)
        return Bill(counted, cost)

    def settle(self, session: Session, seen: StreamFacts, written: str, bill: Bill) -> None:
        """The call into the ledger; one that was refused before its first word took nothing."""
        model = storable(seen.model)[:LONGEST_NAME]
        took = _took(seen, written) or bill.cost_usd is None
        if self._spend_id is None:
            if took:
                spend.record(
                    session, self._actor, self._page, provider=self._provider, model=model, reference=self._reference,
                    prompt_tokens=seen.prompt_tokens, completion_tokens=seen.tokens, cost_usd=bill.cost_usd,
                    counted_completion_tokens=bill.counted,
                )  # fmt: skip
            return
        row = session.get_one(Spend, self._spend_id)
        if not took:
            session.delete(row)
            return
        spend.settle(
            session, row.id, prompt_tokens=seen.prompt_tokens, completion_tokens=seen.tokens,
            cost_usd=bill.cost_usd, counted_completion_tokens=bill.counted,
        )  # fmt: skip
        row.model = model

    def entry(self, seen: StreamFacts, bill: Bill) -> dict[str, Any]:
        """The call as a rescue file has it (see `core.recovery`)."""
        return {
            "id": self._spend_id,
            "actor": self._actor.id,
            "page": self._page,
            "provider": self._provider,
            "model": storable(seen.model)[:LONGEST_NAME],
            "reference": self._reference,
            "prompt_tokens": seen.prompt_tokens,
            "completion_tokens": seen.tokens,
            "counted_completion_tokens": bill.counted,
            "cost_usd": bill.cost_usd,
            "estimated_usd": self._worst,
        }

    def _read(self) -> int:
        return tokens.count([self._request.system + self._request.prompt], self._request.model).tokens


def _took(seen: StreamFacts, written: str) -> bool:
    return bool(written) or seen.prompt_tokens is not None
