"""Events of a training job: the provider's events, each saved once, and notices that Fabula adds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from core.db.store import Store, new_id
from core.db.tables import TrainingEvent, utcnow
from core.finetuning.training_time import STARTED
from core.message import Message
from core.providers import RemoteEvent
from core.sanitize import storable

_OWN_PREFIX = "fabula-"  # id prefix of notices that Fabula adds
_MAX_LEVEL_LENGTH, _MAX_TYPE_LENGTH = 10, 30  # column widths in the database


def newest_remote_id(store: Store, job_id: str) -> str | None:
    """The provider's id of the newest saved event; None: there is none."""
    query = (
        select(TrainingEvent.remote_id)
        .where(TrainingEvent.job_id == job_id, TrainingEvent.remote_id.not_like(f"{_OWN_PREFIX}%"))
        .order_by(TrainingEvent.at.desc(), TrainingEvent.id.desc())
        .limit(1)
    )
    with store.reading() as session:
        return session.scalar(query)


def training_started_at(store: Store, job_id: str) -> datetime | None:
    """When training first started, from the provider's event (UTC); None: no such event."""
    started = select(func.min(TrainingEvent.at)).where(
        TrainingEvent.job_id == job_id,
        or_(TrainingEvent.message.startswith(STARTED), TrainingEvent.message == Message(STARTED, {})),
    )
    with store.reading() as session:
        return session.scalar(started)


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
            at=event.at,
            level=event.level[:_MAX_LEVEL_LENGTH],
            type=event.type[:_MAX_TYPE_LENGTH],
            message=storable(event.message),
        )
        for event in events
        if event.id not in known and event.type != "metrics"
    )


def add_notice(session: Session, job_id: str, message: str) -> None:
    """Add a warning by Fabula to the job's events."""
    session.add(
        TrainingEvent(
            job_id=job_id,
            remote_id=f"{_OWN_PREFIX}{new_id()}",
            at=utcnow(),
            level="warn",
            type="message",
            message=message,
        )
    )
