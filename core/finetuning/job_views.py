"""Read-only views of training jobs and their events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import defer

from core.db.store import Store
from core.db.tables import TrainingJob
from core.errors import NotFound
from core.message import msg, with_cause
from core.pricing import custom_prices, machine_time
from core.pricing.prices import ENGINE

FINISHED = ("succeeded", "failed", "cancelled", "canceled")  # Azure spells it "canceled"
WAITING = ("preparing", "submitting", "validating_files", "queued")
_TAIL_CHARS = 80  # about one line of a results file
MIN_TIME_LEFT_S = 60.0
"""The shortest time left shown for an unfinished job; estimates are not exact to the second."""
_STARTING_S = 120.0  # time to load the model and to time three steps
MAX_STATUS_LENGTH = 30  # column width in the database
_OTHER_COLUMNS = ("hyperparameters", "trackers", "request", "trained_s", "results_csv", "readers")
"""Fields of `JobView` that are not just the column of the same name."""
UNKNOWN_AT_PROVIDER = with_cause(msg("The provider no longer has this job."), "job_gone")
"""The error of a job that was deleted at the provider."""


@dataclass(frozen=True, slots=True)
class JobView:
    """One training job. None means unknown, or not known yet.

    Attributes:
        method: supervised or dpo.
        status: preparing, submitting, then the provider's status; `job_explanation` explains it.
        request: a pending cancel, pause or resume.
        version_id: the version of the data set; None means all rows that were finished at the time.
        separator, stop: what ends prompts and completions in the training file.
        error, next_step: why it failed, or what an unfinished job waits for.
        not_before: time of the next request, if the provider asked for a pause.
        results_csv: latest copy of the results file, for `core.finetuning.results.parse`; None in lists.
        updated_at: time of the provider's last response.
        parent_id: the job whose model is trained further.
        training_file, validation_file: file ids at the provider.
        validation_share: share of the examples used for validation, 0 to 1.
        file_bytes, uploaded_bytes: size of the training file, and how much of it was uploaded.
        estimated_usd, estimated_s: the estimate before submitting.
        trackers: trackers that the run is logged to, each with its state (`url`, `error`, …).
        trained_s, running_since: seconds of training until `running_since`; the basis of `training_s`.
        queue_position: position in the engine's queue; 1 is the job in training.
        estimated_start: expected start of training while queued.
        owner_id, sharing, readers: whose it and its models are, and who may use them; see `core.ownership`.
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
    owner_id: str = ""
    sharing: str = "private"
    readers: tuple[str, ...] = ()
    method: str = "supervised"

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""
        return self.status in FINISHED

    @property
    def upload_share(self) -> float | None:
        """Share of the training file that was uploaded (0 to 1); None if no upload is in progress."""
        if not self.file_bytes or self.uploaded_bytes is None:
            return None
        return min(1.0, self.uploaded_bytes / self.file_bytes)

    @property
    def waiting(self) -> bool:
        """Whether training has not started: the job is being prepared, checked or queued."""
        return self.status in WAITING

    def training_s(self, now: datetime) -> float | None:
        """Seconds of training until `now` (UTC) or the end; 0 before training; None if unknown.

        Queued and paused time does not count.
        """
        if self.running_since is not None:
            end = self.finished_at or (self.updated_at if self.finished else now)
            return (self.trained_s or 0.0) + max(0.0, (end - self.running_since).total_seconds())
        if self.trained_s is None and (self.waiting or self.remote_id is None):
            return 0.0
        return self.trained_s

    def starting(self, now: datetime) -> bool:
        """Whether the engine is still loading the model or timing its first steps, so the end is not known."""
        if self.provider != ENGINE or self.status != "running" or self.estimated_finish is not None:
            return False
        trained = self.training_s(now)
        return trained is not None and trained < _STARTING_S

    def eta_s(self, now: datetime) -> float | None:
        """Seconds until the job is done, including the queue, at least `MIN_TIME_LEFT_S`; None if unknown.

        All pages show this figure. It is the provider's estimate if there is one, otherwise the wait plus the
        estimated training time. An estimate that is overdue by more than `MIN_TIME_LEFT_S` is not used.
        """
        left = self._estimated_left_s(now)
        if left is None or left < -MIN_TIME_LEFT_S:
            return None
        return max(MIN_TIME_LEFT_S, left)

    def late_s(self, now: datetime) -> float:
        """Seconds that an unfinished job is overdue; 0 if it is not, or has no estimate."""
        left = self._estimated_left_s(now)
        return 0.0 if left is None else max(0.0, -left)

    def _estimated_left_s(self, now: datetime) -> float | None:
        """Seconds to the estimated end; negative if it has passed."""
        if self.finished or self.status == "paused":
            return None
        if self.estimated_finish is not None:
            return (self.estimated_finish - now).total_seconds()
        trained, wait = self.training_s(now), self.wait_s(now)
        if self.estimated_s is None or trained is None or wait is None:
            return None
        return wait + self.estimated_s - trained

    def wait_s(self, now: datetime) -> float | None:
        """Seconds until training should start; 0 if no job is ahead; None if unknown."""
        if self.estimated_start is not None:
            return max(0.0, (self.estimated_start - now).total_seconds())
        if self.status == "queued":
            return 0.0 if self.queue_position == 1 else None
        return 0.0 if self.queue_position in (None, 1) else None


