"""Which job trains next, when several can train at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager

from core.engine.store import Job
from core.engine.training.job_context import EngineJobContext
from core.engine.training.launcher import Launcher


class JobClaims:
    """Which jobs have a thread, so that two threads never train the same one."""

    def __init__(self, context: EngineJobContext, launcher: Launcher) -> None:
        self._context, self._launcher = context, launcher
        self._claimed: set[str] = set()
        self._lock = threading.RLock()  # `unclaimed` is called within `none_taken`

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

    @contextmanager
    def none_taken(self) -> Iterator[None]:
        """No job is claimed meanwhile."""
        with self._lock:
            yield

    def unclaimed(self, where: str, but: Set[str] = frozenset()) -> list[str]:
        """The ids of the jobs for which the SQL condition `where` holds, newest first, except those that have a thread
        and those in `but`.
        """
        with self._lock:
            rows = self._context.store.query(f"SELECT id FROM jobs WHERE {where} ORDER BY seq DESC")
            return [job_id for (job_id,) in rows if job_id not in self._claimed and job_id not in but]

    def _oldest(self, status: str) -> Job | None:
        jobs = self._context.store.select(Job, "status = ?", (status,), "ORDER BY seq")
        return next((job for job in jobs if job.id not in self._claimed), None)
