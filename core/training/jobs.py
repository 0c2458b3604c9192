"""Training jobs: submit, watch, ask to stop. A job is a line in the ledger first; the worker does the rest."""

from __future__ import annotations

import contextlib
import threading
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost.book import PriceBook
from core.db.store import Store, hold, new_id
from core.db.tables import Dataset, Row, TrainingJob, utcnow
from core.errors import BadTrainingFile, FabulaError, NotFound
from core.providers import Registry, RemoteCheckpoint
from core.settings import Settings
from core.training import submit as handing
from core.training import watch
from core.training.form import JobForm
from core.training.record import Stopping, Work
from core.training.verdict import verdict
from core.training.views import FINISHED, JobEvent, JobView, events, get, list_jobs

__all__ = [
    "FINISHED",
    "JobEvent",
    "JobForm",
    "JobView",
    "carry_out",
    "checkpoints",
    "events",
    "get",
    "give_up",
    "list_jobs",
    "request",
    "submit",
    "verdict",
]

Request = Literal["cancel", "pause", "resume"]
_MEANT_FOR = {"pause": ("running", "queued"), "resume": ("paused",)}


def submit(store: Store, actor: Actor, form: JobForm) -> str:
    """Put a job into the ledger and return its id. The same form again, while the first goes on, is the first.

    Raises:
        FabulaError: the form has something that no provider would take.
        NotFound: the data set is not there.
        BadTrainingFile: it has no finished rows.
        StorageFull: no room.
    """
    form.check()
    with store.session() as session:
        hold(session, "training_jobs")  # two clicks at once must not both find nothing
        if (twin := _twin(session, form)) is not None:
            return twin
        if session.get(Dataset, form.dataset_id) is None:
            raise NotFound("This data set is not there any more.", "Choose another one.")
        done = select(func.count()).select_from(Row).where(Row.dataset_id == form.dataset_id, Row.state == "done")
        if not session.scalar(done):
            raise BadTrainingFile("The data set has no finished rows to train on.", "Generate or load some first.")
        job = TrainingJob(
            id=new_id(),
            dataset_id=form.dataset_id,
            name=form.name.strip(),
            provider=form.provider,
            base_model=form.base_model,
            suffix=form.suffix,
            hyperparameters=form.hyperparameters,
            seed=form.seed,
            file_format=form.file_format,
            separator=form.separator,
            stop=form.stop,
            created_by=actor.id,
        )
        session.add(job)
        return job.id


def carry_out(store: Store, registry: Registry, job_id: str, stopping: threading.Event | None = None) -> None:
    """Bring a job to its end, from wherever it is: prepare, upload, one POST, watch. Returns early once `stopping`.

    Raises:
        FabulaError: the job cannot go on; the ledger does not say so yet (see `give_up`).
    """
    work = Work(store, job_id, stopping or threading.Event())
    if work.view().finished:
        return
    with contextlib.suppress(Stopping):
        handing.hand_over(work, registry)
        watch.follow(work, registry, PriceBook.load(Settings.from_env().home))


def give_up(store: Store, job_id: str, error: FabulaError) -> None:
    """Write down that a job has failed, and why."""
    failed = {"status": "failed", "error": error.what, "next_step": error.next_step or None, "finished_at": utcnow()}
    Work(store, job_id, threading.Event()).write(**failed, stop_requested=None)


def request(store: Store, actor: Actor, job_id: str, what: Request) -> None:
    """Ask for a job to be cancelled, paused or resumed; it happens within seconds, see `JobView.request`.

    Raises:
        NotFound: there is no such job.
        FabulaError: the job is not in a state in which that makes sense.
    """
    with store.session() as session:
        job = session.get(TrainingJob, job_id)
        if job is None:
            raise NotFound("This training job is not there any more.", "Choose another one.")
        if job.status in FINISHED:
            raise FabulaError(f"The job has ended already: {job.status}.", "Start a new one to train more.")
        if job.status not in _MEANT_FOR.get(what, (job.status,)):
            raise FabulaError(f"The job cannot {what} now: it is {job.status}.", "Wait until it has come further.")
        job.stop_requested = what


def checkpoints(registry: Registry, job: JobView) -> list[RemoteCheckpoint]:
    """The job's checkpoints by step, asked of its provider: call it from a cached wrapper, not in every rerun.

    Raises:
        FabulaError: the provider does not answer.
    """
    return registry.get(job.provider).checkpoints(job.remote_id) if job.remote_id else []


def _twin(session: Session, form: JobForm) -> str | None:
    """An unfinished job of exactly this form."""
    alike = select(TrainingJob).where(
        TrainingJob.status.not_in(FINISHED),
        TrainingJob.dataset_id == form.dataset_id,
        TrainingJob.name == form.name.strip(),
        TrainingJob.provider == form.provider,
        TrainingJob.base_model == form.base_model,
        TrainingJob.suffix == form.suffix,
        TrainingJob.seed == form.seed,
        TrainingJob.file_format == form.file_format,
    )
    for job in session.scalars(alike):
        marks = form.separator in (None, job.separator) and form.stop in (None, job.stop)
        if marks and job.hyperparameters == form.hyperparameters:
            return job.id
    return None
