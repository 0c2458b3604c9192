"""The SQL of batch runs, outward: rows go into a batch, which owns them (`Row.batch_id`, state `sent`) from then on.

A batch has one line in the spend ledger. It is written with the batch, holds the worst that its rows may cost while
they are away (`Batch.spend_id`). The way back is `batch_books`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.dataset.generation import run_budget, run_store
from core.dataset.generation.run_store import RunContext
from core.dataset.grid_store import CHUNK, fill
from core.db.store import Store
from core.db.tables import Batch, Row, Run, Spend, utcnow

OVER = ("done", "failed", "cancelled")
_EMPTY = ("reason", "text", "finish_reason", "prompt_tokens", "completion_tokens", "cost_usd", "claimed_by")


@dataclass(frozen=True, slots=True)
class BatchView:
    """One batch. `state` is ours (preparing, submitting, waiting, collecting, done, failed, cancelled), `status` the
    provider's word, None before it has one. `completed` and `failed` count its rows as the provider tells them, and
    as they came once it is over; `reason` says why it failed."""

    id: str
    run_id: str
    state: str
    status: str | None
    reason: str | None
    input_file: str | None
    remote_id: str | None
    output_file: str | None
    error_file: str | None
    total: int
    completed: int
    failed: int
    created_at: datetime
    updated_at: datetime

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A row in a batch, as its line is made from it."""

    row_id: int
    key: str
    prompt: str


@dataclass(frozen=True, slots=True)
class BatchCapacity:
    """What may still go into a batch. `usd` None: no budget."""

    requests: int
    size_bytes: int
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """What went into a batch. `more`: pending rows are left that found no room; `over_budget`: for want of money."""

    requests: int = 0
    size_bytes: int = 0
    usd: Decimal = Decimal(0)
    more: bool = False
    over_budget: bool = False


