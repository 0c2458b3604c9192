"""Submits a job to its provider: training file, upload, saved intent, exactly one POST.

Rows are streamed into the file (they are read twice) and never held in memory all at once. If an earlier POST may have
succeeded, the provider's jobs are searched first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from core.datasets import datasets, export
from core.datasets.export import Selection
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import TrainingJob
from core.errors import (
    BadRequest,
    BadTrainingFile,
    FabulaError,
    NotFound,
    ProviderError,
    RateLimited,
    Refused,
    StorageFull,
)
from core.finetuning import job_account, preference_training
from core.finetuning.job_context import JobContext, JobStopping
from core.finetuning.job_form import FileFormat
from core.finetuning.job_views import FINISHED, MAX_STATUS_LENGTH, JobView
from core.message import msg, with_cause
from core.providers import Client, JobRequest, Registry, RemoteJob, account
from core.providers.capabilities import Capabilities

_UPLOAD_ATTEMPTS = 20  # pauses of up to 30 s give an engine enough time to start or convert weights
_PROGRESS_WRITE_S = 0.5  # pages poll about once a second, and each write waits for the disk
_SETTLE_S = 10.0  # by then, a POST sent just before a crash appears in the provider's list


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """A file ready for upload.

    Attributes:
        sha256: the file's hash, hexadecimal.
        separator, stop: end of prompts and of completions; None for the chat format.
        validation: the validation file; None if the version has no validation examples.
    """

    path: Path
    sha256: str
    n_examples: int
    separator: str | None
    stop: str | None
    validation: Path | None = None


def write_training_file(store: Store, job: JobView, folder: Path) -> TrainingFile:
    """Write the job's training data as JSONL into `folder`. The same rows give the same bytes.

    Raises:
        NotFound: the data set does not exist.
        BadTrainingFile: it has no finished rows, or they changed while being read.
        StorageFull: the disk is full.
    """
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and submit again."))
    selection = export.Selection(store, job.dataset_id, job.version_id)
    if next(iter(selection.examples()), None) is None:
        datasets.summary(store, job.dataset_id)
        raise BadTrainingFile(
            msg("The data set has no finished rows to train on."), msg("Generate or load some first.")
        )
    path, validation_path = folder / f"fabula-{job.id}.jsonl", folder / f"fabula-{job.id}-validation.jsonl"
    if job.method == "dpo":
        return _write_preferences(selection, job, path, validation_path)
    if job.file_format == "chat":
        plan = export.plan(selection, "chat")
    else:
        plan = export.plan(selection, separator=job.separator, stop=job.stop)
    sha256, count = _write_lines(path, export.jsonl_lines(selection, plan))
    _sha256, n_validation = _write_lines(validation_path, export.jsonl_lines(selection, plan, "validation"))
    return TrainingFile(path, sha256, count, plan.separator, plan.stop, validation_path if n_validation else None)


def _write_preferences(selection: Selection, job: JobView, path: Path, validation_path: Path) -> TrainingFile:
    """`write_training_file` for DPO."""
    file_format: FileFormat = "chat" if job.file_format == "chat" else "completion"
    plan = preference_training.plan(selection, file_format, job.separator, job.stop)
    sha256, count = _write_lines(path, export.preference_lines_of(selection, plan))
    lines = export.preference_lines_of(selection, plan, "validation")
    _sha256, n_validation = _write_lines(validation_path, lines)
    marks = (plan.separator or None, plan.stop or None)
    return TrainingFile(path, sha256, count, *marks, validation_path if n_validation else None)


def _write_lines(path: Path, lines: Iterable[str]) -> tuple[str, int]:
    """Write the lines to `path`. Returns their SHA-256 and number."""
    digest, count = hashlib.sha256(), 0
    try:
        with path.open("wb") as file:
            for line in lines:
                content = line.encode()
                digest.update(content)
                file.write(content)
                count += 1
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise StorageFull(
            msg("The training file can't be written: {reason}.", reason=os.strerror(exc.errno)),
            msg("Free some space in the folder for temporary files. The job then continues."),
        ) from exc
    return digest.hexdigest(), count


def submit_to_provider(context: JobContext, registry: Registry) -> None:
    """Submit the job and save its remote id. Resumes after a restart of the worker.

    Raises:
        FabulaError: it can't be submitted; nothing runs at the provider.
        ProviderChanged: it may have been submitted to a different account from the one the provider uses now.
        JobStopping: the worker stops, or the job was cancelled.
    """
    context.raise_if_cancelled()
    job = context.view()
    if job.remote_id is not None:
        return
    if job.status != "submitting":
        training_file, validation_file = _upload(context, registry, job)
        context.raise_if_cancelled()
        # Save the intent before the POST, so that after a crash we know that a job may exist, and at which account.
        files = {"training_file": training_file, "validation_file": validation_file}
        client = context.with_retries(lambda: _client(context, registry))
        submitted = asdict(account.of(client.provider))
        context.update(status="submitting", error=None, next_step=None, not_before=None, **files, **submitted)
    else:
        existing, client = _find_existing(context, registry)
        if existing is not None:
            return _save_remote_job(context, existing)
    _save_remote_job(context, _post(context, registry, client))


class UploadProgress:
    """Saves the upload progress, and aborts the upload if the job is cancelled or the worker stops."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._last_write = time.monotonic()

    def __call__(self, sent: int, size: int) -> None:
        """Raises JobStopping. The SDK reports it as a connection error; `JobContext.with_retries` finds the cause."""
        if time.monotonic() - self._last_write < _PROGRESS_WRITE_S:
            return
        self._last_write = time.monotonic()
        self._context.update(uploaded_bytes=sent)
        if self._context.stopping.is_set() or self._context.view().request == "cancel":
            raise JobStopping


