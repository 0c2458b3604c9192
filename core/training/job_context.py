"""A job's line in the ledger, as the worker reads and writes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import defer

from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.errors import FabulaError, RateLimited, Unavailable
from core.rescheduling import RetryLater
from core.training import billing, job_views
from core.training.job_views import FINISHED, JobView

T = TypeVar("T")

LIGHT = (defer(TrainingJob.results_csv),)
"""Read a job's line without its results file: with many steps that is megabytes, at every look."""

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 30.0
_SHORTEST_WAIT_S = 8.0  # shorter pauses are made in place: another go costs some commits
AT_ONCE = 32
"""Jobs that one worker has in hand at most; those that wait do not count."""


class JobStopping(Exception):
    """The worker stops, or the job was cancelled meanwhile: leave it as it is."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """One job in a worker's hand.

    Attributes:
        stopping: set when the worker stops; every pause waits on it.
    """

    store: Store
    job_id: str
    stopping: threading.Event

    def view(self) -> JobView:
        """The job as it is in the ledger now, without its results file."""
        return job_views.get(self.store, self.job_id, results=False)

    def write(self, **values: Any) -> None:
        """Set columns, durably; a job that is finished stays as it is."""
        with self.store.session() as session:
            job = session.get_one(TrainingJob, self.job_id, options=LIGHT)
            if job.status not in FINISHED:
                for name, value in values.items():
                    setattr(job, name, value)
                job.updated_at = utcnow()

    def note(self, error: FabulaError | None) -> None:
        """Show what the job waits for, and until when where it waits elsewhere; or that it waits no more."""
        job = self.view()
        what, next_step = (error.what, error.next_step) if error else (None, None)
        asked_s = getattr(error, "retry_after_s", None) or 0.0
        not_before = utcnow() + timedelta(seconds=asked_s) if asked_s >= _SHORTEST_WAIT_S else None
        if (job.error, job.next_step, job.not_before) != (what, next_step, not_before):
            with self.store.session() as session:  # not `write`: this is no news from the provider
                row = session.get_one(TrainingJob, self.job_id, options=LIGHT)
                row.error, row.next_step, row.not_before = what, next_step, not_before

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            JobStopping: the worker stops.
        """
        if self.stopping.wait(seconds):
            raise JobStopping

    def wait(self, seconds: float) -> None:
        """Wait here when it is short; else give the job's place back.

        Raises:
            RetryLater: it is not short.
            JobStopping: the worker stops.
        """
        if seconds >= _SHORTEST_WAIT_S:
            raise RetryLater(seconds)
        self.pause(seconds)

    def crowded(self) -> bool:
        """Whether there are more unfinished jobs than one worker has in hand at once."""
        unfinished = select(func.count()).select_from(TrainingJob).where(TrainingJob.status.not_in(FINISHED))
        with self.store.reading() as session:
            return (session.scalar(unfinished) or 0) > AT_ONCE

    def patiently(self, call: Callable[[], T], give_up_after: int | None = None) -> T:
        """`call()`, again after growing pauses while the provider is away; the job says meanwhile what it waits for.

        Args:
            call: safe to repeat.
            give_up_after: how many tries, or None: as long as it takes, or until the job is cancelled. A pause that the
                provider asks for, longer than any of ours, is no reason to give up.

        Raises:
            RateLimited, Unavailable: the last try failed too.
            JobStopping: the worker stops, or the job was cancelled.
            RetryLater: the next try is far away, and tries are not counted or the provider asked for the pause: the
                job's place is given back until then.
        """
        tries = 0
        while True:
            try:
                result = call()
            except (RateLimited, Unavailable) as exc:
                tries += 1
                asked_s = getattr(exc, "retry_after_s", None) or 0.0
                if asked_s > _LONGEST_PAUSE_S:
                    give_up_after = None
                if give_up_after is not None and tries >= give_up_after:
                    raise
                self.note(exc)
                pause_s = max(asked_s, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(tries - 1, 10)))
                if give_up_after is None:
                    self.wait(pause_s)
                else:
                    self.pause(pause_s)
                self.raise_if_cancelled()
            else:
                if tries:
                    self.note(None)
                return result

    def raise_if_cancelled(self, status: str = "preparing") -> None:
        """End a job here when somebody cancelled it and, being in `status`, its provider does not have it.

        Raises:
            JobStopping: it was cancelled.
        """
        job = self.view()
        if job.finished:
            raise JobStopping
        if job.request == "cancel" and job.status == status:
            self.write(status="cancelled", stop_requested=None, error=None, next_step=None, finished_at=utcnow())
            with self.store.session() as session:
                billing.release(session, self.job_id)
            raise JobStopping
