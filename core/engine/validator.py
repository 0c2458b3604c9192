"""The validating_files phase: from files to tokens, one job after the other."""

from __future__ import annotations

import sqlite3
import threading

import httpx2

from core.engine import prepare
from core.engine.journal import say
from core.engine.prepare import Dropped, JobFailed
from core.engine.store import Job
from core.engine.workshop import Workshop, check_there, in_words

_STUMBLES = 3  # by then it is the file, not the moment


class Validator:
    """validating_files → queued, or failed."""

    def __init__(self, workshop: Workshop, leaving: threading.Event) -> None:
        self._shop, self._leaving = workshop, leaving
        self._stumbles: dict[str, int] = {}

    def step(self) -> bool:
        """Validate the oldest job that waits for it; whether there was one."""
        job = self._shop.oldest("validating_files")
        if job is None:
            return False
        try:
            self._validate(job)
        except Dropped:
            pass
        except JobFailed as failure:
            self._shop.fail(job, failure)
        except sqlite3.Error:
            raise  # not the job's fault: wait and try again
        except httpx2.HTTPError as exc:
            self._again(job, exc)
        except Exception as exc:
            self._shop.fail(job, in_words(exc))
        return True

    def _again(self, job: Job, exc: httpx2.HTTPError) -> None:
        """llama.cpp's server died or stumbled under the tokenizer: the pool starts another one."""
        self._stumbles[job.id] = self._stumbles.get(job.id, 0) + 1
        if self._stumbles[job.id] >= _STUMBLES:
            del self._stumbles[job.id]
            self._shop.fail(job, in_words(exc))
            return
        say(self._shop.store, job.id, "The tokenizer stumbled; the files are read again.", level="warn")

    def _validate(self, job: Job) -> None:
        shop = self._shop
        base = shop.models.base(job.base)
        named = (
            ("training_file", job.training_file, "train.npz"),
            ("validation_file", job.validation_file, "valid.npz"),
        )
        with shop.pool.borrow(base) as tokenize:
            for param, file_id, target in named:
                if file_id is not None:
                    check_there(shop.files, file_id, param)
                    path = shop.folder(job) / target
                    prepare.prepare(shop.files.path(file_id), path, base, tokenize, lambda: self._wanted(job), param)
        with shop.store.transaction():
            if shop.store.update(Job, job.id, where="status = 'validating_files'", status="queued"):
                say(shop.store, job.id, "Files validated, moving job to queued state")

    def _wanted(self, job: Job) -> bool:
        return not self._leaving.is_set() and self._shop.status(job) == "validating_files"
