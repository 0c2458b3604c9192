"""Fine-tuning at an endpoint: files, jobs, events, checkpoints. Idempotent calls are retried, job creation never is."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from core.errors import BadFile, ProviderError
from core.message import msg, restored
from core.providers.connection import Connection
from core.providers.errors import not_an_api_answer, translate_errors, tuning_closed, without_key
from core.providers.metric_parser import metrics
from core.providers.schemas import JobRequest, Provider, RemoteCheckpoint, RemoteEvent, RemoteJob

INTENT = "fabula_intent"  # metadata key that links a remote job to its record in the ledger
_HYPERPARAMETERS = (
    "n_epochs", "batch_size", "learning_rate_multiplier",
    "lora_rank", "lora_alpha", "warmup", "schedule", "early_stopping", "beta",
)  # fmt: skip
_PAGE = 100  # OpenAI's maximum page size
NEWEST = 1000  # how many of the newest jobs are searched for a lost one; a lost job is noticed within minutes
_NEWEST_EVENTS = 2000  # far more than arrive between two polls


class FineTuning(Connection):
    """Calls for fine-tuning."""

    def upload(
        self, path: Path, purpose: str = "fine-tune", on_progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Upload a file and return its remote id. Not retried, because a second upload would create a second file.

        Args:
            path: the local file.
            purpose: its purpose in the API.
            on_progress: called with (bytes sent, total bytes).

        Raises:
            BadFile: the local file cannot be read.
            ProviderError: the upload failed.
        """
        with open_with_progress(path, on_progress) as file:

            def call() -> str:
                sent: Any = {"file": (path.name, file), "purpose": purpose}
                return str(self._sdk().files.create(**sent).id)

            return self._once(call)

    def create_job(self, request: JobRequest, intent_id: str) -> RemoteJob:
        """Create a fine-tuning job with exactly one POST. After any error, check with `find_job` before sending again.

        Raises:
            ProviderError: the endpoint returned an error, or did not respond (then the job may exist).
        """
        hyperparameters = {name: getattr(request, name) for name in _HYPERPARAMETERS}
        method_options = {
            "hyperparameters": {name: value for name, value in hyperparameters.items() if value is not None}
        }
        body: dict[str, Any] = {
            "model": request.model,
            "training_file": request.training_file,
            "method": {"type": request.method, request.method: method_options},
            "metadata": {INTENT: intent_id},
        }
        for name in ("validation_file", "suffix", "seed"):
            if (value := getattr(request, name)) is not None:
                body[name] = value
        if request.integrations:  # https://platform.openai.com/docs/api-reference/fine-tuning/create
            body["integrations"] = [
                {"type": kind, kind: {"project": project}} for kind, project in request.integrations
            ]
        try:
            return self._once(lambda: self._job(self._sdk().fine_tuning.jobs.create(**body)))
        except ProviderError as error:
            specific = tuning_closed(error, self.provider)
            if specific is error:
                raise
            raise specific from error

    def find_job(self, intent_id: str) -> RemoteJob | None:
        """Find the job with this intent id in its metadata among the newest 1,000; None if it was never created."""

        def call() -> RemoteJob | None:
            jobs: Iterable[FineTuningJob] = self._sdk().fine_tuning.jobs.list(limit=_PAGE)
            for job in islice(jobs, NEWEST):
                if (job.metadata or {}).get(INTENT) == intent_id:
                    return self._job(job)
            return None

        return self._with_retries(call)

    def jobs(self) -> Iterator[RemoteJob]:
        """All of the account's jobs, newest first; pages are fetched lazily."""
        return (self._job(job) for job in self._with_retries(lambda: self._sdk().fine_tuning.jobs.list(limit=_PAGE)))

    def files(self) -> Iterator[tuple[str, str]]:
        """(id, name) of all of the account's files, newest first."""
        return ((file.id, file.filename) for file in self._with_retries(lambda: self._sdk().files.list(order="desc")))

    def job(self, job_id: str) -> RemoteJob:
        """The current state of the job."""
        return self._with_retries(lambda: self._job(self._sdk().fine_tuning.jobs.retrieve(job_id)))

    def cancel(self, job_id: str) -> RemoteJob:
        """Cancel the job. Not retried."""
        return self._once(lambda: self._job(self._sdk().fine_tuning.jobs.cancel(job_id)))

    def pause(self, job_id: str) -> RemoteJob:
        """Pause the job. Not retried."""
        return self._once(lambda: self._job(self._sdk().fine_tuning.jobs.pause(job_id)))

    def resume(self, job_id: str) -> RemoteJob:
        """Resume a paused job. Not retried."""
        return self._once(lambda: self._job(self._sdk().fine_tuning.jobs.resume(job_id)))

    def events(self, job_id: str, after: str | None = None) -> list[RemoteEvent]:
        """The job's events that are newer than the event with id `after`, oldest first.

        OpenAI lists events newest first, and its own `after` means *older than*; here, reading stops at that event.
        """

        def call() -> list[RemoteEvent]:
            newer: list[RemoteEvent] = []
            events: Iterable[FineTuningJobEvent] = self._sdk().fine_tuning.jobs.list_events(job_id, limit=_PAGE)
            for event in islice(events, _NEWEST_EVENTS):
                if event.id == after:
                    break
                newer.append(_event(event, self.provider))
            return newer[::-1]

        return self._with_retries(call)

    def checkpoints(self, job_id: str) -> list[RemoteCheckpoint]:
        """The job's checkpoints, ordered by step."""

        def call() -> list[RemoteCheckpoint]:
            listed: Iterable[FineTuningJobCheckpoint] = self._sdk().fine_tuning.jobs.checkpoints.list(
                job_id, limit=_PAGE
            )
            return sorted((_checkpoint(c) for c in listed), key=lambda c: c.step)

        return self._with_retries(call)

    def file_text(self, file_id: str) -> str:
        """Content of a remote file, decoded as UTF-8; invalid bytes are replaced."""
        return self._with_retries(lambda: self._sdk().files.content(file_id).content.decode("utf-8-sig", "replace"))

    def _job(self, job: FineTuningJob) -> RemoteJob:
        if not isinstance(job.id, str) or not isinstance(job.status, str):
            raise not_an_api_answer(self.provider)
        used = (job.method.dpo or job.method.supervised) if job.method else None
        extra = _engine_fields(job)
        parameters = (used.hyperparameters if used else None) or job.hyperparameters
        return RemoteJob(
            id=job.id,
            status=job.status,
            model=job.model,
            fine_tuned_model=job.fine_tuned_model,
            error=_error(job, self.provider),
            trained_tokens=job.trained_tokens,
            estimated_finish=_timestamp(job.estimated_finish),
            result_files=tuple(job.result_files or ()),
            training_file=job.training_file,
            validation_file=job.validation_file,
            created_at=_timestamp(job.created_at),
            finished_at=_timestamp(job.finished_at),
            seed=job.seed,
            hyperparameters=parameters.to_dict() if parameters else {},
            intent=(job.metadata or {}).get(INTENT),
            training_s=_number(extra.get("training_seconds")),
            queue_position=None if (position := _number(extra.get("queue_position"))) is None else int(position),
            estimated_start=_timestamp(_number(extra.get("estimated_start"))),
        )