def _upload(context: JobContext, registry: Registry, job: JobView) -> tuple[str, str | None]:
    """Upload the training file and the validation file, if any. Returns their ids at the provider.

    A repeated upload only leaves an unused file there.
    """
    with tempfile.TemporaryDirectory(prefix="fabula-") as folder:
        file = write_training_file(context.store, job, Path(folder))
        context.update(
            file_sha256=file.sha256,
            n_examples=file.n_examples,
            separator=file.separator,
            stop=file.stop,
            file_bytes=file.path.stat().st_size,
            uploaded_bytes=0,
        )
        progress = UploadProgress(context)
        training_file = context.with_retries(
            lambda: _client(context, registry).upload(file.path, on_progress=progress), _UPLOAD_ATTEMPTS
        )
        context.update(uploaded_bytes=file.path.stat().st_size)
        if (validation := file.validation) is None:
            return training_file, None
        return training_file, context.with_retries(
            lambda: _client(context, registry).upload(validation), _UPLOAD_ATTEMPTS
        )


def _post(context: JobContext, registry: Registry, client: Client) -> RemoteJob:
    """Send the POST to the account that is recorded; without a clear answer, the provider's jobs are searched.

    Raises:
        FabulaError: no job was created. If another step fails, the status stays `submitting`: there may be a job.
    """
    with context.store.reading() as session:
        intent = session.get_one(TrainingJob, context.job_id)
        training_file, validation_file = intent.training_file, intent.validation_file
    job = context.view()
    request = JobRequest(
        model=job.base_model,
        training_file=training_file or "",
        validation_file=validation_file,
        suffix=job.suffix,
        seed=job.seed,
        integrations=_integrations(job, client.provider.capabilities),
        method=job.method,
        **job.hyperparameters,
    )
    while True:
        context.raise_if_cancelled("submitting")
        try:
            return client.create_job(request, job.id)
        except RateLimited as exc:  # a clear rejection that asks for a retry
            context.show_waiting(exc)
            context.wait(exc.retry_after_s or _SETTLE_S)
        except (BadRequest, Refused):
            context.update(status="preparing")
            raise
        except ProviderError as exc:
            existing, _asked = _find_existing(context, registry)
            if existing is None:
                context.update(status="preparing")
                raise FabulaError(
                    with_cause(
                        msg("The provider did not confirm the job and does not list it: {what}", what=exc.what),
                        "unreachable",
                    ),
                    msg("No job is known to run at the provider. Submit it again."),
                ) from exc
            return existing


def _integrations(job: JobView, capabilities: Capabilities) -> tuple[tuple[str, str], ...]:
    """The trackers that the provider itself logs to (only OpenAI, to W&B), as (tracker, project) pairs."""
    if "wandb" not in capabilities.trackers or "wandb" not in job.trackers:
        return ()
    return (("wandb", str(job.trackers["wandb"].get("project"))),)


def _find_existing(context: JobContext, registry: Registry) -> tuple[RemoteJob | None, Client]:
    """Find the job at the provider by our id; None if not listed after `_SETTLE_S`: no earlier POST created it.

    Returns:
        The job, and the client that was asked.

    Raises:
        ProviderChanged: an earlier POST may have gone to another account.

    Uses the monotonic clock: if the wall clock changed, the job could be sent twice or never.
    """

    def look() -> tuple[RemoteJob | None, Client]:
        client = job_account.connect(context, registry)
        return job_account.find(context, client), client

    started = time.monotonic()
    while True:
        settled = time.monotonic() - started >= _SETTLE_S
        found, client = context.with_retries(look)
        if found is not None or settled:
            return found, client
        context.pause(1.0)


def _save_remote_job(context: JobContext, remote: RemoteJob) -> None:
    """Save the remote job. An ended job counts as running until its model and curve are saved too."""
    status = "running" if remote.status in FINISHED else remote.status[:MAX_STATUS_LENGTH]
    entry = {"kind": "job", "job_id": context.job_id, "remote_id": remote.id, "status": status}
    values = {"status": status, "remote_id": remote.id, "error": None, "next_step": None, "not_before": None}
    rescue_files.write_or_rescue(context.store, lambda session: context.update(**values), entry)


def _client(context: JobContext, registry: Registry) -> Client:
    return registry.get(context.view().provider)
