"""What a story costs: reserved before it is sent, within the budgets, and settled when it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from core.actor import Actor
from core.cost import budget, spend, tokens
from core.cost.book import PriceBook, cost_of
from core.db.store import Store
from core.db.tables import Spend
from core.errors import FabulaError, Refused
from core.providers import CompletionRequest, StreamFacts
from core.story.facts import same_model
from core.text import storable

LONGEST_NAME = 200  # characters of a model's name that the tables take


@dataclass(frozen=True, slots=True)
class Bill:
    """What one request took: `counted` tokens where the endpoint gave no number; `cost_usd` None where unknown."""

    counted: int | None
    cost_usd: Decimal | None


class Till:
    """The money of one request."""

    def __init__(
        self, store: Store, actor: Actor, book: PriceBook, provider: str, request: CompletionRequest, reference: str
    ) -> None:
        self._store, self._actor, self._book = store, actor, book
        self._provider, self._request, self._reference = provider, request, reference
        self._spend_id: int | None = None

    def reserve(self) -> None:
        """Before anything is sent: the worst case, where it costs anything.

        Raises:
            OverBudget: it would go over a budget.
            Refused: a viewer without a budget.
        """
        price = self._book.find(self._provider, self._request.model)
        if price is not None and price.local:
            return
        worst = cost_of(self._book, self._provider, self._request.model, self._read(), self._request.max_tokens)
        with self._store.session() as session:
            ref, who = self._reference, self._actor
            if who.role == "viewer" and budget.left_in(session, who, ref) is None:
                raise Refused(
                    "Visitors may write with a paid model only within a budget, and there is none.",
                    "Choose a model of this machine, or have a budget set on the cost page.",
                )
            if worst is None:
                budget.check(session, who, None, ref)
                return
            self._spend_id = spend.record(
                session, who, "story", provider=self._provider, model=self._request.model, reference=ref, cost_usd=worst
            )

    def bill(self, seen: StreamFacts, written: str, error: FabulaError | None = None) -> Bill:
        """At the end: by our own count where the stream ended before the endpoint gave its own.

        Unknown where something was written that cannot be counted: thinking, or an answer that never arrived.
        """
        counted = tokens.count([written], self._request.model).tokens if seen.tokens is None and written else None
        if not _took(seen, written):
            return Bill(counted, None if _may_be_billed(seen, error) else Decimal(0))
        read = self._read() if seen.prompt_tokens is None else seen.prompt_tokens
        wrote = counted if seen.tokens is None and not seen.thought else seen.tokens
        cached = seen.cached_tokens
        cost = cost_of(self._book, self._provider, seen.model, read, wrote, cached_tokens=cached)
        if cost is None and same_model(self._request.model, seen.model):
            cost = cost_of(self._book, self._provider, self._request.model, read, wrote, cached_tokens=cached)
        return Bill(counted, cost)

    def settle(self, seen: StreamFacts, written: str, bill: Bill, error: FabulaError | None = None) -> None:
        """The call into the ledger; one that was refused before its first word took nothing.

        What may be billed, and whose cost is unknown, goes on counting as what was reserved.
        """
        took = _took(seen, written) or _may_be_billed(seen, error)
        model = storable(seen.model)[:LONGEST_NAME]
        with self._store.session() as session:
            if self._spend_id is None:
                if took:
                    spend.record(
                        session, self._actor, "story", provider=self._provider, model=model, reference=self._reference,
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

    def _read(self) -> int:
        return tokens.count([self._request.system + self._request.prompt], self._request.model).tokens


def _took(seen: StreamFacts, written: str) -> bool:
    return bool(written) or seen.prompt_tokens is not None


def _may_be_billed(seen: StreamFacts, error: FabulaError | None) -> bool:
    """Whether the endpoint had begun to answer, or nothing says that it had not."""
    return seen.begun or getattr(error, "may_be_billed", False)
