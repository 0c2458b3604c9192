"""The SQL that puts rows into a batch. The batch owns its rows (`Row.batch_id`, state `sent`) until it is settled.

A batch has one entry in the spend ledger (`Batch.spend_id`). It is written with the batch and reserves the worst-case
cost of its rows. `batch_settlement` has the SQL for the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.datasets.grid_store import CHUNK, fill
from core.db.store import Store
from core.db.tables import Batch, Row, Run, Spend, utcnow
from core.generation import run_budget, run_store
from core.generation.run_store import RunContext

OVER = ("done", "failed", "cancelled")
_RESULT_COLUMNS = ("reason", "text", "finish_reason", "prompt_tokens", "completion_tokens", "cost_usd", "claimed_by")


@dataclass(frozen=True, slots=True)
class BatchView:
    """One batch.

    Attributes:
        state: preparing, submitting, waiting, collecting, done, failed or cancelled.
        remote_status: the provider's status, None before there is one.
        reason: why the batch failed.
        completed, failed: rows by result, as the provider counts them; the actual numbers once the batch is over.
    """

    id: str
    run_id: str
    state: str
    remote_status: str | None
    reason: str | None
    input_file_id: str | None
    remote_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    total: int
    completed: int
    failed: int
    created_at: datetime
    updated_at: datetime

    @property
    def over(self) -> bool:
        """True if the batch has reached a final state."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class BatchRow:
    """The data of a row that its request line needs."""

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
    """What was put into a batch. `more`: pending rows did not fit; `over_budget`: because of the budget."""

    requests: int = 0
    size_bytes: int = 0
    usd: Decimal = Decimal(0)
    more: bool = False
    over_budget: bool = False


