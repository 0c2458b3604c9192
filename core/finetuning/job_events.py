"""Events of a training job: the provider's events, each saved once, notices that Fabula adds, and the training time,
without queued and paused time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from core.db.store import Store, new_id
from core.db.tables import TrainingEvent, utcnow
from core.engine import training_options
from core.finetuning.job_views import FINISHED, JobView
from core.message import Message
from core.providers import RemoteEvent, RemoteJob
from core.sanitize import storable

_OWN_PREFIX = "fabula-"  # id prefix of notices that Fabula adds
_LAST_EVENTS = 20  # the engine reports early stopping just before the end
_EARLY_ENDS = (training_options.stopped_early(0, 0).template, training_options.best_checkpoint(0).template)
_MAX_LEVEL_LENGTH, _MAX_TYPE_LENGTH = 10, 30  # column widths in the database

STARTED = "Fine-tuning job started"
"""Start of the message of the event that reports the start of training, at OpenAI and the engine."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event with the provider's text. `type`: `message` for events that people should read."""

    created_at: datetime
    level: str
    message: str
    type: str = "message"


def events(store: Store, job_id: str, limit: int = 500) -> list[JobEvent]:
    """The newest `limit` events of a job, in chronological order."""
    query = (
        select(TrainingEvent)
        .where(TrainingEvent.job_id == job_id)
        .order_by(TrainingEvent.created_at.desc(), TrainingEvent.id.desc())
        .limit(limit)
    )
    with store.reading() as session:
        return [JobEvent(event.created_at, event.level, event.message, event.type) for event in session.scalars(query)][
            ::-1
        ]


def last_event(store: Store, job_id: str) -> datetime | None:
    """Time of the job's newest event (UTC); None if there is none."""
    with store.reading() as session:
        return session.scalar(select(func.max(TrainingEvent.created_at)).where(TrainingEvent.job_id == job_id))


def newest_remote_id(store: Store, job_id: str) -> str | None:
    """The provider's id of the newest saved event; None if there is none."""
    query = (
        select(TrainingEvent.remote_id)
        .where(TrainingEvent.job_id == job_id, TrainingEvent.remote_id.not_like(f"{_OWN_PREFIX}%"))
        .order_by(TrainingEvent.created_at.desc(), TrainingEvent.id.desc())
        .limit(1)
    )
    with store.reading() as session:
        return session.scalar(query)


def training_started_at(store: Store, job_id: str) -> datetime | None:
    """When training first started, from the provider's event (UTC); None if there is no such event."""
    started = select(func.min(TrainingEvent.created_at)).where(
        TrainingEvent.job_id == job_id,
        or_(TrainingEvent.message.startswith(STARTED), TrainingEvent.message == Message(STARTED, {})),
    )
    with store.reading() as session:
        return session.scalar(started)


def early_end(store: Store, job_id: str) -> tuple[str, ...]:
    """The engine's messages about early stopping (where a job ended, which checkpoint became its model), or ()."""
    newest = events(store, job_id, _LAST_EVENTS)
    return tuple(
        event.message
        for event in newest
        if isinstance(event.message, Message) and event.message.template in _EARLY_ENDS
    )


def add(session: Session, job_id: str, events: Sequence[RemoteEvent]) -> None:
    """Save new events. Metrics events are skipped: the results file has the numbers."""
    ids = [event.id for event in events]
    known = set(
        session.scalars(
            select(TrainingEvent.remote_id).where(TrainingEvent.job_id == job_id, TrainingEvent.remote_id.in_(ids))
        )
    )
    session.add_all(
        TrainingEvent(
            job_id=job_id,
            remote_id=event.id,
            created_at=event.at,
            level=event.level[:_MAX_LEVEL_LENGTH],
            type=event.type[:_MAX_TYPE_LENGTH],
            message=storable(event.message),
        )
        for event in events
        if event.id not in known and event.type != "metrics"
    )


def add_notice(session: Session, job_id: str, message: str) -> None:
    """Add a warning from Fabula to the job's events."""
    session.add(
        TrainingEvent(
            job_id=job_id,
            remote_id=f"{_OWN_PREFIX}{new_id()}",
            created_at=utcnow(),
            level="warn",
            type="message",
            message=message,
        )
    )


def training_time(job: JobView, remote: RemoteJob, events: Sequence[RemoteEvent], now: datetime) -> dict[str, Any]:
    """The columns `training_s` and `running_since` of a job after polling its provider.

    The engine measures the time itself. For other providers it is the time spent in status `running`, counted from the
    start event or, if there is none, from the first poll with that status.

    Args:
        job: the saved job.
        remote: the provider's current state.
        events: events received since the last poll.
        now: time of the poll (UTC).
    """
    if remote.training_s is not None:
        return {"training_s": remote.training_s, "running_since": None}
    started = next((event.at for event in events if event.message.startswith(STARTED)), None)
    since, trained_s = job.running_since, job.trained_s
    if remote.status == "running":
        return {"training_s": trained_s, "running_since": since or started or now}
    if since is None and trained_s is None and remote.status in FINISHED:  # started and ended between two polls
        since = started
    if since is not None:
        trained_s = (trained_s or 0.0) + max(0.0, ((remote.finished_at or now) - since).total_seconds())
    return {"training_s": trained_s, "running_since": None}
