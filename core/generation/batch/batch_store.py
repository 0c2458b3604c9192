"""The SQL for batches: puts rows into a batch, and writes its answers and their cost back to the rows.

The batch owns its rows (`Row.batch_id`, state `sent`) until it is settled. It has one entry in the spend ledger
(`Batch.spend_id`), which is created with the batch, reserves the worst-case cost of its rows, and is settled with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from core.datasets.grid_store import CHUNK, fill
from core.db.store import Store
from core.db.tables import Batch, Row, Run, Spend, utcnow
from core.generation import run_budget, run_store
from core.generation.batch.batch_results import BatchOutcome
from core.generation.row_store import RowResult
from core.generation.run_store import RunContext
from core.providers.account import Account

OVER = ("done", "failed", "cancelled")
_WITH_RUN = select(Batch, Run.provider, Run.model).join(Run, Run.id == Batch.run_id)
_RESULT_COLUMNS = ("reason", "text", "finish_reason", "prompt_tokens", "completion_tokens", "cost_usd", "claimed_by")


@dataclass(frozen=True, slots=True)
class BatchView:
    """One batch.

    Attributes:
        provider, model: those of its run, which can be an earlier one with other settings.
        state: preparing, submitting, waiting, collecting, done, failed or cancelled.
        remote_status: the provider's status; None before there is one.
        reason: why the batch failed.
        completed, failed: numbers of rows by result, as counted by the provider; the actual numbers once the batch is
            over.
        submitted: the account that has it.
        stranded: its provider now uses another account.
    """

    id: str
    run_id: str
    provider: str
    model: str
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
    submitted: Account
    stranded: bool

    @property
    def over(self) -> bool:
        """Whether the batch has reached a final state."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A row's data that is needed for its request line."""

    row_id: int
    key: str
    prompt: str


@dataclass(frozen=True, slots=True)
class BatchCapacity:
    """How much may still be added to a batch. `usd` is None without a budget."""

    requests: int
    size_bytes: int
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """What was added to a batch. `more`: whether pending rows did not fit; `over_budget`: whether the budget was the
    reason.
    """

    requests: int = 0
    size_bytes: int = 0
    usd: Decimal = Decimal(0)
    more: bool = False
    over_budget: bool = False


def begin(store: Store, run_id: str) -> RunContext | None:
    """Start or resume a batch run. None if there is nothing to do for it.

    A live run is started too: batches from earlier runs that are still at the provider are collected first.

    Raises:
        NotFound: the run does not exist.
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
    """Unfinished batches of a data set, including those from earlier runs (which are paid for), oldest first."""
    query = _WITH_RUN.where(Run.dataset_id == dataset_id, Batch.state.not_in(OVER)).order_by(Batch.id)
    return [_view(*found) for found in session.execute(query)]


def batches_of_run(store: Store, run_id: str) -> tuple[BatchView, ...]:
    """A run's batches, and unfinished ones from earlier runs that it collects, newest first."""
    with store.reading() as session:
        dataset_id = select(Run.dataset_id).where(Run.id == run_id).scalar_subquery()
        condition = (Batch.run_id == run_id) | (Batch.state.not_in(OVER) & (Run.dataset_id == dataset_id))
        query = _WITH_RUN.where(condition).order_by(Batch.id.desc())
        return tuple(_view(*found) for found in session.execute(query))


def _view(batch: Batch, provider: str, model: str) -> BatchView:
    submitted = Account(batch.submitted_to, batch.account)
    more: dict[str, Any] = {"provider": provider, "model": model, "submitted": submitted}
    more["stranded"] = batch.stranded_at is not None
    own = (name for name in BatchView.__dataclass_fields__ if name not in more)
    return BatchView(**more, **{name: getattr(batch, name) for name in own})


# --- claiming rows --------------------------------------------------------------------------------------------------


