"""Events of a job in the ledger: what its provider has said, each once, and what we add ourselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from core.dataset.generation.response_classification import storable
from core.db.store import Store, new_id
from core.db.tables import TrainingEvent, utcnow
from core.message import Message
from core.providers import RemoteEvent
from core.training.training_time import STARTED

_OWN = "fabula-"  # ids of events that we add ourselves
_LONGEST_LEVEL, _LONGEST_TYPE = 10, 30  # as the ledger's columns have it


def newest(store: Store, job_id: str) -> str | None:
    """The provider's id of its newest event that is here; None: there is none yet."""
    query = (
        select(TrainingEvent.remote_id)
        .where(TrainingEvent.job_id == job_id, TrainingEvent.remote_id.not_like(f"{_OWN}%"))
        .order_by(TrainingEvent.at.desc(), TrainingEvent.id.desc())
        .limit(1)
    )
    with store.reading() as session:
        return session.scalar(query)


def training_began(store: Store, job_id: str) -> datetime | None:
    """When the job's training began for the first time, by the provider's event; None: none was heard."""
    began = select(func.min(TrainingEvent.at)).where(
        TrainingEvent.job_id == job_id,
        or_(TrainingEvent.message.startswith(STARTED), TrainingEvent.message == Message(STARTED, {})),
    )
    with store.reading() as session:
        return session.scalar(began)


def add(session: Session, job_id: str, events: Sequence[RemoteEvent]) -> None:
    """Keep those that are not there yet; numbers are in the results file, and a line a step would bury the words."""
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
            level=event.level[:_LONGEST_LEVEL],
            type=event.type[:_LONGEST_TYPE],
            message=storable(event.message),
        )
        for event in events
        if event.id not in known and event.type != "metrics"
    )


def add_own(session: Session, job_id: str, message: str) -> None:
    """Add an event of our own: a warning to whoever looks at the job."""
    session.add(
        TrainingEvent(
            job_id=job_id,
            remote_id=f"{_OWN}{new_id()}",
            at=utcnow(),
            level="warn",
            type="message",
            message=message,
        )
    )
