"""Progress of runs, and their failed rows by cause, read from the database for the pages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import failures
from core.datasets import grid_store
from core.db.spend_totals import MAX_COST
from core.db.store import Store
from core.db.tables import Row, Run, Spend, utcnow
from core.errors import NotFound
from core.failures import Cause
from core.generation.run_budget import total_usd
from core.generation.run_store import FAILED_ONLY
from core.message import lines, loads, msg

_MAX_REASONS = 1_000  # distinct reasons that are read; rows with rarer ones count as "other"
_MAX_MESSAGES = 3  # provider messages shown per cause

Mode = Literal["live", "batch"]

UNDER_WAY = ("queued", "running", "pausing", "stopping")
ACTIVE = (*UNDER_WAY, "waiting")
_WINDOW_S = 60  # long enough for a slow machine, short enough to show changes
_LONG_WINDOW_S = 600  # used when the last minute has too few rows
_MIN_ROWS = 5
_CLOCK_TOLERANCE = timedelta(days=1)  # tolerance for clocks that were set back
_CallCosts = list[tuple[Decimal | None, int]]  # cost of one call (None: unknown), number of calls with that cost


@dataclass(frozen=True, slots=True)
class FailedRows:
    """Failed rows with the same cause.

    Attributes:
        provider_messages: the provider's distinct messages, most frequent first.
        unknown_reasons: reasons that do not contain a known Fabula message, in the same order.
    """

    cause: Cause
    rows: int
    provider_messages: tuple[str, ...] = ()
    unknown_reasons: tuple[str, ...] = ()


@dataclass
class _Group:
    rows: int = 0
    provider_messages: dict[str, str] = field(default_factory=dict)
    unknown_reasons: dict[str, str] = field(default_factory=dict)


def failed_rows_by_cause(session: Session, dataset_id: str, failed: int) -> tuple[FailedRows, ...]:
    """Group a data set's `failed` failed rows by cause, most frequent first."""
    count = func.count()
    query = select(Row.finish_reason, Row.reason, count).where(Row.dataset_id == dataset_id, Row.state == "failed")
    query = query.group_by(Row.finish_reason, Row.reason).order_by(count.desc(), Row.reason).limit(_MAX_REASONS)
    groups: dict[Cause, _Group] = {}
    for finish_reason, reason, rows in session.execute(query):
        failure = failures.of_row(reason, finish_reason)
        group = groups.setdefault(failure.cause, _Group())
        group.rows += rows
        for messages, message in (
            (group.provider_messages, failure.provider_message),
            (group.unknown_reasons, failure.raw_text),
        ):
            if message:  # the same cause has different token counts and ids
                messages.setdefault(re.sub(r"\d+", "#", message), message)
    if (others := failed - sum(group.rows for group in groups.values())) > 0:
        groups.setdefault("other", _Group()).rows += others
    result = [
        FailedRows(
            cause,
            group.rows,
            tuple(group.provider_messages.values())[:_MAX_MESSAGES],
            tuple(group.unknown_reasons.values())[:_MAX_MESSAGES],
        )
        for cause, group in groups.items()
    ]
    return tuple(sorted(result, key=lambda group: -group.rows))


def failed_row_ids(store: Store, dataset_id: str, cause: Cause) -> list[int]:
    """Ids of the failed rows with this cause."""
    query = select(Row.id, Row.finish_reason, Row.reason).where(Row.dataset_id == dataset_id, Row.state == "failed")
    with store.reading() as session:
        return [
            row_id
            for row_id, finish_reason, reason in session.execute(query.order_by(Row.id))
            if failures.of_row(reason, finish_reason).cause == cause
        ]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run's progress, which any process can read. None means unknown.

    Attributes:
        state: queued, running, waiting, pausing, paused, stopping, stopped, done or failed.
        reason: why the run ended or is waiting.
        not_before: when a waiting run resumes (UTC).
        note: what the run is waiting for right now, the parameters that its model does not support, and the
            workers that cannot use its provider (one per line).
        mode: live, or batch.
        total, done, failed, pending: rows of the data set; pending includes the `in_flight` rows.
        failed_by_cause: the data set's failed rows by cause, most frequent first.
        failed_only: whether the run only retries failed rows.
        remaining: number of rows that this run still has to write, including those in flight.
        in_flight: number of rows in flight.
        requests: number of entries in the spend ledger, including those in flight: one per row sent; for a batch one,
            plus one for each group of its lines that failed and may be billed.
        tokens: prompt and completion tokens of this run.
        cost_usd: cost of these tokens; None if the cost of any call is unknown. 0 on the engine; see
            `core.pricing.machine_time`.
        max_usd: maximum cost so far, with calls without a token count (for example interrupted ones) at their
            worst-case cost.
        projected_usd: estimated cost at the end, if the remaining rows cost as much as the previous ones on average.
        rows_per_s: rows finished per second over the last minute; over the whole run once it has ended.
        eta_s: estimated seconds until the last row.
        provider: the provider's id.
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
    failed_only: bool = False
    remaining: int = 0
    max_usd: Decimal | None = None
    provider: str = ""
    not_before: datetime | None = None


def get(store: Store, run_id: str, now: datetime | None = None) -> RunProgress:
    """Read a run's progress.

    Raises:
        NotFound: the run does not exist.
    """
    with store.reading() as session:
        run = session.get(Run, run_id)
        if run is None:
            raise NotFound(msg("This run no longer exists."), msg("Choose another one."))
        return _of_run(session, run, now or utcnow())