def can_resume(status: str, provider: str, remote_id: str | None, error: str | None) -> bool:
    """Whether a failed job can be resumed. The engine supports this as long as it still has the job."""
    return status == "failed" and provider == ENGINE and remote_id is not None and error != UNKNOWN_AT_PROVIDER


def list_jobs(store: Store, *, results: bool = False) -> list[JobView]:
    """All jobs, newest first. `results`: include the results files."""
    query = select(TrainingJob).order_by(TrainingJob.created_at.desc(), TrainingJob.id.desc())
    if not results:
        query = query.options(defer(TrainingJob.results_csv))
    machine_hour = custom_prices.machine_hour(store)
    with store.reading() as session:
        return [
            _priced(_view(job, job.results_csv if results else None), machine_hour) for job in session.scalars(query)
        ]


def get(store: Store, job_id: str, *, results: bool = True) -> JobView:
    """One job. `results`: include the results file, which can be megabytes.

    Raises:
        NotFound: the job does not exist.
    """
    machine_hour = custom_prices.machine_hour(store)
    with store.reading() as session:
        job = session.get(TrainingJob, job_id, options=[] if results else [defer(TrainingJob.results_csv)])
        if job is None:
            raise NotFound(msg("This training job no longer exists."), msg("Choose another one."))
        return _priced(_view(job, job.results_csv if results else None), machine_hour)


def results_tail(store: Store, job_id: str) -> tuple[int, str]:
    """Length and last characters of a job's results file: enough to detect a change without reading all of it."""
    text = TrainingJob.results_csv
    query = select(func.length(text), func.substr(text, func.length(text) - _TAIL_CHARS)).where(
        TrainingJob.id == job_id
    )
    with store.reading() as session:
        length, end = session.execute(query).one_or_none() or (0, "")
    return length or 0, end or ""


def _priced(job: JobView, machine_hour: tuple[Decimal, str] | None) -> JobView:
    """The view with the cost of an engine job's machine time: None until its end, or if no price per hour is set."""
    if job.provider != ENGINE:
        return job
    seconds = job.training_s(job.updated_at) if job.finished else None
    return replace(job, cost_usd=machine_time.work_usd(machine_hour, job.provider, job.cost_usd, seconds))


def _view(job: TrainingJob, results_csv: str | None) -> JobView:
    same = {name: getattr(job, name) for name in JobView.__dataclass_fields__ if name not in _OTHER_COLUMNS}
    return JobView(
        **same,
        hyperparameters=dict(job.hyperparameters),
        trackers=dict(job.trackers or {}),
        request=job.requested_action,
        trained_s=job.training_s,
        results_csv=results_csv,
        readers=tuple(job.readers),
    )


def job_settings(job: JobView) -> Mapping[str, Any]:
    """The settings and results of a job, for JSON."""
    names = (
        "id", "name", "provider", "base_model", "fine_tuned_model", "suffix", "method", "hyperparameters", "seed",
        "file_format", "separator", "stop", "dataset_id", "version_id", "validation_share", "parent_id", "n_examples",
        "trained_tokens", "cost_usd", "estimated_usd", "estimated_s", "status", "error", "remote_id", "created_at",
        "finished_at",
    )  # fmt: skip
    return {name: getattr(job, name) for name in names}
