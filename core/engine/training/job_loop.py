"""Processes jobs in two threads: one validates files, the other trains one job at a time.

The API changes the status in the store, and the threads act on it. So a kill at any time loses nothing: jobs that are
`validating_files`, `queued` or `running` at the next start are resumed.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

from core.engine.formats.validator import Validator
from core.engine.training.job_context import EngineJobContext
from core.engine.training.training_runner import TrainingRunner

_log = logging.getLogger(__name__)

_IDLE_S = 5.0  # how often the queue is polled without a wake-up


class JobLoop:
    """Starts and stops the two threads."""

    def __init__(self, context: EngineJobContext) -> None:
        self._wakes = (threading.Event(), threading.Event())
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(step, wake), name=name, daemon=True)
            for step, wake, name in (
                (Validator(context, self._stopping).step, self._wakes[0], "validator"),
                (TrainingRunner(context, self._stopping, self._wakes[1]).step, self._wakes[1], "trainer"),
            )
        ]

    def start(self) -> None:
        """Start the threads; they resume unfinished jobs."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Make the threads check for work now."""
        for wake in self._wakes:
            wake.set()

    def stop(self) -> None:
        """Stop the threads. A running trainer saves its state; its job resumes at the next start."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join()

    def _loop(self, step: Callable[[], bool], wake: threading.Event) -> None:
        """Call `step` repeatedly while it finds work; retry after a full disk or a locked database."""
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
            wake.wait(_IDLE_S)
