"""Hand a job to its provider: file, intent, exactly one POST. After any doubt: look there first, never send blindly."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from core.db import rescue_files
from core.db.tables import TrainingJob
from core.errors import BadRequest, FabulaError, ProviderError, RateLimited, Refused
from core.message import msg
from core.providers import Client, JobRequest, Registry, RemoteJob
from core.training import training_files
from core.training.job_context import JobContext, JobStopping
from core.training.job_views import FINISHED, LONGEST_STATUS, JobView

_UPLOAD_TRIES = 20  # with pauses of up to half a minute: an engine that starts, or converts weights, is there by then
_TOLD_EVERY_S = 0.5  # a page looks about once a second, and each write waits for the disk
_SETTLE_S = 10.0  # a POST that was on its way when we died is in the provider's list after this


def submit_to_provider(context: JobContext, registry: Registry) -> None:
    """Bring the job to where the provider has it and we know its id there. Goes on from wherever an earlier life was.

    Raises:
        FabulaError: it cannot be handed over; nothing runs there.
        JobStopping: the worker stops, or the job was cancelled.
    """
    context.raise_if_cancelled()
    job = context.view()
    if job.remote_id is not None:
        return
    if job.status != "submitting":
        training_file, validation_file = _upload(context, registry, job)
        context.raise_if_cancelled()
        # The intent, durable before the POST: whoever comes after us knows that there may have been one.
        files = {"training_file": training_file, "validation_file": validation_file}
        context.write(status="submitting", error=None, next_step=None, not_before=None, **files)
    elif (found := _look(context, registry)) is not None:
        return _adopt(context, found)
    _adopt(context, _post(context, registry))


class UploadProgress:
    """Writes into the ledger how much of a file has been sent, and breaks off when nobody wants it any more."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._told = time.monotonic()

    def __call__(self, sent: int, size: int) -> None:
        """Raises JobStopping, which the SDK turns into a connection that broke: then `JobContext.patiently` sees
        why."""
        if time.monotonic() - self._told < _TOLD_EVERY_S:
            return
        self._told = time.monotonic()
        self._context.write(uploaded_bytes=sent)
        if self._context.stopping.is_set() or self._context.view().request == "cancel":
            raise JobStopping


def _upload(context: JobContext, registry: Registry, job: JobView) -> tuple[str, str | None]:
    """Ids of the training file, and of the validation file if there is one, at the provider.

    A repeated upload leaves an unused file there, no more.
    """
    with tempfile.TemporaryDirectory(prefix="fabula-") as folder:
        file = training_files.write(context.store, job, Path(folder))
        context.write(
            file_sha256=file.sha256,
            n_examples=file.n_examples,
            separator=file.separator,
            stop=file.stop,
            file_bytes=file.path.stat().st_size,
            uploaded_bytes=0,
        )
        sending = UploadProgress(context)
        training_file = context.patiently(
            lambda: _client(context, registry).upload(file.path, on_progress=sending), _UPLOAD_TRIES
        )
        context.write(uploaded_bytes=file.path.stat().st_size)
        if (validation := file.validation) is None:
            return training_file, None
        return training_file, context.patiently(lambda: _client(context, registry).upload(validation), _UPLOAD_TRIES)


def _post(context: JobContext, registry: Registry) -> RemoteJob:
    """The one POST. A clear no is told; with no clear answer, the job is looked for."""
    with context.store.reading() as session:
        intent = session.get_one(TrainingJob, context.job_id)
        training_file, validation_file = intent.training_file, intent.validation_file
    job, client = context.view(), context.patiently(lambda: _client(context, registry))
    request = JobRequest(
        model=job.base_model,
        training_file=training_file or "",
        validation_file=validation_file,
        suffix=job.suffix,
        seed=job.seed,
        integrations=_integrations(job, client.provider.kind),
        **job.hyperparameters,
    )
    while True:
        context.raise_if_cancelled("submitting")
        try:
            return client.create_job(request, job.id)
        except RateLimited as exc:  # a clear no, and sending again is what it asks for
            context.note(exc)
            context.wait(exc.retry_after_s or _SETTLE_S)
        except (BadRequest, Refused):
            raise
        except ProviderError as exc:
            found = _look(context, registry)
            if found is None:
                raise FabulaError(
                    msg("The provider did not confirm the job, and does not list it: {what}", what=exc.what),
                    msg("No job is known to run at the provider. Submit it again."),
                ) from exc
            return found


def _integrations(job: JobView, kind: str) -> tuple[tuple[str, str], ...]:
    """(tracker, project) of trackers that the provider logs to by itself: W&B at OpenAI."""
    if kind != "openai" or "wandb" not in job.trackers:
        return ()
    return (("wandb", str(job.trackers["wandb"].get("project"))),)


def _look(context: JobContext, registry: Registry) -> RemoteJob | None:
    """The job there that carries our mark; None once it is certain that none came of a POST before this.

    By a clock that nobody sets: one that was put on would have it sent twice, one that was put back never again.
    """
    began = time.monotonic()
    while True:
        settled = time.monotonic() - began >= _SETTLE_S
        found = context.patiently(lambda: _client(context, registry).find_job(context.job_id))
        if found is not None or settled:
            return found
        context.pause(1.0)


def _adopt(context: JobContext, remote: RemoteJob) -> None:
    """The job is there. One that has ended already is called running until its model and curve are here too."""
    status = "running" if remote.status in FINISHED else remote.status[:LONGEST_STATUS]
    entry = {"kind": "job", "job_id": context.job_id, "remote_id": remote.id, "status": status}
    values = {"status": status, "remote_id": remote.id, "error": None, "next_step": None, "not_before": None}
    rescue_files.write_or_rescue(context.store, lambda session: context.write(**values), entry)


def _client(context: JobContext, registry: Registry) -> Client:
    return registry.get(context.view().provider)
