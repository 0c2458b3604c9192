"""What the threads that work on jobs share: where things are, and how a job fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.engine.errors import ApiError, is_disk_full
from core.engine.event_log import add_event
from core.engine.files import Files, source_path
from core.engine.llama import Pool
from core.engine.models import ModelCatalogue
from core.engine.store import EngineStore, Job, to_json
from core.engine.tokenization import JobFailed
from core.message import msg

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineJobContext:
    """What both threads work with. `trained` is called with the model id of a finished job."""

    home: Path
    store: EngineStore
    files: Files
    models: ModelCatalogue
    pool: Pool
    threads: int
    trained: Callable[[str], None]

    def folder(self, job: Job) -> Path:
        """The job's own folder."""
        return self.home / "jobs" / job.id

    def source(self, job: Job, param: str) -> Path:
        """The job's own copy of its training or validation file (`param`), kept until it has been tokenised."""
        return source_path(self.folder(job), param)

    def status(self, job: Job) -> str:
        """The job's status now."""
        row = self.store.get(Job, job.id)
        return row.status if row else "cancelled"

    def oldest(self, status: str) -> Job | None:
        """The job that has been in this status's queue the longest."""
        rows = self.store.select(Job, "status = ?", (status,), "ORDER BY seq LIMIT 1")
        return rows[0] if rows else None

    def fail(self, job: Job, failure: JobFailed) -> None:
        """End a job with a reason, unless it has been cancelled or paused meanwhile."""
        with self.store.transaction():
            alive = "status IN ('validating_files', 'queued', 'running')"
            ended = {"status": "failed", "error": to_json(failure.error()), "finished_at": int(time.time())}
            if self.store.update(Job, job.id, where=alive, estimated_finish=None, **ended):
                add_event(self.store, job.id, failure.message, level="error")


def describe_error(exc: Exception) -> JobFailed:
    """Whatever went wrong, as a job's error."""
    if isinstance(exc, ApiError):
        return JobFailed(exc.message, exc.code or "server_error")
    if is_disk_full(exc):
        message = msg(
            "The engine's disk is full or cannot be written. Free some space in its home folder, "
            "then resume or create the job again."
        )
        return JobFailed(message, "insufficient_storage")
    _log.error("A job failed unexpectedly", exc_info=exc)
    return JobFailed(msg("The engine failed unexpectedly: {exc}. Its log has the details.", exc=exc), "server_error")
