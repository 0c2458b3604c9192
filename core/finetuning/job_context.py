"""One training job that a worker runs: reading and updating its database row, pauses and retries."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.errors import FabulaError, Transient
from core.finetuning import job_cost, job_views
from core.finetuning.job_views import FINISHED, JobView
from core.providers.retry import BACKGROUND, RetryLater, call_with_retries

T = TypeVar("T")
EndHook = Callable[[Session, TrainingJob], None]
"""Called with a job that has just ended, in the transaction that records its end."""

WITHOUT_RESULTS = (defer(TrainingJob.results_csv),)
"""Query option: load a job without its results file, which can be megabytes."""

_RETRIES = replace(BACKGROUND, max_retry_after_s=math.inf)  # longer pauses happen outside the worker
_MIN_RESCHEDULE_S = 8.0  # shorter pauses happen in the worker, because rescheduling costs a few commits
MAX_ACTIVE_JOBS = 32
"""Maximum number of jobs that one worker runs at a time, not counting jobs that wait."""


class JobStopping(Exception):
    """Raised when the worker stops or the job was cancelled; the job is left unchanged."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """One job that a worker runs.

    Attributes:
        stopping: set when the worker stops; ends every pause.
        on_end: see `EndHook`; does nothing by default.
    """

    store: Store
    job_id: str
    stopping: threading.Event
    on_end: EndHook = field(default=lambda session, job: None)

    def view(self) -> JobView:
        """The job's current state, without its results file."""
        return job_views.get(self.store, self.job_id, results=False)

    def update(self, **values: Any) -> None:
        """Update columns and commit. A finished job is not changed."""
        with self.store.session() as session:
            job = session.get_one(TrainingJob, self.job_id, options=WITHOUT_RESULTS)
            if job.status not in FINISHED:
                for name, value in values.items():
                    setattr(job, name, value)
                job.updated_at = utcnow()

    def show_waiting(self, error: FabulaError | None) -> None:
        """Show what the job is waiting for and, for long waits, until when; None means that it no longer waits."""
        job = self.view()
        error_text, next_step = (error.what, error.next_step) if error else (None, None)
        retry_after_s = (error.retry_after_s if isinstance(error, Transient) else None) or 0.0
        not_before = utcnow() + timedelta(seconds=retry_after_s) if retry_after_s >= _MIN_RESCHEDULE_S else None
        if (job.error, job.next_step, job.not_before) != (error_text, next_step, not_before):
            # not `update`, because `updated_at` is the time of the provider's last response
            with self.store.session() as session:
                row = session.get_one(TrainingJob, self.job_id, options=WITHOUT_RESULTS)
                row.error, row.next_step, row.not_before = error_text, next_step, not_before

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            JobStopping: the worker stops.
        """
        if self.stopping.wait(seconds):
            raise JobStopping

    def wait(self, seconds: float) -> None:
        """Wait here if the time is short, otherwise reschedule the job.

        Raises:
            RetryLater: the wait is long.
            JobStopping: the worker stops.
        """
        if seconds >= _MIN_RESCHEDULE_S:
            raise RetryLater(seconds)
        self.pause(seconds)

    def exceeds_capacity(self) -> bool:
        """Whether there are more unfinished jobs than one worker can run at a time."""
        unfinished = select(func.count()).select_from(TrainingJob).where(TrainingJob.status.not_in(FINISHED))
        with self.store.reading() as session:
            return (session.scalar(unfinished) or 0) > MAX_ACTIVE_JOBS

    def with_retries(self, call: Callable[[], T], max_attempts: int | None = None) -> T:
        """Run `call`, retrying with increasing pauses while the provider is unavailable.

        The reason is shown with the job.

        Args:
            call: must be safe to repeat.
            max_attempts: None means no limit until the job is cancelled.

        Raises:
            RateLimited, Unavailable: the last attempt failed.
            JobStopping: the worker stops or the job was cancelled.
            RetryLater: the job is rescheduled, because the provider asks for a longer pause than ours, or because the
                next pause is long and attempts are unlimited.
        """

        def attempt() -> T:
            try:
                return call()
            except Transient as exc:
                if exc.retry_after_s is not None and exc.retry_after_s > _RETRIES.cap_s:
                    self.show_waiting(exc)
                    raise RetryLater(exc.retry_after_s) from exc
                raise

        def pause(seconds: float) -> None:
            (self.wait if max_attempts is None else self.pause)(seconds)
            self.raise_if_cancelled()

        policy = replace(_RETRIES, tries=max_attempts)
        return call_with_retries(attempt, pause=pause, note=self.show_waiting, policy=policy)

    def raise_if_cancelled(self, status: str = "preparing") -> None:
        """Cancel the job if this was requested while the provider does not have it yet (its status is still `status`).

        Raises:
            JobStopping: it was cancelled.
        """
        job = self.view()
        if job.finished:
            raise JobStopping
        if job.request == "cancel" and job.status == status:
            self.update(status="cancelled", requested_action=None, error=None, next_step=None, finished_at=utcnow())
            with self.store.session() as session:
                job_cost.release(session, self.job_id)
            raise JobStopping
