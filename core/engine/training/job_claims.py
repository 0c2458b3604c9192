"""Which job trains next, when several can train at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from core.engine.store import Job
from core.engine.training.job_context import EngineJobContext
from core.engine.training.launcher import Launcher


class JobClaims:
    """Which jobs have a thread, so that two threads never train the same one."""

    def __init__(self, context: EngineJobContext, launcher: Launcher) -> None:
        self._context, self._launcher = context, launcher
        self._claimed: set[str] = set()
        self._lock = threading.Lock()

    def take(self) -> Job | None:
        """Claim the oldest interrupted job, otherwise the oldest queued job if there is room for it."""
        with self._lock:
            job = self._oldest("running")
            if job is None:
                job = self._oldest("queued")
                if job is not None and not self._launcher.has_room(len(self._claimed)):
                    return None
            if job is not None:
                self._claimed.add(job.id)
            return job

    def release(self, job: Job) -> None:
        """Give up a claim."""
        with self._lock:
            self._claimed.discard(job.id)

    def each_unclaimed(self, where: str, act: Callable[[Job], None]) -> None:
        """Call `act` with the newest jobs for which the SQL condition `where` holds, except those that have a thread.

        No job is claimed meanwhile.
        """
        with self._lock:
            for job in self._newest(where):
                act(job)

    def unclaimed(self, where: str) -> list[Job]:
        """The newest jobs for which the SQL condition `where` holds, except those that have a thread."""
        with self._lock:
            return self._newest(where)

    def _newest(self, where: str) -> list[Job]:
        jobs = self._context.store.select(Job, where, (), "ORDER BY seq DESC LIMIT 50")
        return [job for job in jobs if job.id not in self._claimed]

    def _oldest(self, status: str) -> Job | None:
        jobs = self._context.store.select(Job, "status = ?", (status,), "ORDER BY seq")
        return next((job for job in jobs if job.id not in self._claimed), None)
