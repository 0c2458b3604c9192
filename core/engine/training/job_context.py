"""Shared context of the job threads: components, job folders, and job failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.engine.api.errors import ApiError, is_disk_full
from core.engine.api.files import Files, source_path
from core.engine.api.models import ModelCatalogue
from core.engine.event_log import add_event
from core.engine.formats.unusable_model import UnusableModel
from core.engine.serving.llama import Pool
from core.engine.store import EngineStore, Job, to_json
from core.engine.training.shared_storage import StorageRefused
from core.message import extra_fields, msg, sentences, with_cause

_log = logging.getLogger(__name__)


class JobFailed(Exception):
    """A job has failed; `code` and `param` have the same meaning as in OpenAI's job errors."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param

    def error(self) -> dict[str, Any]:
        """The value of a job object's `error` field."""
        return {"code": self.code, "message": self.message, "param": self.param, **extra_fields(self.message)}


class JobCancelled(Exception):
    """The job was cancelled in the meantime."""


@dataclass(frozen=True, slots=True)
class EngineJobContext:
    """Components used by the job threads. `on_trained` is called with a finished job's model id."""

    home: Path
    store: EngineStore
    files: Files
    models: ModelCatalogue
    pool: Pool
    threads: int
    on_trained: Callable[[str], None]

    def folder(self, job: Job) -> Path:
        """The job's folder."""
        return self.folder_of(job.id)

    def folder_of(self, job_id: str) -> Path:
        """The folder of the job with this id."""
        return self.home / "jobs" / job_id

    def source(self, job: Job, param: str) -> Path:
        """Path of the job's copy of its training or validation file (`param`), which is kept until it is tokenised."""
        return source_path(self.folder(job), param)

    def status(self, job: Job) -> str:
        """The job's current status."""
        row = self.store.get(Job, job.id)
        return row.status if row else "cancelled"

    def oldest(self, status: str) -> Job | None:
        """The oldest job with this status, if any."""
        rows = self.store.select(Job, "status = ?", (status,), "ORDER BY seq LIMIT 1")
        return rows[0] if rows else None

    def fail(self, job: Job, failure: JobFailed) -> None:
        """Mark a job as failed, unless it was cancelled or paused in the meantime."""
        with self.store.transaction():
            is_active = "status IN ('validating_files', 'queued', 'running')"
            values = {"status": "failed", "error": to_json(failure.error()), "finished_at": int(time.time())}
            if self.store.update(Job, job.id, where=is_active, estimated_finish=None, **values):
                add_event(self.store, job.id, failure.message, level="error")


def describe_error(exc: Exception) -> JobFailed:
    """Convert any exception to a job error."""
    if isinstance(exc, ApiError):
        return JobFailed(exc.message, exc.code or "server_error")
    if isinstance(exc, UnusableModel):
        return JobFailed(with_cause(exc.message, "model_not_found"), exc.code)
    if isinstance(exc, StorageRefused):
        return JobFailed(with_cause(sentences(exc.what, exc.next_step), "storage"), "insufficient_storage")
    if is_disk_full(exc):
        message = with_cause(
            msg(
                "The engine's disk is full or cannot be written. Free some space in its home folder, "
                "then resume or create the job again."
            ),
            "storage",
        )
        return JobFailed(message, "insufficient_storage")
    _log.error("A job failed unexpectedly", exc_info=exc)
    return JobFailed(
        with_cause(msg("The engine failed unexpectedly: {error}. Its log has the details.", error=exc), "server_error"),
        "server_error",
    )
