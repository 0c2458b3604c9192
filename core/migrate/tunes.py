"""The tuned models of an account: what each was trained on, when it goes dark, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from core.db.store import Store
from core.db.tables import ArchivedFile, ArchivedTune, Evaluation, TrainingJob
from core.providers import engine_aliases

STATES: Final = ("found", "archived", "data", "retrained", "compared", "switched")
"""How far a tuned model has come. `switched`: programs that ask the engine for it get another model; comparing both
may have been skipped.
"""


@dataclass(frozen=True, slots=True)
class Tune:
    """One tuned model. None means unknown.

    Attributes:
        id: the job's id at the provider.
        model: the tuned model; None if the job made none.
        method: supervised, dpo, reinforcement, or another word of the provider's.
        state: one of `STATES`.
        reason: what is missing, and what can still be done.
        last_used: the last day with calls in the last 180 days.
        calls, usd: calls in the last 30 days, and what they cost at list prices.
        dark_on: the day it stops answering; `dark_source`: `api` or `list` (`core.pricing.shutdown`).
        job_id, dataset_id: what was made of it here.
    """

    id: str
    model: str | None
    base_model: str
    method: str
    status: str
    state: str
    reason: str | None
    trained_rows: int | None
    trained_tokens: int | None
    created_at: datetime | None
    last_used: datetime | None
    calls: int | None
    usd: Decimal | None
    dark_on: date | None
    dark_source: str | None
    job_id: str | None
    dataset_id: str | None

    def days_left(self, today: date) -> int | None:
        """Days until it goes dark, negative afterwards; None if no date is known."""
        return None if self.dark_on is None else (self.dark_on - today).days


@dataclass(frozen=True, slots=True)
class LostFile:
    """A file that is gone, or that the provider does not hand out."""

    id: str
    filename: str
    purpose: str
    state: str
    reason: str | None


def list_tunes(store: Store, archive_id: str) -> list[Tune]:
    """All tuned models of an account: those that answer calls first, then by the newest."""
    query = select(ArchivedTune).where(ArchivedTune.archive_id == archive_id)
    newest_first = (ArchivedTune.model.is_(None), ArchivedTune.created_at.desc(), ArchivedTune.id)
    with store.reading() as session:
        rows = session.scalars(query.order_by(*newest_first)).all()
        retrained = _datasets(session, archive_id, TrainingJob.status == "succeeded")
        compared = _datasets(
            session,
            archive_id,
            and_(
                TrainingJob.status == "succeeded",
                TrainingJob.id.in_(select(Evaluation.job_id).where(Evaluation.state == "done")),
            ),
        )
    switched = {alias for alias, change in engine_aliases.changes(store).items() if change.model is not None}
    return [_view(row, retrained, compared, switched) for row in rows]


def lost_files(store: Store, archive_id: str) -> list[LostFile]:
    """The files that could not be archived, by name."""
    query = select(ArchivedFile).where(
        ArchivedFile.archive_id == archive_id, ArchivedFile.state.in_(("gone", "refused"))
    )
    with store.reading() as session:
        rows = session.scalars(query.order_by(ArchivedFile.filename, ArchivedFile.id)).all()
    return [LostFile(row.remote_id, row.filename, row.purpose, row.state, row.reason) for row in rows]


def _datasets(session: Session, archive_id: str, job_is: ColumnElement[bool]) -> set[str]:
    """The data sets of an account on which such a job was trained here."""
    archived_jobs = select(ArchivedTune.job_id).where(ArchivedTune.job_id.is_not(None))
    query = (
        select(ArchivedTune.dataset_id)
        .join(TrainingJob, TrainingJob.dataset_id == ArchivedTune.dataset_id)
        .where(ArchivedTune.archive_id == archive_id, TrainingJob.id.not_in(archived_jobs), job_is)
    )
    return {found for found in session.scalars(query.distinct()) if found}


def _view(row: ArchivedTune, retrained: set[str], compared: set[str], switched: set[str]) -> Tune:
    state = row.state
    if state == "data" and row.dataset_id in retrained:
        state = "compared" if row.dataset_id in compared else "retrained"
    if row.model in switched:
        state = "switched"
    return Tune(
        id=row.remote_id,
        model=row.model,
        base_model=row.base_model,
        method=row.method,
        status=row.status,
        state=state,
        reason=row.reason,
        trained_rows=row.trained_rows,
        trained_tokens=row.trained_tokens,
        created_at=row.created_at,
        last_used=row.last_used,
        calls=row.calls,
        usd=row.usd,
        dark_on=row.dark_on,
        dark_source=row.dark_source,
        job_id=row.job_id,
        dataset_id=row.dataset_id,
    )
