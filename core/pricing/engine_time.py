"""Engine time per story, job, run or evaluation, and the cost per call that follows from it.

The engine has no charge per token, so its work costs hours × price per machine hour (`machine_time.work_usd`). Stories
and jobs record their seconds. For runs and evaluations, they come from the times of the calls in the spend ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Float, case, extract, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.db.store import Store, in_chunks
from core.db.tables import Evaluation, Run, Spend, Story, TrainingJob, utcnow
from core.pricing import custom_prices, machine_time
from core.pricing.prices import ENGINE

_MAX_GAP = timedelta(minutes=5)  # a longer gap between two requests is a pause; only this much of it counts


def request_seconds(session: Session, ended: Mapping[str, datetime | None]) -> dict[str, float | None]:
    """Seconds with requests in flight, by run or evaluation, without pauses. None: no request was sent.

    The database sums the gaps between requests, each at most `_MAX_GAP`.

    Args:
        session: database session.
        ended: id → end time (UTC); None: still running.
    """
    result: dict[str, float | None] = dict.fromkeys(ended)
    max_gap_s = _MAX_GAP.total_seconds()
    for ids in in_chunks(list(ended)):
        sent_s = _epoch_seconds(session, Spend.sent_at)
        previous_s = func.lag(sent_s).over(partition_by=Spend.reference, order_by=Spend.sent_at)
        sent_calls = select(Spend.reference, Spend.sent_at, (sent_s - previous_s).label("gap_s"))
        gaps = sent_calls.where(Spend.reference.in_(ids), Spend.sent_at.is_not(None)).subquery()
        counted_s = case((gaps.c.gap_s > max_gap_s, max_gap_s), else_=gaps.c.gap_s)
        query = select(gaps.c.reference, func.max(gaps.c.sent_at), func.sum(counted_s)).group_by(gaps.c.reference)
        for key, last, busy_s in session.execute(query):
            last_call_s = ((ended[key] or utcnow()) - last).total_seconds()
            result[key] = round(float(busy_s or 0) + min(max(0.0, last_call_s), max_gap_s), 3)
    return result


def _epoch_seconds(session: Session, moment: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """A timestamp column in seconds; in SQLite to the millisecond (SQLite, "Date And Time Functions")."""
    if session.get_bind().dialect.name == "postgresql":
        return extract("epoch", moment)
    return func.julianday(moment, type_=Float()) * 86_400.0


def seconds(store: Store, references: Sequence[str]) -> dict[str, float | None]:
    """Seconds of the engine's stories, jobs, runs and evaluations, by id. Other ids are left out."""
    result: dict[str, float | None] = {}
    with store.reading() as session:
        for ids in in_chunks(references):
            stories = select(Story.id, Story.duration_s).where(Story.id.in_(ids), Story.provider == ENGINE)
            jobs = select(TrainingJob.id, TrainingJob.training_s).where(
                TrainingJob.id.in_(ids), TrainingJob.provider == ENGINE
            )
            result |= {key: duration_s for key, duration_s in [*session.execute(stories), *session.execute(jobs)]}
            runs = select(Run.id, Run.finished_at).where(Run.id.in_(ids), Run.provider == ENGINE)
            evaluations = select(Evaluation.id, Evaluation.finished_at).where(
                Evaluation.id.in_(ids), Evaluation.provider == ENGINE
            )
            result |= request_seconds(
                session, dict([*session.execute(runs).all(), *session.execute(evaluations).all()])
            )
    return result


def usd_per_call(store: Store, references: Sequence[str]) -> dict[str, Decimal | None]:
    """Cost of one call in US dollars, by story, job, run or evaluation: machine time / calls. None: unknown."""
    machine_hour = custom_prices.machine_hour(store)
    if machine_hour is None:
        return dict.fromkeys(references)
    durations = seconds(store, references)
    calls: dict[str, int] = {}
    with store.reading() as session:
        for ids in in_chunks(references):
            query = select(Spend.reference, func.count()).where(Spend.reference.in_(ids), Spend.provider == ENGINE)
            calls |= {key: count for key, count in session.execute(query.group_by(Spend.reference))}
    result: dict[str, Decimal | None] = {}
    for key in references:
        work_usd = machine_time.work_usd(machine_hour, ENGINE, None, durations.get(key))
        result[key] = None if work_usd is None else work_usd / calls.get(key, 1)
    return result
