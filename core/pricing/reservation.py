"""Reserves the cost of a single request (a preview, an evaluation answer, speech) before it is sent, and settles it
afterwards. `settle_abandoned` settles what a killed process left behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from core.actor import Actor
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import Evaluation, Spend
from core.errors import FabulaError, StorageFull
from core.pricing import budget, spend
from core.pricing.spend import Page

T = TypeVar("T")
_MAX_REQUEST = timedelta(hours=1)  # no single request takes that long
_LOOK_BACK = timedelta(days=31)


class Reservation:
    """A spend ledger entry for one attempt of one request.

    Args:
        worst_usd: worst-case cost; None: the price is unknown, which budgets reject.

    Raises:
        OverBudget: it would exceed a budget; nothing is written.
        StorageFull: the database can't be written; the request must not be sent.
    """

    def __init__(
        self,
        store: Store,
        actor: Actor,
        page: Page,
        *,
        provider: str,
        model: str,
        reference: str,
        worst_usd: Decimal | None,
    ) -> None:
        self._store = store
        self._values: dict[str, Any] = {
            "actor": actor.id, "page": page, "provider": provider, "model": model, "reference": reference,
            "estimated_usd": worst_usd,
        }  # fmt: skip
        with store.session() as session:
            budget.check(session, actor, worst_usd, reference)
            self._id = spend.record(
                session, actor, page, provider=provider, model=model, reference=reference,
                cost_usd=worst_usd, estimated_usd=worst_usd,
            )  # fmt: skip

    def call(self, request: Callable[[], T]) -> T:
        """Call `request()` once. If it raises, the reservation ends; see `failed`."""
        try:
            return request()
        except BaseException as exc:
            with suppress(StorageFull):  # saved in a rescue file; the original error is more important
                self.failed(exc)
            raise

    def failed(self, error: BaseException) -> None:
        """End the reservation of a failed request.

        If the request was rejected or never arrived, the entry is deleted. Otherwise its cost is unknown and its worst
        case counts (`cost_usd` None, `estimated_usd` unchanged).

        Raises:
            StorageFull: the database can't be written; the entry is in a rescue file.
        """
        if getattr(error, "may_be_billed", not isinstance(error, FabulaError)):
            self.settle(None, None, None)
            return
        entry = {"kind": "spend", "spend": self.rescue_entry(0, 0, Decimal(0))}
        rescue_files.write_or_rescue(
            self._store, lambda session: session.delete(session.get_one(Spend, self._id)), entry
        )

    def settle(self, prompt_tokens: int | None, completion_tokens: int | None, cost_usd: Decimal | None) -> None:
        """Record the actual tokens and cost.

        Raises:
            StorageFull: the database can't be written; the entry is in a rescue file.
        """
        usage = (prompt_tokens, completion_tokens, cost_usd)
        entry = {"kind": "spend", "spend": self.rescue_entry(*usage)}
        rescue_files.write_or_rescue(self._store, lambda session: self.settle_in(session, *usage), entry)

    def settle_in(
        self,
        session: Session,
        prompt_tokens: int | None,
        completion_tokens: int | None,
        cost_usd: Decimal | None,
    ) -> None:
        """Like `settle`, in the caller's transaction."""
        spend.settle(
            session, self._id, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost_usd
        )

    def rescue_entry(
        self, prompt_tokens: int | None, completion_tokens: int | None, cost_usd: Decimal | None
    ) -> dict[str, Any]:
        """The entry in the format of a rescue file (see `core.jobs.recovery`)."""
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "cost_usd": cost_usd}
        return {"id": self._id, **self._values, **usage}


def settle_abandoned(session: Session, now: datetime) -> int:
    """Settle reservations of previews, stories and evaluation answers whose process was killed; returns their number.

    The requests may have been billed: their cost becomes unknown and counts as the reserved amount. If such a request
    is still running, its own settlement replaces this one. Runs, batches and training jobs have their own rules.
    """
    other = aliased(Spend)
    # speech has no tokens either, but shares the reference of its story, which has an entry of its own
    alone = ~select(other.id).where(other.reference == Spend.reference, other.id != Spend.id).exists()
    unfinished_story = Spend.page.in_(("story", "comparison")) & alone
    single = unfinished_story | (Spend.reference == budget.PREVIEW) | Spend.reference.in_(select(Evaluation.id))
    unsettled = (Spend.prompt_tokens.is_(None), Spend.completion_tokens.is_(None), Spend.cost_usd.is_not(None))
    before = now - _MAX_REQUEST
    query = select(Spend).where(Spend.at.between(before - _LOOK_BACK, before), *unsettled, single)
    locked = query.with_for_update(of=Spend, skip_locked=True)  # what is being settled at this moment is not abandoned
    entries = [entry for entry in session.scalars(locked) if entry.cost_usd]
    for entry in entries:
        entry.cost_usd = None
    return len(entries)
