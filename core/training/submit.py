"""Hand a job to its provider: file, intent, exactly one POST. After any doubt: look there first, never send blindly."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from core.db import rescue
from core.db.tables import TrainingJob
from core.errors import BadRequest, FabulaError, ProviderError, RateLimited, Refused
from core.message import msg
from core.providers import Client, JobRequest, Registry, RemoteJob
from core.training import prepare
from core.training.record import Stopping, Work
from core.training.views import FINISHED, LONGEST_STATUS, JobView

_UPLOAD_TRIES = 20  # with pauses of up to half a minute: an engine that starts, or converts weights, is there by then
_TOLD_EVERY_S = 0.5  # a page looks about once a second, and each write waits for the disk
_SETTLE_S = 10.0  # a POST that was on its way when we died is in the provider's list after this


def hand_over(work: Work, registry: Registry) -> None:
    """Bring the job to where the provider has it and we know its id there. Goes on from wherever an earlier life was.

    Raises:
        FabulaError: it cannot be handed over; nothing runs there.
        Stopping: the worker stops, or the job was cancelled.
    """
    work.heed_cancel()
    job = work.view()
    if job.remote_id is not None:
        return
    if job.status != "submitting":
        training_file, validation_file = _upload(work, registry, job)
        work.heed_cancel()
        # The intent, durable before the POST: whoever comes after us knows that there may have been one.
        files = {"training_file": training_file, "validation_file": validation_file}
        work.write(status="submitting", error=None, next_step=None, not_before=None, **files)
    elif (found := _look(work, registry)) is not None:
        return _adopt(work, found)
    _adopt(work, _post(work, registry))


class Sending:
    """Writes into the ledger how much of a file has been sent, and breaks off when nobody wants it any more."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._told = time.monotonic()

    def __call__(self, sent: int, size: int) -> None:
        """Raises Stopping, which the SDK turns into a connection that broke: then `Work.patiently` sees why."""
        if time.monotonic() - self._told < _TOLD_EVERY_S:
            return
        self._told = time.monotonic()
        self._work.write(uploaded_bytes=sent)
        if self._work.stopping.is_set() or self._work.view().request == "cancel":
            raise Stopping


def _upload(work: Work, registry: Registry, job: JobView) -> tuple[str, str | None]:
    """Ids of the training file, and of the validation file if there is one, at the provider.

    A repeated upload leaves an unused file there, no more.
    """
    with tempfile.TemporaryDirectory(prefix="fabula-") as folder:
        file = prepare.write(work.store, job, Path(folder))
        work.write(
            file_sha256=file.sha256,
            n_examples=file.n_examples,
            separator=file.separator,
            stop=file.stop,
            file_bytes=file.path.stat().st_size,
            uploaded_bytes=0,
        )
        sending = Sending(work)
        training_file = work.patiently(
            lambda: _client(work, registry).upload(file.path, on_progress=sending), _UPLOAD_TRIES
        )
        work.write(uploaded_bytes=file.path.stat().st_size)
        if (validation := file.validation) is None:
            return training_file, None
        return training_file, work.patiently(lambda: _client(work, registry).upload(validation), _UPLOAD_TRIES)


def _post(work: Work, registry: Registry) -> RemoteJob:
    """The one POST. A clear no is told; with no clear answer, the job is looked for."""
    with work.store.reading() as session:
        intent = session.get_one(TrainingJob, work.job_id)
        training_file, validation_file = intent.training_file, intent.validation_file
    job, client = work.view(), work.patiently(lambda: _client(work, registry))
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
        work.heed_cancel("submitting")
        try:
            return client.create_job(request, job.id)
        except RateLimited as exc:  # a clear no, and sending again is what it asks for
            work.note(exc)
            work.wait(exc.retry_after_s or _SETTLE_S)
        except (BadRequest, Refused):
            raise
        except ProviderError as exc:
            found = _look(work, registry)
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


def _look(work: Work, registry: Registry) -> RemoteJob | None:
    """The job there that carries our mark; None once it is certain that none came of a POST before this.

    By a clock that nobody sets: one that was put on would have it sent twice, one that was put back never again.
    """
    began = time.monotonic()
    while True:
        settled = time.monotonic() - began >= _SETTLE_S
        found = work.patiently(lambda: _client(work, registry).find_job(work.job_id))
        if found is not None or settled:
            return found
        work.pause(1.0)


def _adopt(work: Work, remote: RemoteJob) -> None:
    """The job is there. One that has ended already is called running until its model and curve are here too."""
    status = "running" if remote.status in FINISHED else remote.status[:LONGEST_STATUS]
    entry = {"kind": "job", "job_id": work.job_id, "remote_id": remote.id, "status": status}
    values = {"status": status, "remote_id": remote.id, "error": None, "next_step": None, "not_before": None}
    rescue.write_or_keep(work.store, lambda session: work.write(**values), entry)


def _client(work: Work, registry: Registry) -> Client:
    return registry.get(work.view().provider)
