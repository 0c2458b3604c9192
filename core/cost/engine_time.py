"""How long the engine worked: on a story, a job, a run, an evaluation; and what each of its calls costs by that.

The engine sends no bill, so its work costs hours × the price of a machine hour (`machine_time.work_usd`). Stories and
jobs record their seconds. Runs and evaluations do not; theirs come from the spend ledger, which has when each request
was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.cost import machine_time, own
from core.cost.prices import ENGINE
from core.db.store import Store, in_chunks
from core.db.tables import Evaluation, Run, Spend, Story, TrainingJob, utcnow

_LONGEST_CALL = timedelta(minutes=5)  # a longer gap between two requests is a pause, of which only this much counts


def busy_s(sent: Sequence[datetime], ended: datetime) -> float | None:
    """Seconds with requests under way; pauses do not count. None: no request was sent.

    Args:
        sent: when the requests were sent (UTC), in order.
        ended: when the last of them was answered, or now.
    """
    if not sent:
        return None
    gaps = (min(later - earlier, _LONGEST_CALL) for earlier, later in pairwise([*sent, max(ended, sent[-1])]))
    return sum(gaps, timedelta()).total_seconds()


def requests_s(session: Session, reference: str, ended: datetime | None) -> float | None:
    """`busy_s` of a run or an evaluation, from the ledger. `ended` None: it is still going on."""
    query = select(Spend.sent_at).where(Spend.reference == reference, Spend.sent_at.is_not(None))
    sent = [at for at in session.scalars(query.order_by(Spend.sent_at)) if at is not None]
    return busy_s(sent, ended or utcnow())


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
            for key, ended in [*session.execute(runs), *session.execute(tests)]:
                found[key] = requests_s(session, key, ended)
    return found


def usd_per_call(store: Store, references: Sequence[str]) -> dict[str, Decimal | None]:
    """What one call of each of these works costs: the work's machine time over its calls. None: unknown."""
    hour = own.machine_hour(store)
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
