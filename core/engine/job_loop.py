"""The work on jobs, in two threads: one validates files, one trains, one job at a time.

The status in the store is the truth: the API changes it, the threads act on it. So a kill at any moment loses nothing:
what is `validating_files`, `queued` or `running` at the next start is simply taken up again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

from core.engine.job_context import EngineJobContext
from core.engine.training import TrainingRunner
from core.engine.validator import Validator

_log = logging.getLogger(__name__)

_IDLE_S = 5.0  # how often the queue is looked at without being told


class JobLoop:
    """Starts and stops the two threads."""

    def __init__(self, context: EngineJobContext) -> None:
        self._wakes = (threading.Event(), threading.Event())
        self._leaving = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(step, wake), name=name, daemon=True)
            for step, wake, name in (
                (Validator(context, self._leaving).step, self._wakes[0], "validator"),
                (TrainingRunner(context, self._leaving, self._wakes[1]).step, self._wakes[1], "trainer"),
            )
        ]

    def start(self) -> None:
        """Begin with whatever was left by the last engine."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Something has changed: look now."""
        for wake in self._wakes:
            wake.set()

    def stop(self) -> None:
        """Have a running trainer save and leave; its job goes on at the next start."""
        self._leaving.set()
        self.wake()
        for thread in self._threads:
            thread.join()

    def _loop(self, step: Callable[[], bool], wake: threading.Event) -> None:
        """Do `step` for as long as it finds work; a full disk or a locked database is waited out."""
        while not self._leaving.is_set():
            wake.clear()
            try:
                if step():
                    self.wake()
                    continue
            except (OSError, sqlite3.Error) as exc:
                _log.error("The engine cannot go on with its jobs for now: %s", exc)
            except Exception:
                _log.exception("Unexpected; trying again")
            wake.wait(_IDLE_S)
