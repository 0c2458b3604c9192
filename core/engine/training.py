"""Training: one trainer process at a time, watched until it ends or the job's status says that it should."""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from core.engine import ids, job_request, results
from core.engine.event_log import EventCollector, add_event, keep_adapter, state_of
from core.engine.files import RESULTS_PURPOSE
from core.engine.job_context import EngineJobContext, describe_error
from core.engine.store import File, Job
from core.engine.tokenization import JobFailed
from core.engine.trainer_process import TrainerProcess, write_job_spec
from core.message import from_json, msg

_log = logging.getLogger(__name__)

LORA_RANK, LORA_ALPHA = 16, 32  # on every linear layer of gemma-3-270m: 3.8 million numbers, 7.6 MB an adapter
_CHECKPOINT_S = 20  # the most work that a kill -9 costs
_LOOK_S = 0.5  # how often the trainer's files are read; it writes about once a second
_GRACE_S = 60.0  # a trainer that is asked to stop saves within one small batch; this is for a machine that swaps
_LEAVE_S = 10.0  # the same when the engine itself is told to stop
_LARGE = ("*.npz", "*.gguf", "*.safetensors", "*.source")  # files of a job that are of no use after it
_DEATHS = 3  # a trainer that dies this often without a step in between will not get further


class TrainingRunner:
    """queued → running → succeeded, failed, or whatever the API has said meanwhile."""

    def __init__(self, context: EngineJobContext, leaving: threading.Event, wake: threading.Event) -> None:
        self._context, self._leaving, self._wake = context, leaving, wake

    def step(self) -> bool:
        """Train the job that was interrupted, else the oldest in the queue; whether there was one."""
        try:
            self._sweep()
        except OSError as exc:  # a folder that cannot be emptied must not keep the next job from its training
            _log.warning("The space of jobs that have ended cannot be freed: %s", exc)
        job = self._context.oldest("running") or self._context.oldest("queued")
        if job is None:
            return False
        try:
            if job.status == "queued":
                self._begin(job)
            self._train(job)
        except JobFailed as failure:
            self._context.fail(job, failure)
        except sqlite3.Error:
            raise  # not the job's fault: wait and try again
        except Exception as exc:
            self._context.fail(job, describe_error(exc))
        return True

    def _sweep(self) -> None:
        """Free the space of jobs that ended, and of files whose time is over."""
        self._context.files.expire()
        for job in self._context.store.select(
            Job, "status IN ('succeeded', 'cancelled')", (), "ORDER BY seq DESC LIMIT 50"
        ):
            _tidy(self._context.folder(job))

    def _begin(self, job: Job) -> None:
        """Into `running`, with a result file from now on."""
        context = self._context
        result = job.result_file or ids.new("file")
        with context.store.transaction():
            running = {"status": "running", "result_file": result, "started_at": job.started_at or _now()}
            if not context.store.update(Job, job.id, where="status = 'queued'", **running):
                return
            if job.result_file is None:
                context.store.add(File(result, "step_metrics.csv", 0, RESULTS_PURPOSE, _now(), job_id=job.id))
            if job.started_at is None:
                add_event(context.store, job.id, msg("Fine-tuning job started"))

    def _train(self, job: Job) -> None:
        """Have the trainer work until it ends or is told to stop; a trainer that dies is started again."""
        write_job_spec(self._context.folder(job), self._job_spec(job))
        collector = EventCollector(self._context.store, job.id, self._context.home)
        deaths, reached = 0, job.step
        while self._context.status(job) == "running" and not self._leaving.is_set():
            (self._context.folder(job) / "state.json").unlink(missing_ok=True)  # of the trainer before
            trainer = TrainerProcess(self._context.folder(job))
            try:
                after = self._watch(job, trainer, collector)
            finally:
                if trainer.code is None:
                    trainer.kill()
            if after is None:
                return
            status = state_of(self._context.folder(job)).get("status")
            if status == "succeeded":
                return self._finish(after)
            if status == "failed":
                raise _trainer_failed(state_of(self._context.folder(job)))
            deaths, reached = (1 if after.step > reached else deaths + 1), after.step
            if self._context.status(job) != "running" or self._leaving.is_set():
                return
            if deaths >= _DEATHS:
                raise JobFailed(
                    msg("The trainer ended {deaths} times: {trainer}.", deaths=deaths, trainer=_cause(trainer)),
                    "trainer_died",
                )
            message = msg(
                "The trainer ended ({trainer}); starting it again from its last checkpoint.", trainer=_cause(trainer)
            )
            add_event(self._context.store, job.id, message, level="warn")

    def _watch(self, job: Job, trainer: TrainerProcess, collector: EventCollector) -> Job | None:
        """Take over what the trainer writes until it ends; None when it was told to stop and has."""
        seen: object = None
        taken_at = time.monotonic()
        while True:
            ended = trainer.code is not None
            signature = _signature(self._context.folder(job))
            if signature != seen or ended:
                try:
                    now = time.monotonic()
                    job, seen, taken_at = collector.take(now - taken_at), signature, now
                except (OSError, sqlite3.Error) as exc:
                    if ended:
                        raise
                    _log.error("Cannot store the progress of %s for now: %s", job.id, exc)
            if ended:
                return job
            status = self._context.status(job)
            if status != "running" or self._leaving.is_set():
                self._stop(trainer, status)
                collector.take(time.monotonic() - taken_at)
                self._close_results(job)
                return None
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _stop(self, trainer: TrainerProcess, status: str) -> None:
        if status in ("paused", "queued", "running"):  # `queued`: paused and resumed before we looked
            trainer.ask_to_stop()
            self._patient(trainer)
        if trainer.code is None:
            trainer.kill()

    def _patient(self, trainer: TrainerProcess) -> None:
        """Until the trainer has saved and left, but not long once the engine itself is told to stop."""
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline and not self._leaving.is_set():
            if trainer.wait(_LOOK_S):
                return
        if self._leaving.is_set():
            trainer.wait(_LEAVE_S)

    def _finish(self, job: Job) -> None:
        """The adapter becomes a model and the job `succeeded`, in one transaction."""
        context, folder = self._context, self._context.folder(job)
        tokens = state_of(folder).get("tokens_done")
        with context.store.transaction():
            done = {"status": "succeeded", "fine_tuned_model": job.tuned_id, "finished_at": _now()}
            if not context.store.update(
                Job, job.id, where="status = 'running'", trained_tokens=tokens, estimated_finish=None, **done
            ):
                return
            keep_adapter(context.store, job, folder / "final.gguf", context.home, None)
            add_event(
                context.store,
                job.id,
                msg("New fine-tuned model created: {tuned_id}", tuned_id=job.tuned_id),
                model=job.tuned_id,
            )
            add_event(context.store, job.id, msg("The job has successfully completed"))
        self._close_results(job)
        context.trained(job.tuned_id)

    def _close_results(self, job: Job) -> None:
        if job.result_file is not None:
            size = len(results.csv_text(self._context.folder(job)).encode())
            over = self._context.status(job) in ("succeeded", "cancelled", "failed")
            self._context.store.update(File, job.result_file, bytes=size if over else 0)

    def _job_spec(self, job: Job) -> dict[str, Any]:
        context, folder = self._context, self._context.folder(job)
        base = context.models.base(job.base)
        start, valid = folder / "start.gguf", folder / "valid.npz"
        return {
            "job_id": job.id,
            "base_gguf": str(base.gguf),
            "weights_dir": str(context.models.weights_dir(base)),
            "start_adapter": str(start) if start.exists() else None,
            "train": str(folder / "train.npz"),
            "valid": str(valid) if valid.exists() else None,
            "n_epochs": job.n_epochs,
            "batch_size": job.batch_size,
            "learning_rate": job_request.BASE_LEARNING_RATE * job.learning_rate_multiplier,
            "seed": job.seed,
            "lora_rank": LORA_RANK,
            "lora_alpha": LORA_ALPHA,
            "checkpoint_seconds": _CHECKPOINT_S,
            "threads": context.threads,
        }


