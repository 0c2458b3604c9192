"""How long the engine worked: on a story, a job, a run, an evaluation; and what each of its calls costs by that.

The engine sends no bill, so its work costs hours × the price of a machine hour (`machine_time.work_usd`). Stories and
jobs record their seconds. Runs and evaluations do not; theirs come from the spend ledger, which has when each request
was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Float, case, extract, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.cost import custom_prices, machine_time
from core.cost.prices import ENGINE
from core.db.store import Store, in_chunks
from core.db.tables import Evaluation, Run, Spend, Story, TrainingJob, utcnow

_LONGEST_CALL = timedelta(minutes=5)  # a longer gap between two requests is a pause, of which only this much counts


def requests_s(session: Session, ended: Mapping[str, datetime | None]) -> dict[str, float | None]:
    """Seconds with requests under way, of each run or evaluation; pauses do not count. None: no request was sent.

    The database adds up the gaps between requests, as `_LONGEST_CALL` allows: no line is read here.

    Args:
        session: of the ledger.
        ended: id of each → when its last request was answered (UTC); None: it is still going on.
    """
    found: dict[str, float | None] = dict.fromkeys(ended)
    longest_s = _LONGEST_CALL.total_seconds()
    for ids in in_chunks(list(ended)):
        at_s = _seconds_of(session, Spend.sent_at)
        before_s = func.lag(at_s).over(partition_by=Spend.reference, order_by=Spend.sent_at)
        lines = select(Spend.reference, Spend.sent_at, (at_s - before_s).label("gap_s"))
        gaps = lines.where(Spend.reference.in_(ids), Spend.sent_at.is_not(None)).subquery()
        counted_s = case((gaps.c.gap_s > longest_s, longest_s), else_=gaps.c.gap_s)
        query = select(gaps.c.reference, func.max(gaps.c.sent_at), func.sum(counted_s)).group_by(gaps.c.reference)
        for key, last, busy_s in session.execute(query):
            open_s = ((ended[key] or utcnow()) - last).total_seconds()
            found[key] = round(float(busy_s or 0) + min(max(0.0, open_s), longest_s), 3)
    return found


def _seconds_of(session: Session, moment: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """A moment as a number of seconds; in SQLite to the millisecond (SQLite, "Date And Time Functions")."""
    if session.get_bind().dialect.name == "postgresql":
        return extract("epoch", moment)
    return func.julianday(moment, type_=Float()) * 86_400.0


def seconds(store: Store, references: Sequence[str]) -> dict[str, float | None]:
    """Seconds of the engine's stories, jobs, runs and evaluations by their ids; others are not in it."""
    found: dict[str, float | None] = {}
    with store.reading() as session:
        for ids in in_chunks(references):
            stories = select(Story.id, Story.duration_s).where(Story.id.in_(ids), Story.provider == ENGINE)
            jobs = select(TrainingJob.id, TrainingJob.training_s).where(
                TrainingJob.id.in_(ids), TrainingJob.provider == ENGINE
            )
            found |= {key: took for key, took in [*session.execute(stories), *session.execute(jobs)]}
            runs = select(Run.id, Run.finished_at).where(Run.id.in_(ids), Run.provider == ENGINE)
            tests = select(Evaluation.id, Evaluation.finished_at).where(
                Evaluation.id.in_(ids), Evaluation.provider == ENGINE
            )
            found |= requests_s(session, dict([*session.execute(runs).all(), *session.execute(tests).all()]))
    return found


def usd_per_call(store: Store, references: Sequence[str]) -> dict[str, Decimal | None]:
    """What one call of each of these works costs: the work's machine time over its calls. None: unknown."""
    hour = custom_prices.machine_hour(store)
    if hour is None:
        return dict.fromkeys(references)
    took = seconds(store, references)
    calls: dict[str, int] = {}
    with store.reading() as session:
        for ids in in_chunks(references):
            query = select(Spend.reference, func.count()).where(Spend.reference.in_(ids), Spend.provider == ENGINE)
            calls |= {key: count for key, count in session.execute(query.group_by(Spend.reference))}
    found: dict[str, Decimal | None] = {}
    for key in references:
        whole = machine_time.work_usd(hour, ENGINE, None, took.get(key))
        found[key] = None if whole is None else whole / calls.get(key, 1)
    return found
