"""Training jobs: submit, run, cancel, pause and resume. A job is a database row; the worker runs it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import shared_files
from core.actor import Actor, requires
from core.datasets import conversation_rows, versions
from core.datasets.dataset_rows import require_dataset
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Checkpoint, Row, TrainingJob, utcnow
from core.errors import BadTrainingFile, EngineMissing, FabulaError, NotFound, ProviderChanged, ProviderRemoved, Refused
from core.failures import with_job_cause
from core.finetuning import job_account, job_cost, trackers, watch
from core.finetuning import submit as submission
from core.finetuning.job_context import EndHook, JobContext, JobStopping
from core.finetuning.job_form import DEFAULT_PROJECT, JobForm
from core.finetuning.job_views import FINISHED, JobView, can_resume, get
from core.message import msg
from core.ownership import edits, readable, reads
from core.pricing import custom_prices
from core.providers import Registry
from core.providers.retry import RetryLater
from core.settings import Settings

Request = Literal["cancel", "pause", "resume"]
_UNREACHED_POLL_S = 30.0  # how often a job looks whether the account that has it can be reached again
_MAX_CLONED_NAME_LENGTH = 190  # leaves room for the added suffix
_ALLOWED_STATUSES: Mapping[Request, tuple[str, ...]] = {"pause": ("running", "queued"), "resume": ("paused",)}


@requires("editor")
@reads(dataset="form.dataset_id", version="form.version_id", model="form.base_model")
def submit(store: Store, actor: Actor, form: JobForm, job_id: str | None = None) -> str:
    """Create a job and return its id. If an identical unfinished job exists, its id is returned.

    Args:
        job_id: id of the new job, for a request that may be repeated: once there is a job with this id, even a finished
            one, none is created. None chooses one.

    Raises:
        FabulaError: the form has settings that every provider rejects.
        NotFound: the data set or its version does not exist.
        BadTrainingFile: the data set has no finished rows.
        OverBudget: the estimated cost would exceed a budget.
        StorageFull: the disk is full.
    """
    form.validate()
    form = _with_version(store, actor, form)
    with store.session() as session:
        advisory_lock(session, "training_jobs")  # so that two clicks do not create two jobs
        if job_id is not None and session.get(TrainingJob, job_id) is not None:
            return job_id
        dataset = require_dataset(session, form.dataset_id)
        if conversation_rows.holds(dataset.columns):
            form = replace(form, file_format="chat", separator=None, stop=None)
        if (existing := _identical_job(session, actor, form)) is not None:
            return existing
        finished_rows = (
            select(func.count()).select_from(Row).where(Row.dataset_id == form.dataset_id, Row.state == "done")
        )
        if not session.scalar(finished_rows):
            raise BadTrainingFile(
                msg("The data set has no finished rows to train on."), msg("Generate or load some first.")
            )
        version = versions.get(store, form.version_id) if form.version_id is not None else None
        if version is not None and version.dataset_id != form.dataset_id:
            raise NotFound(msg("This version no longer exists."), msg("Choose another one."))
        form.validate_options(has_validation=version is not None and bool(version.n_validation))
        parent_id, parent_sharing = _parent(session, form)
        job = _new_job(job_id or new_id(), actor, form, version, parent_id)
        if "private" in (dataset.sharing, parent_sharing):  # its model can repeat the rows
            job.sharing = "private"
        session.add(job)
        session.flush()
        job_cost.reserve(session, actor, job)
        return job.id


def clone(store: Store, job_id: str) -> JobForm:
    """The settings of a job as a new form. The estimate is not copied, because prices change.

    Raises:
        NotFound: the job or its data set does not exist.
    """
    job = get(store, job_id)
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and submit again."))
    return JobForm(
        dataset_id=job.dataset_id,
        name=f"{job.name[:_MAX_CLONED_NAME_LENGTH]} (again)",
        provider=job.provider,
        base_model=job.base_model,
        suffix=job.suffix,
        seed=job.seed,
        method="dpo" if job.method == "dpo" else "supervised",
        file_format="chat" if job.file_format == "chat" else "completion",
        separator=job.separator,
        stop=job.stop,
        version_id=job.version_id,
        trackers=tuple(job.trackers),
        project=next((str(one.get("project", DEFAULT_PROJECT)) for one in job.trackers.values()), DEFAULT_PROJECT),
        **job.hyperparameters,
    )


def carry_out(
    store: Store,
    registry: Registry,
    job_id: str,
    stopping: threading.Event | None = None,
    *,
    on_end: EndHook = lambda session, job: None,
) -> float | None:
    """Run a job to its end, resuming where it stopped: prepare, upload, submit, watch.

    Returns early when `stopping` is set.

    `on_end` is called in the transaction that records the end of the job at its provider.

    Returns:
        Seconds until the job should be resumed, if it waits (paused, queued, provider unavailable); otherwise None.

    Raises:
        FabulaError: the job can't continue. The caller records this with `give_up`.
    """
    context = JobContext(store, job_id, stopping or threading.Event(), on_end)
    if context.view().finished:
        return None
    try:
        submission.submit_to_provider(context, registry)
        tracker_logger = trackers.TrackerLogger(store, context.view())
        try:
            watch.follow(
                context, registry, custom_prices.book(store, shared_files.storage(Settings.from_env())), tracker_logger
            )
            tracker_logger.finish()
        finally:
            tracker_logger.close()
    except RetryLater as exc:
        return exc.seconds
    except (ProviderChanged, Refused, NotFound, EngineMissing) as exc:
        return _wait_for_account(context, exc)
    except JobStopping:
        pass  # the job stays unchanged
    return None


def _wait_for_account(context: JobContext, error: FabulaError) -> float:
    """A job that was submitted, or may have been, waits until its account can be reached again. A cancel gives it up.

    Returns:
        Seconds until it looks again.

    Raises:
        FabulaError: it can't continue.
    """
    job = context.view()
    waits = isinstance(error, ProviderChanged) or job.status == "submitting"
    if not waits or isinstance(error, ProviderRemoved):
        raise error
    if job.request == "cancel":
        raise FabulaError(error.what, job_account.LOOK_THERE) from error
    context.show_waiting(error)
    return _UNREACHED_POLL_S


def give_up(store: Store, job_id: str, error: FabulaError) -> None:
    """Mark a job as failed with the reason. A finished job is not changed."""
    reason = with_job_cause(error.what)
    failed = {"status": "failed", "error": reason, "next_step": error.next_step or None, "finished_at": utcnow()}
    context = JobContext(store, job_id, threading.Event())
    with store.session() as session:
        if context.view().finished:
            return
        before = context.view()
        context.update(**failed, requested_action=None)
        if before.remote_id is None and before.status != "submitting":  # it was not created, so nothing is billed
            job_cost.release(session, job_id)
        else:
            job_cost.mark_unknown(session, job_id)


@requires("editor")
@edits(job="job_id")
def request(store: Store, actor: Actor, job_id: str, what: Request) -> None:
    """Ask the worker to cancel, pause or resume a job. It does so within seconds; see `JobView.request`.

    Raises:
        NotFound: the job does not exist.
        FabulaError: the request is not possible in the job's current status.
    """
    with store.session() as session:
        job = session.get(TrainingJob, job_id)
        if job is None:
            raise NotFound(msg("This training job no longer exists."), msg("Choose another one."))
        if what == "resume" and can_resume(job.status, job.provider, job.remote_id, job.error):
            job.status, job.finished_at, job.updated_at = "queued", None, utcnow()
            job.error = job.next_step = None
        elif job.status in FINISHED:
            raise FabulaError(
                msg("The job has already ended: {status}.", status=job.status), msg("Start a new one to train more.")
            )
        elif job.status not in _ALLOWED_STATUSES.get(what, (job.status,)):
            raise FabulaError(
                msg("Can't {action} the job while it is {status}.", action=what, status=job.status),
                msg("Wait until the job has progressed, then try again."),
            )
        job.requested_action = what


@requires("editor")
@edits(job="job_id")
def retry_now(store: Store, actor: Actor, job_id: str) -> None:
    """Retry a waiting job now, without the pause that the provider asked for.

    Raises:
        NotFound: the job does not exist.
    """
    with store.session() as session:
        job = session.get(TrainingJob, job_id)
        if job is None:
            raise NotFound(msg("This training job no longer exists."), msg("Choose another one."))
        if job.status not in FINISHED and job.not_before is not None:
            job.not_before = utcnow()


def pending_requests(store: Store) -> dict[str, str]:
    """Pending requests for unfinished jobs, by job id, including retries started with `retry_now`."""
    query = select(TrainingJob.id, TrainingJob.requested_action, TrainingJob.not_before).where(
        TrainingJob.status.not_in(FINISHED),
        TrainingJob.requested_action.is_not(None) | (TrainingJob.not_before <= utcnow()),
    )
    with store.reading() as session:
        return {id_: what or f"retry {not_before}" for id_, what, not_before in session.execute(query)}


def is_allowed(job: JobView, what: Request) -> bool:
    """Whether the request is possible in the job's current status. A failed engine job can be resumed."""
    if what == "resume" and can_resume(job.status, job.provider, job.remote_id, job.error):
        return True
    return not job.finished and job.status in _ALLOWED_STATUSES.get(what, (job.status,))