def claim(
    session: Session,
    context: RunContext,
    batch_id: str,
    capacity: BatchCapacity,
    size_of: Callable[[BatchRow], int],
    worst_case: Callable[[str], Decimal | None],
) -> ClaimedBatch:
    """Add the next pending rows, up to `CHUNK`, to the batch as far as its capacity allows.

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
        if over_budget or (ids and size_bytes + row_bytes > capacity.size_bytes):  # the first line always fits
            break
        ids.append(row.row_id)
        size_bytes, usd = size_bytes + row_bytes, usd + (cost or Decimal(0))
    if ids:
        _add_rows(session, context, batch_id, ids, usd if worst_case("") is not None else None)
    return ClaimedBatch(len(ids), size_bytes, usd, more=len(pending) > len(ids), over_budget=over_budget)


def _pending_rows(session: Session, context: RunContext, limit: int, failed_only: bool) -> list[BatchRow]:
    """This run's pending rows, in order. The grid is filled as far as needed to find `limit` rows."""
    query = (
        select(Row.id, Row.key, Row.prompt)
        .where(*run_store.pending_conditions(context.dataset_id, context.run_id, failed_only))
        .order_by(Row.updated_at, Row.id)  # follows the index, so no sorting is needed
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
    """A batch's unsettled rows, in the order of its lines, read in chunks of `CHUNK`."""
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
    """The number of rows in a batch that failed for exactly this reason."""
    conditions = (Row.batch_id == batch_id, Row.state == "failed", Row.reason.in_([reason, str.__str__(reason)]))
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(Row).where(*conditions)) or 0


def update_batch(store: Store, batch_id: str, **values: Any) -> None:
    """Set columns of a batch, durably."""
    with store.session() as session:
        session.execute(update(Batch).where(Batch.id == batch_id).values(**{"updated_at": utcnow(), **values}))


def spend_of(session: Session, batch: Batch) -> Spend | None:
    """The batch's spend ledger entry; None if the batch cost nothing."""
    return None if batch.spend_id is None else session.get(Spend, batch.spend_id)


def settle(
    session: Session,
    dataset_id: str,
    batch_id: str,
    outcomes: Sequence[BatchOutcome],
    worst_case: Callable[[str], Decimal | None],
) -> None:
    """Write results in one transaction. Rows that are already settled, or not in this batch, stay as they are.

    Args:
        worst_case: maximum cost of a prompt in US dollars, None if the price is unknown.
    """
    table, now = Row.__table__.c, utcnow()
    conditions = (table.dataset_id == dataset_id, table.batch_id == batch_id, table.state == "sent")
    statement = update(Row.__table__).where(*conditions, table.key == bindparam("row"))  # type: ignore[arg-type]  # a Table
    settled = [o for o in outcomes if o.result.state != "pending"]
    if settled:
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in RowResult._fields}
        rows = [{"row": o.key, **{f"new_{name}": value for name, value in o.result._asdict().items()}} for o in settled]
        session.execute(statement.values(values | {"updated_at": now}), rows)
    released = [{"row": o.key} for o in outcomes if o.result.state == "pending"]
    if released:
        lost = [o.key for o in outcomes if o.result.state == "pending" and o.may_be_billed]
        prompts = session.scalars(select(Row.prompt).where(*conditions, table.key.in_(lost))).all() if lost else ()
        _book_lost(session, batch_id, [worst_case(prompt) for prompt in prompts])
        session.execute(statement.values(state="pending", batch_id=None, updated_at=now), released)


def _book_lost(session: Session, batch_id: str, costs: Sequence[Decimal | None]) -> None:
    """Record the cost of requests that may be billed but produced no answer, and whose rows leave the batch to be sent
    again.

    They get their own spend ledger entry with an unknown cost, which counts at its maximum. The amount reserved by the
    batch's entry is reduced accordingly.
    """
    reserved = spend_of(session, session.get_one(Batch, batch_id)) if costs else None
    if reserved is None:
        return
    usd = run_budget.total_usd(costs)
    same = ("created_at", "actor", "page", "provider", "model", "reference")
    shared = {name: getattr(reserved, name) for name in same}
    session.add(Spend(**shared, cost_usd=None, estimated_usd=usd))
    if usd is not None and reserved.cost_usd is not None:
        reserved.cost_usd = reserved.estimated_usd = max(Decimal(0), reserved.cost_usd - usd)


