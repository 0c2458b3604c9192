"""How far runs are: the ledger's figures, for pages to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.dataset import failed_rows, grid_store
from core.dataset.failed_rows import FailedRows
from core.dataset.generation.concurrency import ceiling
from core.dataset.generation.run_store import FAILED_ONLY
from core.db.spend_totals import AT_MOST
from core.db.store import Store
from core.db.tables import Row, Run, Spend, utcnow
from core.errors import NotFound
from core.message import msg

Mode = Literal["live", "batch"]

ACTIVE = ("queued", "running", "waiting", "pausing", "stopping")
_WINDOW_S = 60  # long enough for a slow machine's rows, short enough to follow a change
_LONG_WINDOW_S = 600  # where a minute holds almost no row
_FEW_ROWS = 5
_CLOCK = timedelta(days=1)  # how far a clock may be set back without hiding what a run has spent


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is; any process can ask. None: unknown.

    Attributes:
        state: queued, running, waiting, pausing, paused, stopping, stopped, done or failed; reason: why it ended or
            waits.
        not_before: of a waiting run, when it is resumed (UTC).
        note: what it waits for right now, or which parameters its model does not take (a line each).
        mode: live, or batch.
        total, done, failed, pending: rows of the data set; pending counts the `in_flight` ones too.
        failed_by_cause: failed rows of the data set by why, the most frequent first.
        own: it writes only the rows that were put back for it, not all that wait.
        left: rows that it still has to write, those under way among them.
        in_flight, ceiling: rows under way, and the most requests there may be.
        requests: calls in the spend ledger, those in flight too: one for each row that was sent, or each batch.
        tokens: prompt and completion tokens of this run; cost_usd: what they cost, None if that of one call is unknown.
            On the engine that is no bill but 0: see `core.cost.engine_time`.
        at_most_usd: what this run can have cost at most: calls that were cut off, or told no tokens, at their dearest.
        projected_usd: what it will have cost once nothing is left, if those rows cost as much as the ones before.
        rows_per_s: rows finished a second, over the last minute; for a run that is over, over all of it.
        eta_s: seconds until the last row at that rate.
        provider: who writes.
    """

    run_id: str
    dataset_id: str
    state: str
    reason: str | None
    note: str | None
    total: int
    done: int
    failed: int
    pending: int
    in_flight: int
    ceiling: int
    tokens: int
    cost_usd: Decimal | None
    budget_usd: Decimal | None
    rows_per_s: float | None
    eta_s: float | None
    started_at: datetime | None
    finished_at: datetime | None
    mode: Mode = "live"
    failed_by_cause: tuple[FailedRows, ...] = ()
    projected_usd: Decimal | None = None
    requests: int = 0
    own: bool = False
    left: int = 0
    at_most_usd: Decimal | None = None
    provider: str = ""
    not_before: datetime | None = None


def progress(store: Store, run_id: str, now: datetime | None = None) -> RunProgress:
    """How far the run is, from the ledger alone.

    Raises:
        NotFound: no such run.
    """
    with store.reading() as session:
        run = session.get(Run, run_id)
        if run is None:
            raise NotFound(msg("This run no longer exists."), msg("Choose another one."))
        return _progress(session, run, now or utcnow())


def latest(store: Store, dataset_id: str, now: datetime | None = None) -> RunProgress | None:
    """The newest run of a data set; None when there was none."""
    with store.reading() as session:
        newest = select(Run).where(Run.dataset_id == dataset_id).order_by(Run.created_at.desc(), Run.id.desc())
        run = session.scalar(newest.limit(1))
        return None if run is None else _progress(session, run, now or utcnow())


def _progress(session: Session, run: Run, now: datetime) -> RunProgress:
    counts = grid_store.counts(session, [run.dataset_id])[run.dataset_id]
    calls, tokens, cost, at_most = _used(session, run)
    rate = _rate(session, run, now)
    active = run.state in ACTIVE
    written = _finished(session, run, None)
    own = run.scope == FAILED_ONLY
    left = _left(session, run) if own else counts.pending
    return RunProgress(
        run_id=run.id,
        dataset_id=run.dataset_id,
        state=run.state,
        reason=run.reason,
        note=run.note,
        total=counts.total,
        done=counts.done,
        failed=counts.failed,
        pending=counts.pending,
        in_flight=counts.sent,
        ceiling=ceiling(run.provider),
        tokens=tokens,
        cost_usd=cost,
        budget_usd=run.budget_usd,
        rows_per_s=rate,
        eta_s=left / rate if active and rate and run.state != "waiting" else None,
        started_at=run.started_at,
        finished_at=run.finished_at,
        mode="batch" if run.mode == "batch" else "live",
        failed_by_cause=failed_rows.by_cause(session, run.dataset_id, counts.failed) if counts.failed else (),
        projected_usd=None if cost is None or not written else cost + cost / written * left,
        requests=calls + (counts.sent if run.mode == "live" else 0),
        own=own,
        left=left,
        at_most_usd=at_most,
        provider=run.provider,
        not_before=run.not_before,
    )


def _left(session: Session, run: Run) -> int:
    """Rows that were put back for this run and are not written yet."""
    mine = (Row.dataset_id == run.dataset_id, Row.run_id == run.id, Row.state.in_(("pending", "sent")))
    return session.scalar(select(func.count()).select_from(Row).where(*mine)) or 0


def _used(session: Session, run: Run) -> tuple[int, int, Decimal | None, Decimal | None]:
    """Settled calls of this run, their tokens, what they cost, and can have cost at most.

    Amounts are text, so equal ones are grouped by SQL.
    """
    query = (
        select(Spend.cost_usd, AT_MOST, func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens))
        .where(Spend.at >= run.created_at - _CLOCK, Spend.reference == run.id)
        .where(Spend.completion_tokens.is_not(None) | Spend.cost_usd.is_(None))  # the others are reservations
        .group_by(Spend.cost_usd, AT_MOST)
    )
    settled, tokens, costs, most = 0, 0, list[Decimal | None](), list[Decimal | None]()
    for cost, at_most, calls, prompt, completion in session.execute(query):
        settled += calls
        tokens += int(prompt or 0) + int(completion or 0)
        costs.append(None if cost is None else cost * calls)
        most.append(None if at_most is None else at_most * calls)
    return settled, tokens, _sum(costs), _sum(most)


def _sum(amounts: Sequence[Decimal | None]) -> Decimal | None:
    """All amounts together; None if one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None


def _rate(session: Session, run: Run, now: datetime) -> float | None:
    """Rows finished a second. A minute's window, ten where that holds too few rows; the whole run once it is over."""
    if run.started_at is None:
        return None
    if run.finished_at is not None:
        return _per_second(_finished(session, run, run.started_at), run.finished_at - run.started_at)
    for window_s in (_WINDOW_S, _LONG_WINDOW_S):
        since = max(run.started_at, now - timedelta(seconds=window_s))
        finished = _finished(session, run, since)
        if finished >= _FEW_ROWS or (window_s == _LONG_WINDOW_S and finished):
            return _per_second(finished, now - since)
    return None


def _finished(session: Session, run: Run, since: datetime | None) -> int:
    query = select(func.count()).select_from(Row)
    query = query.where(Row.dataset_id == run.dataset_id, Row.state.in_(("done", "failed")), Row.run_id == run.id)
    if since is not None:
        query = query.where(Row.updated_at >= since)
    return session.scalar(query) or 0


def _per_second(count: int, span: timedelta) -> float | None:
    seconds = span.total_seconds()
    return count / seconds if count and seconds > 0 else None
