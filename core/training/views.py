"""Training jobs as pages see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import defer

from core.db.store import Store
from core.db.tables import TrainingEvent, TrainingJob
from core.errors import NotFound

FINISHED = ("succeeded", "failed", "cancelled", "canceled")  # Azure writes one l


@dataclass(frozen=True, slots=True)
class JobView:
    """One job. None is "not known (yet)".

    Attributes:
        status: preparing, submitting, then the provider's own word; see `verdict` for plain ones.
        request: cancel, pause or resume, while it has been asked for and not done yet.
        separator, stop: what the prompts end with, and what the completions end with, in the training file.
        error, next_step: why it failed; while it goes on: what it is waiting for.
        results_csv: the newest copy of the results file, for `core.training.results.parse`; None in lists.
        updated_at: when the provider was last heard.
    """

    id: str
    dataset_id: str | None
    name: str
    provider: str
    base_model: str
    suffix: str | None
    hyperparameters: Mapping[str, Any]
    seed: int | None
    file_format: str
    separator: str | None
    stop: str | None
    status: str
    request: str | None
    remote_id: str | None
    fine_tuned_model: str | None
    error: str | None
    next_step: str | None
    trained_tokens: int | None
    n_examples: int | None
    estimated_finish: datetime | None
    results_csv: str | None
    cost_usd: Decimal | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINISHED


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event, in the provider's words."""

    at: datetime
    level: str
    message: str


def list_jobs(store: Store, *, results: bool = False) -> list[JobView]:
    """All jobs, the newest first; with their results files if asked for."""
    query = select(TrainingJob).order_by(TrainingJob.created_at.desc(), TrainingJob.id.desc())
    if not results:
        query = query.options(defer(TrainingJob.results_csv))
    with store.reading() as session:
        return [_view(job, job.results_csv if results else None) for job in session.scalars(query)]


def get(store: Store, job_id: str) -> JobView:
    """One job, with its results file.

    Raises:
        NotFound: there is no such job.
    """
    with store.reading() as session:
        job = session.get(TrainingJob, job_id)
        if job is None:
            raise NotFound("This training job is not there any more.", "Choose another one.")
        return _view(job, job.results_csv)


def events(store: Store, job_id: str, limit: int = 500) -> list[JobEvent]:
    """The newest `limit` events of a job, oldest first."""
    query = (
        select(TrainingEvent)
        .where(TrainingEvent.job_id == job_id)
        .order_by(TrainingEvent.at.desc(), TrainingEvent.id.desc())
        .limit(limit)
    )
    with store.reading() as session:
        return [JobEvent(event.at, event.level, event.message) for event in session.scalars(query)][::-1]


def _view(job: TrainingJob, results_csv: str | None) -> JobView:
    return JobView(
        id=job.id,
        dataset_id=job.dataset_id,
        name=job.name,
        provider=job.provider,
        base_model=job.base_model,
        suffix=job.suffix,
        hyperparameters=dict(job.hyperparameters),
        seed=job.seed,
        file_format=job.file_format,
        separator=job.separator,
        stop=job.stop,
        status=job.status,
        request=job.stop_requested,
        remote_id=job.remote_id,
        fine_tuned_model=job.fine_tuned_model,
        error=job.error,
        next_step=job.next_step,
        trained_tokens=job.trained_tokens,
        n_examples=job.n_examples,
        estimated_finish=job.estimated_finish,
        results_csv=results_csv,
        cost_usd=job.cost_usd,
        created_at=job.created_at,
        updated_at=job.updated_at,
        finished_at=job.finished_at,
    )
