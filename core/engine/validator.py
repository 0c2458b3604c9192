"""The validating_files phase: from files to tokens, one job after the other."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import httpx2

from core.engine import tokenization
from core.engine.errors import ApiError
from core.engine.event_log import add_event
from core.engine.files import SOURCES
from core.engine.job_context import EngineJobContext, describe_error
from core.engine.store import Job
from core.engine.tokenization import JobCancelled, JobFailed
from core.message import msg

# A llama.cpp server that died or is loading answers again within seconds; by the fourth try it is not the moment.
_PAUSES_S = (1.0, 3.0, 9.0)


class Validator:
    """validating_files → queued, or failed."""

    def __init__(self, context: EngineJobContext, leaving: threading.Event) -> None:
        self._context, self._leaving = context, leaving
        self._stumbles: dict[str, int] = {}

    def step(self) -> bool:
        """Validate the oldest job that waits for it; whether there was one."""
        job = self._context.oldest("validating_files")
        if job is None:
            return False
        try:
            self._validate(job)
        except JobCancelled:
            pass
        except JobFailed as failure:
            self._context.fail(job, failure)
            self._forget_sources(job)
        except sqlite3.Error:
            raise  # not the job's fault: wait and try again
        except Exception as exc:
            if not (_may_pass(exc) and self._again(job)):
                self._context.fail(job, describe_error(exc))
                self._forget_sources(job)
        else:
            self._stumbles.pop(job.id, None)
        return True

    def _again(self, job: Job) -> bool:
        """Wait until it is worth reading the files again; False: it was tried often enough."""
        tried = self._stumbles.pop(job.id, 0)
        if tried == len(_PAUSES_S):
            return False
        self._stumbles[job.id] = tried + 1
        add_event(self._context.store, job.id, msg("The tokenizer failed; its files are loaded again."), level="warn")
        self._leaving.wait(_PAUSES_S[tried])
        return True

    def _validate(self, job: Job) -> None:
        context = self._context
        base = context.models.base(job.base)
        named = (
            ("training_file", job.training_file, "train.npz"),
            ("validation_file", job.validation_file, "valid.npz"),
        )
        counted: dict[str, int] = {}
        with context.pool.borrow(base) as tokenize:
            for param, file_id, target in named:
                if file_id is not None:
                    source, path = self._source(job, param, file_id), context.folder(job) / target
                    counted[param] = tokenization.prepare(
                        source, path, base, tokenize, lambda: self._wanted(job), param
                    )
        queued = {"status": "queued", "epoch_tokens": counted["training_file"]}
        with context.store.transaction():
            if context.store.update(Job, job.id, where="status = 'validating_files'", **queued):
                add_event(context.store, job.id, msg("Files validated, moving job to queued state"))
        self._forget_sources(job)

    def _source(self, job: Job, param: str, file_id: str) -> Path:
        """The job's own copy; the uploaded file for a job that an engine without such copies has made."""
        copy = self._context.source(job, param)
        return copy if copy.exists() else self._context.files.path(file_id)

    def _forget_sources(self, job: Job) -> None:
        for param in SOURCES:
            self._context.source(job, param).unlink(missing_ok=True)

    def _wanted(self, job: Job) -> bool:
        return not self._leaving.is_set() and self._context.status(job) == "validating_files"


def _may_pass(exc: Exception) -> bool:
    """Whether it is llama.cpp's server that stumbled: the pool starts another one."""
    return isinstance(exc, httpx2.HTTPError) or (isinstance(exc, ApiError) and exc.status == 503)
