"""The validating_files phase: tokenises the files of one job at a time."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import httpx2

from core.engine.api.errors import ApiError
from core.engine.api.files import SOURCES
from core.engine.event_log import add_event
from core.engine.store import Job
from core.engine.training import tokenization
from core.engine.training.job_context import EngineJobContext, describe_error
from core.engine.training.tokenization import JobCancelled, JobFailed
from core.message import msg

# A llama.cpp server that crashed or is loading is back within seconds; after that, retrying does not help.
_PAUSES_S = (1.0, 3.0, 9.0)


class Validator:
    """Moves jobs from validating_files to queued or failed."""

    def __init__(self, context: EngineJobContext, stopping: threading.Event) -> None:
        self._context, self._stopping = context, stopping
        self._retries: dict[str, int] = {}

    def step(self) -> bool:
        """Validate the oldest waiting job; returns whether there was one."""
        job = self._context.oldest("validating_files")
        if job is None:
            return False
        try:
            self._validate(job)
        except JobCancelled:
            pass
        except JobFailed as failure:
            self._context.fail(job, failure)
            self._delete_sources(job)
        except sqlite3.Error:
            raise  # not the job's fault: wait and try again
        except Exception as exc:
            if not (_is_transient(exc) and self._retry(job)):
                self._context.fail(job, describe_error(exc))
                self._delete_sources(job)
        else:
            self._retries.pop(job.id, None)
        return True

    def _retry(self, job: Job) -> bool:
        """Wait before a retry; returns False after the last one."""
        retries = self._retries.pop(job.id, 0)
        if retries == len(_PAUSES_S):
            return False
        self._retries[job.id] = retries + 1
        add_event(self._context.store, job.id, msg("The tokenizer failed; its files are loaded again."), level="warn")
        self._stopping.wait(_PAUSES_S[retries])
        return True

    def _validate(self, job: Job) -> None:
        context = self._context
        base = context.models.base(job.base)
        sources = (
            ("training_file", job.training_file, "train.npz"),
            ("validation_file", job.validation_file, "valid.npz"),
        )
        n_tokens: dict[str, int] = {}
        with context.pool.tokenizer(base) as tokenize:
            for param, file_id, target in sources:
                if file_id is not None:
                    source, path = self._source(job, param, file_id), context.folder(job) / target
                    n_tokens[param] = tokenization.prepare(
                        source, path, base, tokenize, lambda: self._should_continue(job), param
                    )
        queued = {"status": "queued", "epoch_tokens": n_tokens["training_file"]}
        with context.store.transaction():
            if context.store.update(Job, job.id, where="status = 'validating_files'", **queued):
                add_event(context.store, job.id, msg("Files validated, moving job to queued state"))
        self._delete_sources(job)

    def _source(self, job: Job, param: str, file_id: str) -> Path:
        """The job's copy; the uploaded file for a job from an engine version without copies."""
        copy = self._context.source(job, param)
        return copy if copy.exists() else self._context.files.path(file_id)

    def _delete_sources(self, job: Job) -> None:
        for param in SOURCES:
            self._context.source(job, param).unlink(missing_ok=True)

    def _should_continue(self, job: Job) -> bool:
        return not self._stopping.is_set() and self._context.status(job) == "validating_files"


def _is_transient(exc: Exception) -> bool:
    """Whether the error came from a llama.cpp server, which the pool restarts."""
    return isinstance(exc, httpx2.HTTPError) or (isinstance(exc, ApiError) and exc.status == 503)
