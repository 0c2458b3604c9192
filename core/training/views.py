"""Training jobs as pages see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import defer

from core.cost.prices import ENGINE
from core.db.store import Store
from core.db.tables import TrainingEvent, TrainingJob
from core.errors import NotFound

FINISHED = ("succeeded", "failed", "cancelled", "canceled")  # Azure writes one l
_END = 80  # characters: the last line of a results file
LONGEST_STATUS = 30  # characters, as the ledger has it
GONE = "The provider does not know this job any more."
"""Why a job failed that somebody deleted there."""


@dataclass(frozen=True, slots=True)
class JobView:
    """One job. None is "not known (yet)".

    Attributes:
        status: preparing, submitting, then the provider's own word; see `verdict` for plain ones.
        request: cancel, pause or resume, while it has been asked for and not done yet.
        version_id: the version of the data set that it trains on; None: its finished rows at that moment.
        separator, stop: what the prompts end with, and what the completions end with, in the training file.
        error, next_step: why it failed; while it goes on: what it is waiting for.
        results_csv: the newest copy of the results file, for `core.training.results.parse`; None in lists.
        updated_at: when the provider was last heard.
        parent_id: the job whose model this one trains further.
        training_file, validation_file: their ids at the provider, once they are there.
        validation_share: of the examples, kept from training.
        file_bytes, uploaded_bytes: of the training file; how much of it has been sent.
        estimated_usd, estimated_s: what was expected before the button.
        trackers: where the run is logged too, each with what is known about it there (`url`, `error`).
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
    version_id: str | None = None
    parent_id: str | None = None
    training_file: str | None = None
    validation_file: str | None = None
    validation_share: float | None = None
    file_bytes: int | None = None
    uploaded_bytes: int | None = None
    estimated_usd: Decimal | None = None
    estimated_s: float | None = None
    trackers: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINISHED

    @property
    def upload_share(self) -> float | None:
        """How much of the training file has been sent (0 to 1); None where nothing is being sent."""
        if not self.file_bytes or self.uploaded_bytes is None:
            return None
        return min(1.0, self.uploaded_bytes / self.file_bytes)

    def duration_s(self, now: datetime) -> float:
        """Seconds from the button to the end, or until `now` (UTC) while it goes on; waiting is part of it."""
        end = self.finished_at or (self.updated_at if self.finished else now)
        return max(0.0, (end - self.created_at).total_seconds())

    def eta_s(self, now: datetime) -> float | None:
        """Seconds that are left as its provider expects, or, before it says so, as was expected; None: not known."""
        if self.finished:
            return None
        if self.estimated_finish is not None:
            return max(0.0, (self.estimated_finish - now).total_seconds())
        return None if self.estimated_s is None else max(0.0, self.estimated_s - self.duration_s(now))


def may_go_on(status: str, provider: str, remote_id: str | None, error: str | None) -> bool:
    """Whether a job that has failed can be taken up again at its provider: the engine does that, if it has the job."""
    return status == "failed" and provider == ENGINE and remote_id is not None and error != GONE


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event, in the provider's words; `type` is `message` for what is said to people."""

    at: datetime
    level: str
    message: str
    type: str = "message"


def list_jobs(store: Store, *, results: bool = False) -> list[JobView]:
    """All jobs, the newest first; with their results files if asked for."""
    query = select(TrainingJob).order_by(TrainingJob.created_at.desc(), TrainingJob.id.desc())
    if not results:
        query = query.options(defer(TrainingJob.results_csv))
    with store.reading() as session:
        return [_view(job, job.results_csv if results else None) for job in session.scalars(query)]


def get(store: Store, job_id: str, *, results: bool = True) -> JobView:
    """One job, with its results file, which may be long, unless told otherwise.

    Raises:
        NotFound: there is no such job.
    """
    with store.reading() as session:
        job = session.get(TrainingJob, job_id, options=[] if results else [defer(TrainingJob.results_csv)])
        if job is None:
            raise NotFound("This training job is not there any more.", "Choose another one.")
        return _view(job, job.results_csv if results else None)


def results_end(store: Store, job_id: str) -> tuple[int, str]:
    """How long a job's results file is, and how it ends: what changes when it does, without reading the whole."""
    text = TrainingJob.results_csv
    query = select(func.length(text), func.substr(text, func.length(text) - _END)).where(TrainingJob.id == job_id)
    with store.reading() as session:
        length, end = session.execute(query).one_or_none() or (0, "")
    return length or 0, end or ""


def events(store: Store, job_id: str, limit: int = 500) -> list[JobEvent]:
    """The newest `limit` events of a job, oldest first."""
    query = (
        select(TrainingEvent)
        .where(TrainingEvent.job_id == job_id)
        .order_by(TrainingEvent.at.desc(), TrainingEvent.id.desc())
        .limit(limit)
    )
    with store.reading() as session:
        return [JobEvent(event.at, event.level, event.message, event.type) for event in session.scalars(query)][::-1]


def last_event(store: Store, job_id: str) -> datetime | None:
    """When the job's provider last told something new; None: never yet."""
    with store.reading() as session:
        return session.scalar(select(func.max(TrainingEvent.at)).where(TrainingEvent.job_id == job_id))


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
        version_id=job.version_id,
        parent_id=job.parent_id,
        training_file=job.training_file,
        validation_file=job.validation_file,
        validation_share=job.validation_share,
        file_bytes=job.file_bytes,
        uploaded_bytes=job.uploaded_bytes,
        estimated_usd=job.estimated_usd,
        estimated_s=job.estimated_s,
        trackers=dict(job.trackers or {}),
        created_by=job.created_by,
    )
