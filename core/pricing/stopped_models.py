"""Explains a model that has stopped: since when, what is kept here, and what to use instead. Reads the ledger.

For a request to such a model, providers return a 404 that names no date. Stories, runs, previews and evaluations show
this explanation instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store
from core.db.tables import ArchivedTune, TrainingJob, utcnow
from core.errors import FabulaError, ModelNotFound
from core.message import cause_of, msg, sentences, with_cause
from core.ownership import readable
from core.pricing import shutdown
from core.pricing.price_book import PriceBook
from core.pricing.prices import tuned_base

_CAUSE = "model_not_found"


def announced(session: Session) -> dict[str, date]:
    """The last days of the tuned models in archived accounts, by model."""
    query = select(ArchivedTune.model, ArchivedTune.dark_on)
    query = query.where(ArchivedTune.model.is_not(None), ArchivedTune.dark_on.is_not(None))
    return {str(model): day for model, day in session.execute(query) if day is not None}


def stopped_on(session: Session, book: PriceBook, provider: str, model: str, today: date) -> date | None:
    """The day on which a model stopped; None if it has none, or still has time.

    A model that the provider no longer has on its last day has stopped.
    """
    job = job_of(session, model, TrainingJob.provider == provider)
    base = None if job is None else job.base_model
    return _stopped_on(model, base, announced(session), book, provider, today)


def _stopped_on(
    model: str, base: str | None, days: Mapping[str, date], book: PriceBook, provider: str, today: date
) -> date | None:
    found = shutdown.of(model, base, days, book, provider)
    return found.day if found is not None and found.day <= today else None


def successor(session: Session, book: PriceBook, model: str, today: date, reader: Actor | None = None) -> str | None:
    """The newest model trained on the data set of this one that still answers; None if there is none.

    Args:
        reader: only models of jobs that this person may read; None: of all jobs.
    """
    job = job_of(session, model)
    if job is None or job.dataset_id is None:
        return None
    query = select(TrainingJob.fine_tuned_model, TrainingJob.base_model, TrainingJob.provider).where(
        TrainingJob.dataset_id == job.dataset_id,
        TrainingJob.fine_tuned_model.is_not(None),
        TrainingJob.fine_tuned_model != job.fine_tuned_model,
        readable(reader, TrainingJob),
    )
    days = announced(session)
    for other, base, provider in session.execute(query.order_by(TrainingJob.created_at.desc())):
        if other is not None and _stopped_on(other, base, days, book, provider, today) is None:
            return str(other)
    return None


def next_step(session: Session, book: PriceBook, model: str, today: date, reader: Actor | None = None) -> str:
    """What to do about a model that has stopped."""
    other = successor(session, book, model, today, reader)
    if other is not None:
        return msg("Use {replacement}, which was trained on the same data set.", replacement=other)
    job = job_of(session, model)
    if job is not None and job.dataset_id is not None:
        return msg(
            "Train a model that stays on its data set, for example on the engine: its rows and settings are kept."
        )
    if tuned_base(model) is not None:
        return msg("Choose another model. If its account was archived here, its training data is on the page Move.")
    return msg("Choose another model from the list.")


def explanation(
    session: Session, book: PriceBook, provider: str, model: str, today: date, reader: Actor | None = None
) -> tuple[str, str] | None:
    """What happened to a model that has stopped, and what to do; None if it has not."""
    day = stopped_on(session, book, provider, model, today)
    if day is None:
        return None
    what = msg(
        "{model} stopped on {day}. Its answers, curves and data here are kept.", model=model, day=day.isoformat()
    )
    return with_cause(what, _CAUSE), next_step(session, book, model, today, reader)


def explained(
    store: Store,
    book: PriceBook,
    provider: str,
    model: str,
    error: FabulaError,
    today: date | None = None,
    *,
    reader: Actor | None = None,
) -> FabulaError:
    """`error`, or an explanation with `error` as its cause if it says that a model is missing that has stopped.

    Raises:
        StorageFull: the database is unavailable.
    """
    if not isinstance(error, ModelNotFound):
        return error
    with store.reading() as session:
        found = explanation(session, book, provider, model, today or utcnow().date(), reader)
    if found is None:
        return error
    more = ModelNotFound(*found)
    more.__cause__ = error
    return more


def explained_reason(
    session: Session,
    book: PriceBook,
    provider: str,
    model: str,
    reason: str,
    today: date | None = None,
    *,
    reader: Actor | None = None,
) -> str:
    """The same for the stored reason of a failure."""
    if cause_of(reason) != _CAUSE:
        return reason
    found = explanation(session, book, provider, model, today or utcnow().date(), reader)
    return reason if found is None else sentences(*found)


def job_of(session: Session, model: str, *conditions: ColumnElement[bool]) -> TrainingJob | None:
    """The job that made a tuned model, or one of its checkpoints."""
    name = shutdown.without_checkpoint(model)
    return session.scalar(select(TrainingJob).where(TrainingJob.fine_tuned_model == name, *conditions).limit(1))
