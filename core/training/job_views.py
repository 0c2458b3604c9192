"""Training jobs as pages see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import defer

from core.cost import custom_prices, machine_time
from core.cost.prices import ENGINE
from core.db.store import Store
from core.db.tables import TrainingEvent, TrainingJob
from core.errors import NotFound
from core.message import msg

FINISHED = ("succeeded", "failed", "cancelled", "canceled")  # Azure writes one l
WAITING = ("preparing", "submitting", "validating_files", "queued")
_END = 80  # characters: the last line of a results file
SHORTEST_LEFT_S = 60.0
"""An unfinished job is told as a minute from its end at least: estimates are not exact to the second."""
_STARTING_S = 120.0  # loading takes half a minute, and three steps are timed; where it takes longer, steps are slow
LONGEST_STATUS = 30  # characters, as the ledger has it
GONE = msg("The provider no longer knows this job.")
"""Why a job failed that somebody deleted there."""


@dataclass(frozen=True, slots=True)
class JobView:
    """One job. None is "not known (yet)".

    Attributes:
        status: preparing, submitting, then the provider's own word; see `job_explanation` for plain ones.
        request: cancel, pause or resume, while it has been asked for and not done yet.
        version_id: the version of the data set that it trains on; None: its finished rows at that moment.
        separator, stop: what the prompts end with, and what the completions end with, in the training file.
        error, next_step: why it failed; while it goes on: what it is waiting for.
        not_before: when the provider is asked again, where it has asked for a pause.
        results_csv: the newest copy of the results file, for `core.training.results.parse`; None in lists.
        updated_at: when the provider was last heard.
        parent_id: the job whose model this one trains further.
        training_file, validation_file: their ids at the provider, once they are there.
        validation_share: of the examples, kept from training.
        file_bytes, uploaded_bytes: of the training file; how much of it has been sent.
        estimated_usd, estimated_s: what was expected before the button.
        trackers: where the run is logged too, each with what is known about it there (`url`, `error`).
        trained_s, running_since: what `training_s` is worked out from: seconds of training until `running_since`.
        queue_position: in line at the engine, while it waits; the job that trains now is 1.
        estimated_start: of its training, while it waits in line.
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
    trained_s: float | None = None
    running_since: datetime | None = None
    queue_position: int | None = None
    estimated_start: datetime | None = None
    not_before: datetime | None = None

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

    @property
    def waiting(self) -> bool:
        """Whether it is on its way to the trainer: being prepared, checked or queued."""
        return self.status in WAITING

    def training_s(self, now: datetime) -> float | None:
        """Seconds of training until now (UTC), or until the end; 0 before it begins; None: not known.

        Waiting, in a queue or paused, is no part of it.
        """
        if self.running_since is not None:
            end = self.finished_at or (self.updated_at if self.finished else now)
            return (self.trained_s or 0.0) + max(0.0, (end - self.running_since).total_seconds())
        if self.trained_s is None and (self.waiting or self.remote_id is None):
            return 0.0
        return self.trained_s

    def starting(self, now: datetime) -> bool:
        """Whether our engine is still loading the model and timing its first steps: before that, the end is a guess."""
        if self.provider != ENGINE or self.status != "running" or self.estimated_finish is not None:
            return False
        trained = self.training_s(now)
        return trained is not None and trained < _STARTING_S

    def eta_s(self, now: datetime) -> float | None:
        """Seconds until it is done, those in line included, `SHORTEST_LEFT_S` at least; None: not known.

        The one figure for every page. As its provider expects; before it says so, the training that was expected and,
        while it waits, the wait. An estimate that has passed by more than `SHORTEST_LEFT_S` says nothing any more.
        """
        left = self._estimated_left_s(now)
        if left is None or left < -SHORTEST_LEFT_S:
            return None
        return max(SHORTEST_LEFT_S, left)

    def late_s(self, now: datetime) -> float:
        """Seconds since the estimated end of an unfinished job; 0 before it, and where there is no estimate."""
        left = self._estimated_left_s(now)
        return 0.0 if left is None else max(0.0, -left)

    def _estimated_left_s(self, now: datetime) -> float | None:
        """Seconds to the estimated end, negative after it."""
        if self.finished or self.status == "paused":
            return None
        if self.estimated_finish is not None:
            return (self.estimated_finish - now).total_seconds()
        trained, wait = self.training_s(now), self.wait_s(now)
        if self.estimated_s is None or trained is None or wait is None:
            return None
        return wait + self.estimated_s - trained

    def wait_s(self, now: datetime) -> float | None:
        """Seconds until its training should begin; 0 where nothing is ahead of it; None: not known."""
        if self.estimated_start is not None:
            return max(0.0, (self.estimated_start - now).total_seconds())
        if self.status == "queued":
            return 0.0 if self.queue_position == 1 else None
        return 0.0 if self.queue_position in (None, 1) else None


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
    hour = custom_prices.machine_hour(store)
    with store.reading() as session:
        return [_priced(_view(job, job.results_csv if results else None), hour) for job in session.scalars(query)]


def get(store: Store, job_id: str, *, results: bool = True) -> JobView:
    """One job, with its results file, which may be long, unless told otherwise.

    Raises:
        NotFound: there is no such job.
    """
    hour = custom_prices.machine_hour(store)
    with store.reading() as session:
        job = session.get(TrainingJob, job_id, options=[] if results else [defer(TrainingJob.results_csv)])
        if job is None:
            raise NotFound(msg("This training job no longer exists."), msg("Choose another one."))
        return _priced(_view(job, job.results_csv if results else None), hour)


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


def _priced(job: JobView, hour: tuple[Decimal, str] | None) -> JobView:
    """With the cost of machine time where the engine trained; None before the end, and without a price of an hour."""
    if job.provider != ENGINE:
        return job
    seconds = job.training_s(job.updated_at) if job.finished else None
    return replace(job, cost_usd=machine_time.work_usd(hour, job.provider, job.cost_usd, seconds))


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
        trained_s=job.training_s,
        running_since=job.running_since,
        not_before=job.not_before,
        queue_position=job.queue_position,
        estimated_start=job.estimated_start,
    )
