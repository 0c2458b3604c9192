"""Events of a job in the ledger: what its provider has said, each once, and what we add ourselves."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.dataset.writing.outcomes import storable
from core.db.store import Store, new_id
from core.db.tables import TrainingEvent, utcnow
from core.providers import RemoteEvent

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


def tell(session: Session, job_id: str, message: str) -> None:
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