def _new_job(
    job_id: str, actor: Actor, form: JobForm, version: versions.Version | None, parent_id: str | None
) -> TrainingJob:
    return TrainingJob(
        id=job_id,
        dataset_id=form.dataset_id,
        name=form.name.strip(),
        provider=form.provider,
        base_model=form.base_model,
        suffix=form.suffix,
        hyperparameters=form.hyperparameters,
        seed=form.seed,
        method=form.method,
        file_format=form.file_format,
        separator=form.separator,
        stop=form.stop,
        version_id=form.version_id,
        validation_share=_validation_share(version),
        parent_id=parent_id,
        estimated_usd=form.estimated_usd,
        estimated_s=form.estimated_s,
        trackers={name: {"project": form.project.strip()} for name in form.trackers} or None,
        created_by=actor.id,
    )


def _with_version(store: Store, actor: Actor, form: JobForm) -> JobForm:
    """Create the version for `validation_share`, if needed. The same rows and share give the same version."""
    if form.version_id is not None or not form.validation_share:
        return form
    version_id = versions.freeze(store, actor, form.dataset_id, validation_share=form.validation_share)
    return replace(form, version_id=version_id)


def _parent(session: Session, form: JobForm) -> tuple[str | None, str | None]:
    """Id and sharing of the job whose model or checkpoint is trained further; None for a base model."""
    at_provider = select(TrainingJob.id, TrainingJob.sharing).where(TrainingJob.provider == form.provider).limit(1)
    by_model = at_provider.where(TrainingJob.fine_tuned_model == form.base_model)
    by_checkpoint = at_provider.join(Checkpoint, Checkpoint.job_id == TrainingJob.id)
    by_checkpoint = by_checkpoint.where(Checkpoint.model == form.base_model)
    found = session.execute(by_model).one_or_none() or session.execute(by_checkpoint).one_or_none()
    return (None, None) if found is None else (found.id, found.sharing)


def _validation_share(version: versions.Version | None) -> float | None:
    """The share of a version's examples used for validation; None if there are none."""
    if version is None or not version.n_validation:
        return None
    return version.n_validation / (version.n_train + version.n_validation)


def _identical_job(session: Session, actor: Actor, form: JobForm) -> str | None:
    """The id of an unfinished job with the same settings that this person may read, or None."""
    candidates = select(TrainingJob).where(
        readable(actor, TrainingJob),
        TrainingJob.status.not_in(FINISHED),
        TrainingJob.dataset_id == form.dataset_id,
        TrainingJob.name == form.name.strip(),
        TrainingJob.provider == form.provider,
        TrainingJob.base_model == form.base_model,
        TrainingJob.suffix == form.suffix,
        TrainingJob.seed == form.seed,
        TrainingJob.method == form.method,
        TrainingJob.file_format == form.file_format,
        TrainingJob.version_id == form.version_id,
    )
    for job in session.scalars(candidates):
        same_markers = form.separator in (None, job.separator) and form.stop in (None, job.stop)
        if same_markers and job.hyperparameters == form.hyperparameters:
            return job.id
    return None
