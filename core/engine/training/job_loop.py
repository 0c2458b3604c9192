"""The threads that work on jobs: one validates files, one cleans up, and there is one for each job that can train at
once.

Nothing is lost if the engine is killed at any time: jobs that are `validating_files`, `queued` or `running` at the next
start are resumed.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

from core.engine.training.file_validation import Validator
from core.engine.training.job_claims import JobClaims
from core.engine.training.job_cleanup import JobCleanup
from core.engine.training.job_context import EngineJobContext
from core.engine.training.launcher import Launcher
from core.engine.training.training_runner import IDLE_S, TrainingRunner

_log = logging.getLogger(__name__)


class JobLoop:
    """Starts and stops the threads."""

    def __init__(self, context: EngineJobContext, launcher: Launcher) -> None:
        self._stopping = threading.Event()
        self._wakes = [threading.Event() for _ in range(2 + launcher.max_jobs)]
        claims = JobClaims(context, launcher)
        validator = Validator(context, self._stopping)
        steps = [
            ("validator", validator.step, self._wakes[0]),
            ("cleanup", JobCleanup(context, launcher, claims).step, self._wakes[1]),
        ]
        for wake in self._wakes[2:]:
            steps.append(("trainer", TrainingRunner(context, launcher, claims, self._stopping, wake).step, wake))
        self._threads = [
            threading.Thread(target=self._loop, args=(step, wake), name=name, daemon=True) for name, step, wake in steps
        ]

    def start(self) -> None:
        """Start the threads; they resume unfinished jobs."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Make the threads check for work now."""
        for wake in self._wakes:
            wake.set()

    def begin_stop(self) -> None:
        """Tell the threads to stop; returns at once. A running trainer saves its state, and its job resumes at the next
        start."""
        self._stopping.set()
        self.wake()

    def stop(self) -> None:
        """Stop the threads, and wait until they have ended."""
        self.begin_stop()
        for thread in self._threads:
            thread.join()

    def _loop(self, step: Callable[[], bool], wake: threading.Event) -> None:
        """Call `step` repeatedly while it finds work; retry if the disk is full or the database is locked."""
        while not self._stopping.is_set():
            wake.clear()
            try:
                if step():
                    self.wake()
                    continue
            except (OSError, sqlite3.Error) as exc:
                _log.error("The engine cannot process jobs for now: %s", exc)
            except Exception:
                _log.exception("Unexpected error; retrying")
            wake.wait(IDLE_S)
