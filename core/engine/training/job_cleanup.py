"""Cleans up after jobs that no longer train: their trainers, and large files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from core.engine.training.job_claims import JobClaims
from core.engine.training.job_context import EngineJobContext
from core.engine.training.launcher import Launcher, LauncherUnavailable
from core.engine.training.shared_storage import StorageRefused, StorageUnreachable

_log = logging.getLogger(__name__)

_CAN_BE_RESUMED = "status = 'paused' OR (status = 'failed' AND started_at IS NOT NULL)"
_HAS_ENDED = "status IN ('succeeded', 'cancelled') OR (status = 'failed' AND started_at IS NULL)"
_LARGE = ("*.npz", "*.gguf", "*.safetensors", "*.source", "*.part")  # not needed after a job has ended


class JobCleanup:
    """One thread's work, so that a slow disk or cluster delays no job, and nothing is deleted twice at once."""

    def __init__(self, context: EngineJobContext, launcher: Launcher, claims: JobClaims) -> None:
        self._context, self._launcher, self._claims = context, launcher, claims
        self._clean: set[str] = set()  # ended jobs of which nothing is left; after a start, each is looked at once

    def step(self) -> bool:
        """Clean up once; False, because there is nothing to continue with. The next step tries again what failed."""
        with self._claims.none_taken():  # a job that is resumed meanwhile must not be stopped
            self._each(self._claims.unclaimed(_CAN_BE_RESUMED), self._ask_to_stop)
        ended = self._claims.unclaimed(_HAS_ENDED, but=self._clean)
        freed = self._each(ended, self._free_space)
        stopped = self._each([*self._claims.unclaimed(_CAN_BE_RESUMED), *ended], self._launcher.end_left_over)
        self._clean |= freed & stopped
        return False

    def _each(self, job_ids: Iterable[str], clean_up: Callable[[Path], bool]) -> set[str]:
        """Call `clean_up` with the folder of each job; return those for which it left nothing to do."""
        done: set[str] = set()
        for job_id in job_ids:
            try:
                if clean_up(self._context.folder_of(job_id)):
                    done.add(job_id)
            except (OSError, LauncherUnavailable) as exc:
                _log.warning("What %s has left cannot be cleaned up: %s", job_id, exc)
                if isinstance(exc, (LauncherUnavailable, StorageUnreachable, StorageRefused)):
                    break  # it would be the same with the others
        return done

    def _ask_to_stop(self, folder: Path) -> bool:
        """Stop the trainer of a job that was not stopped because the engine was killed."""
        self._launcher.abandon(folder)
        return True

    def _free_space(self, folder: Path) -> bool:
        """Delete an ended job's large files, here and where its trainers ran; metrics, events and log are kept."""
        delete_large_files(folder)
        self._launcher.forget(folder)
        return True


def delete_large_files(folder: Path) -> None:
    """Delete an ended job's large files in its folder."""
    for path in (path for pattern in _LARGE for path in folder.glob(pattern)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
