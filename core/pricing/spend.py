"""The spend ledger: every call, its user and its cost. For spending by day, person or run, see `spend_history`.

The cost of a request is reserved before it is sent, and settled afterwards: with `record` and `settle` in the caller's
transaction, or with a `Reservation` for single requests (a preview, an evaluation answer, speech). `settle_abandoned`
settles what a killed process left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db import rescue_files
from core.db.spend_totals import MAX_COST
from core.db.store import Store
from core.db.tables import Evaluation, Spend, utcnow
from core.errors import FabulaError, StorageFull
from core.pricing import budget

Page = Literal["dataset", "training", "story", "comparison", "settings", "shadow"]
"""The purpose of a call: a data set, a training job, a story, a before/after comparison, the test of a provider, or a
program's call that the engine relays.
"""

T = TypeVar("T")
# No single request takes that long: a read times out after 10 minutes, but a stream lasts as long as text arrives, and
# 16,000 tokens take an hour on a slow machine. Until then another process may still be receiving the answer.
_MAX_REQUEST = timedelta(hours=1)
_LOOK_BACK = timedelta(days=31)


def record(
    session: Session,
    actor: Actor,
    page: Page,
    *,
    provider: str,
    model: str,
    reference: str,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    cost_usd: Decimal | None = None,
    estimated_usd: Decimal | None = None,
    counted_prompt_tokens: int | None = None,
    counted_completion_tokens: int | None = None,
) -> int:
    """Add one call to the ledger, in the caller's transaction. Returns its id.

    To reserve, pass the worst case as `cost_usd` without token counts before sending, and call `settle` afterwards.

    Args:
        reference: the run, job or story that the call belongs to.
        prompt_tokens, completion_tokens: reported by the provider; if None, the locally counted tokens are used.
        cost_usd: the cost, or the worst case of a reservation; None if unknown, which makes sums unknown too.
        estimated_usd: the estimate; for a reservation, the worst case by default.
        counted_prompt_tokens, counted_completion_tokens: counted locally, saved in addition.

    Raises:
        OverBudget: the reservation would exceed a budget; nothing is written.
    """
    tokens = (prompt_tokens, completion_tokens, counted_prompt_tokens, counted_completion_tokens)
    reserves = page != "training" and cost_usd is not None and all(count is None for count in tokens)
    if reserves:
        budget.check(session, actor, cost_usd, reference)
    row = Spend(
        actor=actor.id,
        page=page,
        provider=provider,
        model=model,
        reference=reference,
        sent_at=utcnow(),
        prompt_tokens=_reported(prompt_tokens, counted_prompt_tokens),
        completion_tokens=_reported(completion_tokens, counted_completion_tokens),
        cost_usd=cost_usd,
        estimated_usd=cost_usd if reserves and estimated_usd is None else estimated_usd,
        counted_prompt_tokens=counted_prompt_tokens,
        counted_completion_tokens=counted_completion_tokens,
    )
    session.add(row)
    session.flush()
    return row.id


def settle(
    session: Session,
    spend_id: int,
    *,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    cost_usd: Decimal | None,
    counted_prompt_tokens: int | None = None,
    counted_completion_tokens: int | None = None,
) -> None:
    """Replace a reservation with the actual tokens and cost. The estimate is kept."""
    row = session.get_one(Spend, spend_id)
    row.prompt_tokens = _reported(prompt_tokens, counted_prompt_tokens)
    row.completion_tokens = _reported(completion_tokens, counted_completion_tokens)
    row.cost_usd = cost_usd
    row.counted_prompt_tokens, row.counted_completion_tokens = counted_prompt_tokens, counted_completion_tokens


def _reported(by_provider: int | None, by_us: int | None) -> int | None:
    return by_us if by_provider is None else by_provider


class Reservation:
    """A spend ledger entry for one attempt of one request.

    Args:
        worst_usd: worst-case cost; None if the price is unknown, which budgets reject.

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
            self._id = record(
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
        case counts (`cost_usd` is None, `estimated_usd` unchanged).

        Raises:
            StorageFull: the database can't be written; the entry is in a rescue file.
        """
        if getattr(error, "may_be_billed", not isinstance(error, FabulaError)):
            self.settle(None, None, None)
        else:
            self.cancel()

    def cancel(self) -> None:
        """Delete the entry of a request that is certainly not billed.

        Raises:
            StorageFull: the database can't be written; the entry is in a rescue file.
        """
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
        settle(session, self._id, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost_usd)

    def rescue_entry(
        self, prompt_tokens: int | None, completion_tokens: int | None, cost_usd: Decimal | None
    ) -> dict[str, Any]:
        """The entry in the format of a rescue file (see `core.jobs.recovery`)."""
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "cost_usd": cost_usd}
        return {"id": self._id, **self._values, **usage}


def unsettled_usd(session: Session, *lines: ColumnElement[bool]) -> Decimal:
    """The part of the ledger lines that counts against budgets but is not known to be spent: reservations of requests
    and jobs in progress, and unknown costs with their worst case."""
    unsettled = Spend.cost_usd.is_(None) | (Spend.prompt_tokens.is_(None) & Spend.completion_tokens.is_(None))
    query = select(MAX_COST, func.count()).where(unsettled, *lines).group_by(MAX_COST)
    return sum((usd * count for usd, count in session.execute(query) if usd is not None), Decimal(0))


def settle_abandoned(session: Session, now: datetime) -> int:
    """Settle reservations of previews, stories, speech, provider tests and evaluation answers of killed processes.

    The requests may have been billed: their cost becomes unknown and counts as the reserved amount. If such a request
    is still running, its own settlement replaces this one. Runs, batches and training jobs have their own rules.

    Returns:
        The number of settled reservations.
    """
    by_page = Spend.page.in_(("story", "comparison", "settings"))
    single = by_page | (Spend.reference == budget.PREVIEW) | Spend.reference.in_(select(Evaluation.id))
    unsettled = (Spend.prompt_tokens.is_(None), Spend.completion_tokens.is_(None), Spend.cost_usd.is_not(None))
    before = now - _MAX_REQUEST
    query = select(Spend).where(Spend.created_at.between(before - _LOOK_BACK, before), *unsettled, single)
    # an entry that is locked is being settled at this moment, so it is not abandoned
    locked = query.with_for_update(of=Spend, skip_locked=True)
    entries = [entry for entry in session.scalars(locked) if entry.cost_usd]
    for entry in entries:
        entry.cost_usd = None
    return len(entries)