def close(
    session: Session,
    batch_id: str,
    state: str,
    worst_case: Callable[[str], Decimal | None],
    reason: str | None = None,
    *,
    unknown: bool = False,
) -> None:
    """Finish a batch: rows without an answer become pending again, and its spend ledger entry gets the actual cost.

    If the cost is unknown, the entry keeps an estimate: the maximum cost.

    Args:
        state: done, failed or cancelled.
        worst_case: maximum cost of a prompt in US dollars, None if the price is unknown.
        reason: why the batch failed.
        unknown: whether it is unknown what the provider has generated and will bill.
    """
    batch = session.get_one(Batch, batch_id, with_for_update=True)
    if batch.state in OVER:
        return
    released = update(Row).where(Row.batch_id == batch_id, Row.state == "sent")
    session.execute(released.values(state="pending", batch_id=None, updated_at=utcnow()))
    tokens, cost, counts = _usage(session, batch_id)
    batch.completed, batch.failed = counts.get("done", 0), sum(counts.values()) - counts.get("done", 0)
    batch.state, batch.reason, batch.updated_at = state, reason, utcnow()
    spend = spend_of(session, batch)
    if spend is None:
        return
    if unknown:
        spend.prompt_tokens, spend.completion_tokens, spend.cost_usd = None, None, None
    elif not _was_executed(session, batch_id):
        batch.spend_id = None
        session.delete(spend)
    else:
        (spend.prompt_tokens, spend.completion_tokens), spend.cost_usd = tokens, cost
        if cost is None:
            spend.estimated_usd = _max_cost(session, batch_id, worst_case)


def _max_cost(session: Session, batch_id: str, worst_case: Callable[[str], Decimal | None]) -> Decimal | None:
    """The maximum cost of a batch's settled rows; None if the price is unknown."""
    rows = session.execute(select(Row.prompt, Row.cost_usd).where(Row.batch_id == batch_id))
    costs = [worst_case(prompt) if cost is None else cost for prompt, cost in rows]
    return run_budget.total_usd(costs)


def _was_executed(session: Session, batch_id: str) -> bool:
    """Whether the model processed at least one row. Refused rows use no tokens and are not billed."""
    refused = (Row.prompt_tokens == 0) & (Row.completion_tokens == 0)
    unknown = Row.prompt_tokens.is_(None) | Row.completion_tokens.is_(None)
    query = select(Row.id).where(Row.batch_id == batch_id, unknown | ~refused).limit(1)
    return session.scalar(query) is not None


def _usage(session: Session, batch_id: str) -> tuple[tuple[int, int], Decimal | None, dict[str, int]]:
    """Tokens, cost and states of the settled rows. SQL groups equal amounts; Python adds them up."""
    query = (
        select(Row.state, Row.cost_usd, func.count(), func.sum(Row.prompt_tokens), func.sum(Row.completion_tokens))
        .where(Row.batch_id == batch_id)
        .group_by(Row.state, Row.cost_usd)
    )
    prompt, completion, cost, unknown = 0, 0, Decimal(0), False
    counts: dict[str, int] = {}
    for state, row_cost, rows, prompt_tokens, completion_tokens in session.execute(query):
        prompt, completion = prompt + int(prompt_tokens or 0), completion + int(completion_tokens or 0)
        cost, unknown = cost + (row_cost or Decimal(0)) * rows, unknown or row_cost is None
        counts[state] = counts.get(state, 0) + rows
    return (prompt, completion), None if unknown else cost, counts