def _error(job: FineTuningJob, provider: Provider) -> str | None:
    if not job.error or not job.error.message:
        return None
    return restored(without_key(job.error.message, provider), job.error.model_extra)


def _event(event: FineTuningJobEvent, provider: Provider) -> RemoteEvent:
    return RemoteEvent(
        id=event.id,
        at=_timestamp(event.created_at) or datetime.fromtimestamp(0, UTC),
        level=event.level or "info",
        message=restored(without_key(event.message or "", provider), event.data),
        type=event.type or "message",
        data=event.data if isinstance(event.data, Mapping) else {},
    )


def _checkpoint(checkpoint: FineTuningJobCheckpoint) -> RemoteCheckpoint:
    measured = checkpoint.metrics.to_dict() if checkpoint.metrics else {}
    return RemoteCheckpoint(
        id=checkpoint.id,
        step=int(checkpoint.step_number),
        model=checkpoint.fine_tuned_model_checkpoint,
        created_at=_timestamp(checkpoint.created_at),
        metrics=metrics(measured),
    )


def _engine_fields(job: FineTuningJob) -> Mapping[str, Any]:
    """The field `fabula` that the engine adds to a job object."""
    extra = (job.model_extra or {}).get("fabula")
    return extra if isinstance(extra, Mapping) else {}


def _number(value: object) -> float | None:
    """Return a finite, non-negative number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _timestamp(unix_s: float | None) -> datetime | None:
    return datetime.fromtimestamp(unix_s, UTC) if unix_s else None


def open_with_progress(path: Path, on_progress: Callable[[int, int], None] | None) -> ProgressFile:
    """Open a file for upload.

    Raises:
        BadFile: the file cannot be read.
    """
    try:
        return ProgressFile(path, on_progress)
    except OSError as exc:
        raise BadFile(
            msg("{name} cannot be read: {reason}.", name=path.name, reason=exc.strerror),
            msg("Prepare the training file again."),
        ) from exc


class ProgressFile(io.FileIO):
    """A file that reports how much of it has been read."""

    def __init__(self, path: Path, on_progress: Callable[[int, int], None] | None) -> None:
        super().__init__(path, "rb")
        self._size = path.stat().st_size
        self._on_progress = on_progress

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size)
        if self._on_progress is not None and data:
            self._on_progress(self.tell(), self._size)
        return data


def training_file_name(intent_id: str) -> str:
    """File name under which an intent's training file is uploaded."""
    return f"fabula-{intent_id}.jsonl"


def find_job_by_file(client: FineTuning, intent_id: str) -> RemoteJob | None:
    """Find the job that was created with a file of this name (shared by all uploads of an intent); None if there is
    none.
    """
    with translate_errors(client.provider):  # iteration fetches further pages
        file_ids = {
            file_id for file_id, name in islice(client.files(), NEWEST) if name == training_file_name(intent_id)
        }
        if not file_ids:
            return None
        return next((job for job in islice(client.jobs(), NEWEST) if job.training_file in file_ids), None)