def _trainer_failed(state: dict[str, Any]) -> JobFailed:
    words = from_json(state.get("said")) or " ".join(str(state[n]) for n in ("error", "next_step") if state.get(n))
    return JobFailed(words or msg("Training stopped for an unknown reason."), "training_failed")


# Python's, PyTorch's CPU and CUDA allocators', and C++'s own words
_NO_MEMORY = re.compile(r"MemoryError|can't allocate memory|out of memory|bad_alloc", re.IGNORECASE)


def _cause(trainer: TrainerProcess) -> str:
    code = trainer.code
    if code == -9:
        return msg("killed, most likely because memory ran out: use a smaller batch_size or shorter examples")
    if _NO_MEMORY.search(trainer.last_words()):
        return msg("memory ran out: use a smaller batch_size or shorter examples")
    by_signal = code is not None and code < 0
    cause = msg("signal {number}", number=abs(code or 0)) if by_signal else msg("exit code {code}", code=code)
    return msg("{cause}; {words}", cause=cause, words=trainer.last_words()) if trainer.last_words() else cause


def _signature(folder: Path) -> tuple[object, ...]:
    """Changes whenever the trainer has written something."""
    signature: list[object] = []
    for name in ("events.jsonl", "metrics.jsonl", "checkpoints.jsonl", "state.json"):
        path = folder / name
        stat = path.stat() if path.exists() else None
        signature.append(stat and (stat.st_size, stat.st_mtime_ns))
    return tuple(signature)


def _tidy(folder: Path) -> None:
    """Only the small files of a job that is over are kept: its metrics, events and log."""
    for path in (path for pattern in _LARGE for path in folder.glob(pattern)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _now() -> int:
    return int(time.time())