def begin(store: Store, run_id: str) -> RunContext | None:
    """Take a batch run in hand; None when there is nothing (more) to do for it.

    A live run is taken in hand too: batches that earlier runs have left with the provider are collected first.

    Raises:
        NotFound: no such run.
        BadRecipe: its data set has no recipe, or one that cannot be run.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        if run.state not in ("queued", "running", "stopping", "pausing"):
            return None
        context = run_store.start_run(session, run)
        over = select(Batch.id).where(Batch.state.in_(OVER))
        lost = update(Row).where(Row.dataset_id == run.dataset_id, Row.state == "sent", Row.batch_id.in_(over))
        session.execute(lost.values(state="pending", batch_id=None, updated_at=utcnow()))
        return context


def open_batches(session: Session, dataset_id: str) -> list[BatchView]:
    """Batches of a data set that are not over, of earlier runs too, oldest first: what they write is paid for."""
    query = select(Batch).join(Run, Run.id == Batch.run_id).where(Run.dataset_id == dataset_id)
    return [_view(batch) for batch in session.scalars(query.where(Batch.state.not_in(OVER)).order_by(Batch.id))]


def batches_of_run(store: Store, run_id: str) -> tuple[BatchView, ...]:
    """The batches that a run has made, newest first; before them those of earlier runs that it goes on with."""
    with store.reading() as session:
        dataset_id = select(Run.dataset_id).where(Run.id == run_id).scalar_subquery()
        mine = (Batch.run_id == run_id) | (Batch.state.not_in(OVER) & (Run.dataset_id == dataset_id))
        query = select(Batch).join(Run, Run.id == Batch.run_id).where(mine).order_by(Batch.id.desc())
        return tuple(_view(batch) for batch in session.scalars(query))


def _view(batch: Batch) -> BatchView:
    return BatchView(**{name: getattr(batch, name) for name in BatchView.__dataclass_fields__})


# --- rows go into a batch -------------------------------------------------------------------------------------------


def claim(
    session: Session,
    context: RunContext,
    batch_id: str,
    room: BatchCapacity,
    size_of: Callable[[BatchRow], int],
    worst: Callable[[str], Decimal | None],
) -> ClaimedBatch:
    """Put the next pending rows, up to `CHUNK`, into the batch, as far as there is room; make it if it is new.

    Args:
        size_of: bytes of a row's line.
        worst: what a prompt costs at most, None where the price is unknown.
    """
    own = run_store.lock_controls(session, context.run_id).own
    left = run_budget.smaller(room.usd, run_budget.page_remaining(session, context, worst("")))
    pending = _pending(session, context, min(CHUNK, room.requests + 1), own)
    ids: list[int] = []
    size, usd, over_budget = 0, Decimal(0), False
    for sent in pending[: room.requests]:
        cost, bytes_ = worst(sent.prompt), size_of(sent)
        over_budget = left is not None and cost is not None and usd + cost > left
        if over_budget or (ids and size + bytes_ > room.size_bytes):  # a line alone always fits: limits have a margin
            break
        ids.append(sent.row_id)
        size, usd = size + bytes_, usd + (cost or Decimal(0))
    if ids:
        _enter(session, context, batch_id, ids, usd if worst("") is not None else None)
    return ClaimedBatch(len(ids), size, usd, more=len(pending) > len(ids), over_budget=over_budget)


def _pending(session: Session, context: RunContext, most: int, own: bool) -> list[BatchRow]:
    """Rows that wait for this run, in their order; the grid is filled as far as it takes to find `most`."""
    query = (
        select(Row.id, Row.key, Row.prompt)
        .where(*run_store.waiting(context.dataset_id, context.run_id, own))
        .order_by(Row.updated_at, Row.id)  # as the index has them: nothing is sorted
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    found = session.execute(query).all()
    while not own and len(found) < most and fill(session, context.dataset_id, context.recipe):
        found = session.execute(query).all()
    return [BatchRow(*row) for row in found]


def _enter(session: Session, context: RunContext, batch_id: str, row_ids: Sequence[int], worst: Decimal | None) -> None:
    batch = session.get(Batch, batch_id)
    if batch is None:
        reserved = Spend(
            actor=context.actor.id,
            page="dataset",
            provider=context.provider,
            model=context.model,
            reference=context.run_id,
            cost_usd=worst,
            estimated_usd=worst,
        )
        session.add(reserved)
        session.flush()
        batch = Batch(id=batch_id, run_id=context.run_id, spend_id=reserved.id, created_at=reserved.at, total=0)
        session.add(batch)
    elif (spend := spend_of(session, batch)) is not None and worst is not None:
        spend.cost_usd = spend.estimated_usd = (spend.cost_usd or Decimal(0)) + worst
    batch.total += len(row_ids)
    batch.updated_at = utcnow()
    taken = update(Row).where(Row.id.in_(row_ids))
    values = {"state": "sent", "run_id": context.run_id, "batch_id": batch_id, "updated_at": utcnow()}
    session.execute(taken.values({**dict.fromkeys(_EMPTY), **values}))


def rows_of(store: Store, batch_id: str) -> Iterator[BatchRow]:
    """The rows of a batch that are on their way, in the order of its lines; a thousand at a time."""
    last = 0
    query = select(Row.id, Row.key, Row.prompt).where(Row.batch_id == batch_id, Row.state == "sent")
    while True:
        with store.reading() as session:
            found = session.execute(query.where(Row.id > last).order_by(Row.id).limit(CHUNK)).all()
        yield from (BatchRow(*row) for row in found)
        if len(found) < CHUNK:
            return
        last = found[-1][0]


def count_failed(store: Store, batch_id: str, reason: str) -> int:
    """How many rows of a batch have failed for exactly this reason."""
    mine = (Row.batch_id == batch_id, Row.state == "failed", Row.reason.in_([reason, str.__str__(reason)]))
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(Row).where(*mine)) or 0


def update_batch(store: Store, batch_id: str, **values: Any) -> None:
    """Set columns of a batch, durably."""
    with store.session() as session:
        session.execute(update(Batch).where(Batch.id == batch_id).values(**{"updated_at": utcnow(), **values}))


def spend_of(session: Session, batch: Batch) -> Spend | None:
    """The batch's line of the spend ledger; None where the batch cost nothing."""
    return None if batch.spend_id is None else session.get(Spend, batch.spend_id)
