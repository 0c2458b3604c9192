"""Training jobs: submit, watch, ask to stop. A job is a line in the ledger first; the worker does the rest."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import custom_prices
from core.dataset import versions
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Checkpoint, Dataset, Row, TrainingJob, utcnow
from core.errors import BadTrainingFile, FabulaError, NotFound
from core.message import msg
from core.providers import Registry
from core.rescheduling import RetryLater
from core.settings import Settings
from core.training import billing, tracker_logging, watch
from core.training import submit as handing
from core.training.job_context import AT_ONCE, JobContext, JobStopping
from core.training.job_explanation import explain
from core.training.job_form import PROJECT, JobForm
from core.training.job_views import FINISHED, JobEvent, JobView, events, get, last_event, list_jobs, may_go_on

__all__ = [
    "AT_ONCE",
    "FINISHED",
    "JobEvent",
    "JobForm",
    "JobView",
    "Request",
    "carry_out",
    "clone",
    "events",
    "explain",
    "get",
    "give_up",
    "is_allowed",
    "last_event",
    "list_jobs",
    "pending_requests",
    "request",
    "retry_now",
    "submit",
]

Request = Literal["cancel", "pause", "resume"]
_LONGEST_CLONE = 190  # characters of a name that leave room for what is added
_MEANT_FOR: Mapping[Request, tuple[str, ...]] = {"pause": ("running", "queued"), "resume": ("paused",)}


def submit(store: Store, actor: Actor, form: JobForm) -> str:
    """Put a job into the ledger and return its id. The same form again, while the first goes on, is the first.

    Raises:
        FabulaError: the form has something that no provider would take.
        NotFound: the data set, or its version, is not there.
        BadTrainingFile: it has no finished rows.
        OverBudget: what it is expected to cost would go over a budget.
        StorageFull: no room.
    """
    form.check()
    form = _with_version(store, actor, form)
    with store.session() as session:
        advisory_lock(session, "training_jobs")  # two clicks at once must not both find nothing
        if (twin := _twin(session, form)) is not None:
            return twin
        if session.get(Dataset, form.dataset_id) is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        done = select(func.count()).select_from(Row).where(Row.dataset_id == form.dataset_id, Row.state == "done")
        if not session.scalar(done):
            raise BadTrainingFile(
                msg("The data set has no finished rows to train on."), msg("Generate or load some first.")
            )
        version = versions.get(store, form.version_id) if form.version_id is not None else None
        if version is not None and version.dataset_id != form.dataset_id:
            raise NotFound(msg("This version no longer exists."), msg("Choose another one."))
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
            version_id=form.version_id,
            validation_share=_validation_share(version),
            parent_id=_parent(session, form),
            estimated_usd=form.estimated_usd,
            estimated_s=form.estimated_s,
            trackers={name: {"project": form.project.strip()} for name in form.trackers} or None,
            created_by=actor.id,
        )
        session.add(job)
        session.flush()
        billing.reserve(session, actor, job)
        return job.id


def clone(store: Store, job_id: str) -> JobForm:
    """A job's settings, to be changed and submitted again. Its estimate is not among them: prices move.

    Raises:
        NotFound: there is no such job, or its data set is gone.
    """
    job = get(store, job_id)
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and submit again."))
    return JobForm(
        dataset_id=job.dataset_id,
        name=f"{job.name[:_LONGEST_CLONE]} (again)",
        provider=job.provider,
        base_model=job.base_model,
        suffix=job.suffix,
        seed=job.seed,
        file_format="chat" if job.file_format == "chat" else "completion",
        separator=job.separator,
        stop=job.stop,
        version_id=job.version_id,
        trackers=tuple(job.trackers),
        project=next((str(one.get("project", PROJECT)) for one in job.trackers.values()), PROJECT),
        **job.hyperparameters,
    )


def carry_out(store: Store, registry: Registry, job_id: str, stopping: threading.Event | None = None) -> float | None:
    """Bring a job to its end, from wherever it is: prepare, upload, one POST, watch. Returns early once `stopping`.

    Returns:
        Seconds until it is to be taken up again, where it waits (paused, in line, its provider away); else None.

    Raises:
        FabulaError: the job cannot go on; the ledger does not say so yet (see `give_up`).
    """
    context = JobContext(store, job_id, stopping or threading.Event())
    if context.view().finished:
        return None
    try:
        handing.submit_to_provider(context, registry)
        tracker_logger = tracker_logging.TrackerLogger(store, context.view())
        try:
            watch.follow(context, registry, custom_prices.book(store, Settings.from_env().home), tracker_logger)
            tracker_logger.end()
        finally:
            tracker_logger.leave()
    except RetryLater as exc:
        return exc.seconds
    except JobStopping:
        pass  # it is left as it is
    return None


def give_up(store: Store, job_id: str, error: FabulaError) -> None:
    """Write down that a job has failed, and why. One that has ended stays as it ended."""
    failed = {"status": "failed", "error": error.what, "next_step": error.next_step or None, "finished_at": utcnow()}
    context = JobContext(store, job_id, threading.Event())
    with store.session() as session:
        if context.view().finished:
            return
        context.write(**failed, stop_requested=None)
        if context.view().remote_id is None:  # nothing runs there, and nothing will be billed
            billing.release(session, job_id)


def request(store: Store, actor: Actor, job_id: str, what: Request) -> None:
    """Ask for a job to be cancelled, paused or resumed; it happens within seconds, see `JobView.request`.

    Raises:
        NotFound: there is no such job.
        FabulaError: the job is not in a state in which that makes sense.
    """
    with store.session() as session:
        job = session.get(TrainingJob, job_id)
        if job is None:
            raise NotFound(msg("This training job no longer exists."), msg("Choose another one."))
        if what == "resume" and may_go_on(job.status, job.provider, job.remote_id, job.error):
            job.status, job.finished_at, job.updated_at = "queued", None, utcnow()
            job.error = job.next_step = None
        elif job.status in FINISHED:
            raise FabulaError(
                msg("The job has ended already: {status}.", status=job.status), msg("Start a new one to train more.")
            )
        elif job.status not in _MEANT_FOR.get(what, (job.status,)):
            raise FabulaError(
                msg("The job cannot {what} now: it is {status}.", what=what, status=job.status),
                msg("Wait until the job has progressed, then try again."),
            )
        job.stop_requested = what


def retry_now(store: Store, actor: Actor, job_id: str) -> None:
    """Ask the provider of a job that waits again at once, without the pause that it has asked for.

    Raises:
        NotFound: there is no such job.
    """
    with store.session() as session:
        job = session.get(TrainingJob, job_id)
        if job is None:
            raise NotFound(msg("This training job no longer exists."), msg("Choose another one."))
        if job.status not in FINISHED and job.not_before is not None:
            job.not_before = utcnow()


def pending_requests(store: Store) -> dict[str, str]:
    """What people ask of unfinished jobs, by id; a job whose pause a person has ended counts as asked for."""
    wanted = select(TrainingJob.id, TrainingJob.stop_requested, TrainingJob.not_before).where(
        TrainingJob.status.not_in(FINISHED),
        TrainingJob.stop_requested.is_not(None) | (TrainingJob.not_before <= utcnow()),
    )
    with store.reading() as session:
        return {id_: what or f"retry {not_before}" for id_, what, not_before in session.execute(wanted)}


def is_allowed(job: JobView, what: Request) -> bool:
    """Whether this can be asked for now. A job that has failed at the engine can be resumed where it was."""
    if what == "resume" and may_go_on(job.status, job.provider, job.remote_id, job.error):
        return True
    return not job.finished and job.status in _MEANT_FOR.get(what, (job.status,))


def _with_version(store: Store, actor: Actor, form: JobForm) -> JobForm:
    """The form with a version that keeps its share for validation; the same rows and share are the same version."""
    if form.version_id is not None or not form.validation_share:
        return form
    made = versions.freeze(store, actor, form.dataset_id, validation_share=form.validation_share)
    return replace(form, version_id=made)


def _parent(session: Session, form: JobForm) -> str | None:
    """The job whose model, or one of whose checkpoints, is trained further."""
    made = select(TrainingJob.id).where(
        TrainingJob.provider == form.provider, TrainingJob.fine_tuned_model == form.base_model
    )
    if (parent := session.scalar(made.limit(1))) is not None:
        return parent
    kept = select(Checkpoint.job_id).join(TrainingJob, TrainingJob.id == Checkpoint.job_id)
    kept = kept.where(TrainingJob.provider == form.provider, Checkpoint.model == form.base_model)
    return session.scalar(kept.limit(1))


def _validation_share(version: versions.Version | None) -> float | None:
    """The part of a version's examples that training does not learn from; None where there is none."""
    if version is None or not version.n_validation:
        return None
    return version.n_validation / (version.n_train + version.n_validation)


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
        TrainingJob.version_id == form.version_id,
    )
    for job in session.scalars(alike):
        marks = form.separator in (None, job.separator) and form.stop in (None, job.stop)
        if marks and job.hyperparameters == form.hyperparameters:
            return job.id
    return None