def latest(store: Store, dataset_id: str, now: datetime | None = None) -> RunProgress | None:
    """The progress of a data set's newest run; None if there was none."""
    with store.reading() as session:
        newest = select(Run).where(Run.dataset_id == dataset_id).order_by(Run.created_at.desc(), Run.id.desc())
        run = session.scalar(newest.limit(1))
        return None if run is None else _of_run(session, run, now or utcnow())


def _of_run(session: Session, run: Run, now: datetime) -> RunProgress:
    counts = grid_store.counts(session, [run.dataset_id])[run.dataset_id]
    calls, tokens, costs, at_most = _usage(session, run)
    cost = total_usd([None if usd is None else usd * count for usd, count in costs])
    rate = _rows_per_s(session, run, now)
    active = run.state in ACTIVE
    finished = _finished_rows(session, run, None)
    failed_only = run.scope == FAILED_ONLY
    remaining = _remaining_rows(session, run) if failed_only else counts.pending
    return RunProgress(
        run_id=run.id,
        dataset_id=run.dataset_id,
        state=run.state,
        reason=run.reason,
        note=lines(*_unable_notes(run), run.note or "") or None,
        total=counts.total,
        done=counts.done,
        failed=counts.failed,
        pending=counts.pending,
        in_flight=counts.sent,
        tokens=tokens,
        cost_usd=cost,
        budget_usd=run.budget_usd,
        rows_per_s=rate,
        eta_s=remaining / rate if active and rate and run.state != "waiting" else None,
        started_at=run.started_at,
        finished_at=run.finished_at,
        mode="batch" if run.mode == "batch" else "live",
        failed_by_cause=failed_rows_by_cause(session, run.dataset_id, counts.failed) if counts.failed else (),
        projected_usd=_projected_usd(run, costs, cost, at_most, finished, remaining),
        requests=calls + (counts.sent if run.mode == "live" else 0),
        failed_only=failed_only,
        remaining=remaining,
        max_usd=at_most,
        provider=run.provider,
        not_before=run.not_before,
    )


def _unable_notes(run: Run) -> list[str]:
    """For each worker that has left a running run: its host, and why."""
    if run.state != "running":
        return []
    return [
        msg(
            "Worker {worker} can't use this provider, so it has left this run to other workers. {reason}",
            worker=one["host"],
            reason=loads(one["reason"]),
        )
        for one in run.unable_workers.values()
    ]


def _remaining_rows(session: Session, run: Run) -> int:
    """Failed rows that this run should retry and has not written yet."""
    conditions = (Row.dataset_id == run.dataset_id, Row.run_id == run.id, Row.state.in_(("pending", "sent")))
    return session.scalar(select(func.count()).select_from(Row).where(*conditions)) or 0


def _projected_usd(
    run: Run, costs: _CallCosts, cost: Decimal | None, at_most: Decimal | None, finished: int, remaining: int
) -> Decimal | None:
    """Estimated cost at the end (an upper bound if some calls have an unknown cost); None if there is no basis for an
    estimate.
    """
    if cost is not None:
        return cost + cost / finished * remaining if finished else None
    known = [(usd, calls) for usd, calls in costs if usd is not None]
    if at_most is None or not known or run.mode == "batch":  # one batch call covers many rows
        return None
    average = sum((usd * calls for usd, calls in known), Decimal(0)) / sum(calls for _, calls in known)
    return at_most + average * remaining


def _usage(session: Session, run: Run) -> tuple[int, int, _CallCosts, Decimal | None]:
    """This run's settled calls, with their tokens, costs and maximum cost.

    Amounts are stored as text, so SQL groups equal ones and Python adds them up.
    """
    query = (
        select(Spend.cost_usd, MAX_COST, func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens))
        .where(Spend.created_at >= run.created_at - _CLOCK_TOLERANCE, Spend.reference == run.id)
        .where(Spend.completion_tokens.is_not(None) | Spend.cost_usd.is_(None))  # the others are reservations
        .group_by(Spend.cost_usd, MAX_COST)
    )
    call_count, tokens, costs, max_costs = 0, 0, _CallCosts(), list[Decimal | None]()
    for cost, at_most, calls, prompt, completion in session.execute(query):
        call_count += calls
        tokens += int(prompt or 0) + int(completion or 0)
        costs.append((cost, calls))
        max_costs.append(None if at_most is None else at_most * calls)
    return call_count, tokens, costs, total_usd(max_costs)


def _rows_per_s(session: Session, run: Run, now: datetime) -> float | None:
    """Rows finished per second over the last minute, or ten minutes if that has too few rows.

    Once the run has ended, the rate is over the whole run.
    """
    if run.started_at is None:
        return None
    if run.finished_at is not None:
        return _per_second(_finished_rows(session, run, run.started_at), run.finished_at - run.started_at)
    for window_s in (_WINDOW_S, _LONG_WINDOW_S):
        since = max(run.started_at, now - timedelta(seconds=window_s))
        finished = _finished_rows(session, run, since)
        if finished >= _MIN_ROWS or (window_s == _LONG_WINDOW_S and finished):
            return _per_second(finished, now - since)
    return None


def _finished_rows(session: Session, run: Run, since: datetime | None) -> int:
    query = select(func.count()).select_from(Row)
    query = query.where(Row.dataset_id == run.dataset_id, Row.state.in_(("done", "failed")), Row.run_id == run.id)
    if since is not None:
        query = query.where(Row.updated_at >= since)
    return session.scalar(query) or 0


def _per_second(count: int, span: timedelta) -> float | None:
    seconds = span.total_seconds()
    return count / seconds if count and seconds > 0 else None