def begin(store: Store, run_id: str) -> RunContext | None:
    """Start or resume a batch run. None when there is nothing to do for it.

    A live run is started too: batches of earlier runs that are still at the provider are collected first.

    Raises:
        NotFound: no such run.
        BadRecipe: the data set has no recipe, or an invalid one.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        if run.state not in ("queued", "running", "stopping", "pausing"):
            return None
        context = run_store.start_run(session, run)
        final = select(Batch.id).where(Batch.state.in_(OVER))
        orphaned = update(Row).where(Row.dataset_id == run.dataset_id, Row.state == "sent", Row.batch_id.in_(final))
        session.execute(orphaned.values(state="pending", batch_id=None, updated_at=utcnow()))
        return context


def open_batches(session: Session, dataset_id: str) -> list[BatchView]:
    """Unfinished batches of a data set, including those of earlier runs (they are paid for), oldest first."""
    query = select(Batch).join(Run, Run.id == Batch.run_id).where(Run.dataset_id == dataset_id)
    return [_view(batch) for batch in session.scalars(query.where(Batch.state.not_in(OVER)).order_by(Batch.id))]


def batches_of_run(store: Store, run_id: str) -> tuple[BatchView, ...]:
    """The batches of a run, and unfinished ones of earlier runs that it collects, newest first."""
    with store.reading() as session:
        dataset_id = select(Run.dataset_id).where(Run.id == run_id).scalar_subquery()
        condition = (Batch.run_id == run_id) | (Batch.state.not_in(OVER) & (Run.dataset_id == dataset_id))
        query = select(Batch).join(Run, Run.id == Batch.run_id).where(condition).order_by(Batch.id.desc())
        return tuple(_view(batch) for batch in session.scalars(query))


def _view(batch: Batch) -> BatchView:
    return BatchView(**{name: getattr(batch, name) for name in BatchView.__dataclass_fields__})


# --- claiming rows --------------------------------------------------------------------------------------------------


def claim(
    session: Session,
    context: RunContext,
    batch_id: str,
    capacity: BatchCapacity,
    size_of: Callable[[BatchRow], int],
    worst_case: Callable[[str], Decimal | None],
) -> ClaimedBatch:
    """Put the next pending rows, up to `CHUNK`, into the batch as far as its capacity allows.

    Creates the batch if needed.

    Args:
        size_of: size of a row's request line in bytes.
        worst_case: maximum cost of a prompt in US dollars, None if the price is unknown.
    """
    failed_only = run_store.lock_controls(session, context.run_id).failed_only
    remaining_usd = run_budget.min_limit(capacity.usd, run_budget.page_remaining(session, context, worst_case("")))
    pending = _pending_rows(session, context, min(CHUNK, capacity.requests + 1), failed_only)
    ids: list[int] = []
    size_bytes, usd, over_budget = 0, Decimal(0), False
    for row in pending[: capacity.requests]:
        cost, row_bytes = worst_case(row.prompt), size_of(row)
        over_budget = remaining_usd is not None and cost is not None and usd + cost > remaining_usd
        if over_budget or (ids and size_bytes + row_bytes > capacity.size_bytes):  # one line always fits
            break
        ids.append(row.row_id)
        size_bytes, usd = size_bytes + row_bytes, usd + (cost or Decimal(0))
    if ids:
        _add_rows(session, context, batch_id, ids, usd if worst_case("") is not None else None)
    return ClaimedBatch(len(ids), size_bytes, usd, more=len(pending) > len(ids), over_budget=over_budget)


def _pending_rows(session: Session, context: RunContext, limit: int, failed_only: bool) -> list[BatchRow]:
    """Pending rows for this run, in order. The grid is filled as far as needed to find `limit` rows."""
    query = (
        select(Row.id, Row.key, Row.prompt)
        .where(*run_store.pending_conditions(context.dataset_id, context.run_id, failed_only))
        .order_by(Row.updated_at, Row.id)  # the order of the index: no sorting
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = session.execute(query).all()
    while not failed_only and len(rows) < limit and fill(session, context.dataset_id, context.recipe):
        rows = session.execute(query).all()
    return [BatchRow(*row) for row in rows]


def _add_rows(
    session: Session, context: RunContext, batch_id: str, row_ids: Sequence[int], usd: Decimal | None
) -> None:
    batch = session.get(Batch, batch_id)
    if batch is None:
        reserved = Spend(
            actor=context.actor.id,
            page="dataset",
            provider=context.provider,
            model=context.model,
            reference=context.run_id,
            cost_usd=usd,
            estimated_usd=usd,
        )
        session.add(reserved)
        session.flush()
        batch = Batch(id=batch_id, run_id=context.run_id, spend_id=reserved.id, created_at=reserved.created_at, total=0)
        session.add(batch)
    elif (spend := spend_of(session, batch)) is not None and usd is not None:
        spend.cost_usd = spend.estimated_usd = (spend.cost_usd or Decimal(0)) + usd
    batch.total += len(row_ids)
    batch.updated_at = utcnow()
    statement = update(Row).where(Row.id.in_(row_ids))
    values = {"state": "sent", "run_id": context.run_id, "batch_id": batch_id, "updated_at": utcnow()}
    session.execute(statement.values({**dict.fromkeys(_RESULT_COLUMNS), **values}))


def rows_of(store: Store, batch_id: str) -> Iterator[BatchRow]:
    """The unsettled rows of a batch, in the order of its lines, read in chunks of `CHUNK`."""
    last = 0
    query = select(Row.id, Row.key, Row.prompt).where(Row.batch_id == batch_id, Row.state == "sent")
    while True:
        with store.reading() as session:
            rows = session.execute(query.where(Row.id > last).order_by(Row.id).limit(CHUNK)).all()
        yield from (BatchRow(*row) for row in rows)
        if len(rows) < CHUNK:
            return
        last = rows[-1][0]


def count_failed(store: Store, batch_id: str, reason: str) -> int:
    """The number of rows of a batch that failed for exactly this reason."""
    conditions = (Row.batch_id == batch_id, Row.state == "failed", Row.reason.in_([reason, str.__str__(reason)]))
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(Row).where(*conditions)) or 0


def update_batch(store: Store, batch_id: str, **values: Any) -> None:
    """Set columns of a batch, durably."""
    with store.session() as session:
        session.execute(update(Batch).where(Batch.id == batch_id).values(**{"updated_at": utcnow(), **values}))


def spend_of(session: Session, batch: Batch) -> Spend | None:
    """The spend ledger entry of the batch. None if the batch cost nothing."""
    return None if batch.spend_id is None else session.get(Spend, batch.spend_id)
