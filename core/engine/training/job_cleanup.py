"""Cleans up after jobs that no longer train: their trainers, and large files."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from core.engine.training.job_claims import JobClaims
from core.engine.training.job_context import EngineJobContext
from core.engine.training.launcher import Launcher, LauncherUnavailable

_log = logging.getLogger(__name__)

_LARGE = ("*.npz", "*.gguf", "*.safetensors", "*.source")  # files that are not needed after a job has ended


class JobCleanup:
    """One thread's work, so that a slow disk or cluster delays no job, and nothing is deleted twice at once."""

    def __init__(self, context: EngineJobContext, launcher: Launcher, claims: JobClaims) -> None:
        self._context, self._launcher, self._claims = context, launcher, claims

    def step(self) -> bool:
        """Clean up once; False, because there is nothing to continue with."""
        for clean_up in (self._ask_to_stop, self._free_space, self._end):
            try:
                clean_up()
            except (OSError, LauncherUnavailable) as exc:  # the next step tries again
                _log.warning("What jobs that no longer train have left cannot be cleaned up: %s", exc)
        return False

    def _ask_to_stop(self) -> None:
        """Stop the trainers of paused and failed jobs that were not stopped because the engine was killed."""
        self._claims.each_unclaimed(
            "status IN ('paused', 'failed')", lambda job: self._launcher.abandon(self._context.folder(job))
        )

    def _free_space(self) -> None:
        """Delete the large files of ended jobs."""
        for job in self._claims.unclaimed("status IN ('succeeded', 'cancelled')"):
            _delete_large_files(self._context.folder(job))
            self._launcher.forget(self._context.folder(job))

    def _end(self) -> None:
        """End trainers that could not be ended before."""
        for job in self._claims.unclaimed("status IN ('paused', 'failed', 'succeeded', 'cancelled')"):
            self._launcher.end_left_over(self._context.folder(job))


def _delete_large_files(folder: Path) -> None:
    """Delete an ended job's large files; metrics, events and log are kept."""
    for path in (path for pattern in _LARGE for path in folder.glob(pattern)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
