"""Runs training jobs: one trainer process at a time, monitored until it ends or the job's status changes.

`JobLoop` has two threads: one validates files, the other trains one job at a time. The API changes the status in the
store, and the threads act on it. Nothing is lost if the engine is killed at any time: jobs that are `validating_files`,
`queued` or `running` at the next start are resumed.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.engine.api.files import RESULTS_PURPOSE
from core.engine.child_processes import TrainerProcess
from core.engine.event_log import EventCollector, add_event, read_state, register_adapter
from core.engine.formats import gguf_file
from core.engine.store import File, Job, new_id
from core.engine.training.file_validation import Validator
from core.engine.training.job_context import EngineJobContext, JobFailed, describe_error
from core.engine.training.job_folder import metrics_csv, write_job_spec
from core.engine.training.tracking import JobTracking
from core.engine.training_options import DPO_RATE, TrainingOptions, base_learning_rate
from core.message import from_json, msg, with_cause

_log = logging.getLogger(__name__)

_CHECKPOINT_S = 20  # maximum training time in seconds that is lost on kill -9
_POLL_S = 0.5  # how often the trainer's files are read; the trainer writes about once per second
_GRACE_S = 60.0  # a trainer stops within one micro-batch, which takes longer only on a machine that is swapping
_SHUTDOWN_GRACE_S = 10.0  # used instead when the engine itself is stopping
_LARGE = ("*.npz", "*.gguf", "*.safetensors", "*.source")  # files that are not needed after a job has ended
_MAX_CRASHES = 3  # consecutive crashes without a completed step between them
_IDLE_S = 5.0  # how often the queue is polled if there is no wake-up


class TrainingRunner:
    """Moves jobs from queued to running to succeeded or failed, or to a status that the API sets in the meantime."""

    def __init__(self, context: EngineJobContext, stopping: threading.Event, wake: threading.Event) -> None:
        self._context, self._stopping, self._wake = context, stopping, wake

    def step(self) -> bool:
        """Train the interrupted job if there is one, otherwise the oldest queued job; return whether there was one."""
        try:
            self._free_space()
        except OSError as exc:  # this must not block the next job
            _log.warning("Files of ended jobs cannot be deleted: %s", exc)
        job = self._context.oldest("running") or self._context.oldest("queued")
        if job is None:
            return False
        try:
            if job.status == "queued":
                self._start(job)
            self._train(job)
        except JobFailed as failure:
            self._context.fail(job, failure)
        except sqlite3.Error:
            raise  # not the job's fault, so wait and try again
        except Exception as exc:
            self._context.fail(job, describe_error(exc))
        return True

    def _free_space(self) -> None:
        """Delete the large files of ended jobs."""
        for job in self._context.store.select(
            Job, "status IN ('succeeded', 'cancelled')", (), "ORDER BY seq DESC LIMIT 50"
        ):
            _delete_large_files(self._context.folder(job))

    def _start(self, job: Job) -> None:
        """Set the status to `running` and create the result file."""
        context = self._context
        result = job.result_file or new_id("file")
        with context.store.transaction():
            running = {"status": "running", "result_file": result, "started_at": job.started_at or _now()}
            if not context.store.update(Job, job.id, where="status = 'queued'", **running):
                return
            if job.result_file is None:
                context.store.add(File(result, "step_metrics.csv", 0, RESULTS_PURPOSE, _now(), job_id=job.id))
            if job.started_at is None:
                add_event(context.store, job.id, msg("Fine-tuning job started"))

    def _train(self, job: Job) -> None:
        """Run the trainer until it ends or must stop; restart it after a crash."""
        write_job_spec(self._context.folder(job), self._job_spec(job))
        collector = EventCollector(self._context.store, job.id, self._context.home)
        tracking = JobTracking(self._context.store, job, self._context.home)
        tracking.start()
        try:
            self._train_until_over(job, collector)
        finally:
            tracking.stop()

    def _train_until_over(self, job: Job, collector: EventCollector) -> None:
        crashes, last_step = 0, job.step
        while self._context.status(job) == "running" and not self._stopping.is_set():
            (self._context.folder(job) / "state.json").unlink(missing_ok=True)  # left by the previous trainer
            trainer = TrainerProcess(self._context.folder(job))
            try:
                latest = self._watch(job, trainer, collector)
            finally:
                if trainer.code is None:
                    trainer.kill()
            if latest is None:
                return
            status = read_state(self._context.folder(job)).get("status")
            if status == "succeeded":
                return self._finish(latest)
            if status == "failed":
                raise _trainer_failed(read_state(self._context.folder(job)))
            crashes, last_step = (1 if latest.step > last_step else crashes + 1), latest.step
            if self._context.status(job) != "running" or self._stopping.is_set():
                return
            if crashes >= _MAX_CRASHES:
                raise JobFailed(
                    msg("The trainer ended {crashes} times: {cause}.", crashes=crashes, cause=_crash_cause(trainer)),
                    "trainer_died",
                )
            message = msg(
                "The trainer ended ({cause}); starting it again from its last checkpoint.", cause=_crash_cause(trainer)
            )
            add_event(self._context.store, job.id, message, level="warn")

    def _watch(self, job: Job, trainer: TrainerProcess, collector: EventCollector) -> Job | None:
        """Collect the trainer's output until it ends; return the job, or None if the trainer was asked to stop."""
        last_signature: object = None
        collected_at = time.monotonic()
        while True:
            ended = trainer.code is not None
            signature = _signature(self._context.folder(job))
            if signature != last_signature or ended:
                try:
                    now = time.monotonic()
                    job, last_signature, collected_at = collector.collect(now - collected_at), signature, now
                except (OSError, sqlite3.Error) as exc:
                    if ended:
                        raise
                    _log.error("Cannot store the progress of %s for now: %s", job.id, exc)
            if ended:
                return job
            status = self._context.status(job)
            if status != "running" or self._stopping.is_set():
                self._stop(trainer, status)
                collector.collect(time.monotonic() - collected_at)
                self._close_results(job)
                return None
            self._wake.wait(_POLL_S)
            self._wake.clear()

    def _stop(self, trainer: TrainerProcess, status: str) -> None:
        if status in ("paused", "queued", "running"):  # `queued`: paused and resumed between two polls
            trainer.request_stop()
            self._wait_until_saved(trainer)
        if trainer.code is None:
            trainer.kill()

    def _wait_until_saved(self, trainer: TrainerProcess) -> None:
        """Wait until the trainer has saved its state and exited; wait for a shorter time if the engine itself is
        stopping.
        """
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline and not self._stopping.is_set():
            if trainer.wait(_POLL_S):
                return
        if self._stopping.is_set():
            trainer.wait(_SHUTDOWN_GRACE_S)

    def _finish(self, job: Job) -> None:
        """Register the adapter as a model and set the status to `succeeded`, in one transaction."""
        context, folder = self._context, self._context.folder(job)
        tokens = read_state(folder).get("tokens_done")
        with context.store.transaction():
            done = {"status": "succeeded", "fine_tuned_model": job.tuned_id, "finished_at": _now()}
            if not context.store.update(
                Job, job.id, where="status = 'running'", trained_tokens=tokens, estimated_finish=None, **done
            ):
                return
            register_adapter(context.store, job, folder / "final.gguf", context.home, None)
            add_event(
                context.store,
                job.id,
                msg("New fine-tuned model created: {tuned_id}", tuned_id=job.tuned_id),
                model=job.tuned_id,
            )
            add_event(context.store, job.id, msg("The job has successfully completed"))
        self._close_results(job)
        context.on_trained(job.tuned_id)

    def _close_results(self, job: Job) -> None:
        if job.result_file is not None:
            size = len(metrics_csv(self._context.folder(job)).encode())
            has_ended = self._context.status(job) in ("succeeded", "cancelled", "failed")
            self._context.store.update(File, job.result_file, bytes=size if has_ended else 0)

    @staticmethod
    def _options(job: Job, start: Path) -> dict[str, Any]:
        """The job's own options, except that rank and alpha come from the adapter that training starts from, if any."""
        options = asdict(TrainingOptions(**json.loads(job.options)))
        if start.exists():
            adapter = gguf_file.read_adapter(start)
            options |= {"lora_rank": adapter.rank, "lora_alpha": adapter.alpha}
        return options

    def _job_spec(self, job: Job) -> dict[str, Any]:
        context, folder = self._context, self._context.folder(job)
        base = context.models.base(job.base)
        start, valid = folder / "start.gguf", folder / "valid.npz"
        return {
            "job_id": job.id,
            "base_gguf": str(base.gguf),
            "base_folder": None if base.folder is None else str(base.folder),
            "weights_dir": str(context.models.weights_dir(base)),
            "start_adapter": str(start) if start.exists() else None,
            "train": str(folder / "train.npz"),
            "valid": str(valid) if valid.exists() else None,
            "n_epochs": job.n_epochs,
            "batch_size": job.batch_size,
            "learning_rate": base_learning_rate(base.card.width)
            * job.learning_rate_multiplier
            * (DPO_RATE if job.method == "dpo" else 1.0),
            "seed": job.seed,
            **self._options(job, start),
            "checkpoint_seconds": _CHECKPOINT_S,
            "threads": context.threads,
            "method": job.method,
            "beta": job.beta,
        }


def _trainer_failed(state: dict[str, Any]) -> JobFailed:
    message = from_json(state.get("message")) or " ".join(str(state[n]) for n in ("error", "next_step") if state.get(n))
    return JobFailed(message or msg("Training stopped for an unknown reason."), "training_failed")


# out-of-memory messages from Python, PyTorch's CPU and CUDA allocators, and C++
_NO_MEMORY = re.compile(r"MemoryError|can't allocate memory|out of memory|bad_alloc", re.IGNORECASE)


def _crash_cause(trainer: TrainerProcess) -> str:
    code = trainer.code
    if code == -9:
        return with_cause(
            msg("killed, most likely because memory ran out: use a smaller batch_size or shorter examples"),
            "out_of_memory",
        )
    if _NO_MEMORY.search(trainer.last_log_line()):
        return with_cause(msg("memory ran out: use a smaller batch_size or shorter examples"), "out_of_memory")
    by_signal = code is not None and code < 0
    cause = msg("signal {number}", number=abs(code or 0)) if by_signal else msg("exit code {code}", code=code)
    return (
        msg("{cause}; {log_line}", cause=cause, log_line=trainer.last_log_line()) if trainer.last_log_line() else cause
    )


def _signature(folder: Path) -> tuple[object, ...]:
    """A value that changes whenever the trainer writes something."""
    signature: list[object] = []
    for name in ("events.jsonl", "metrics.jsonl", "checkpoints.jsonl", "state.json"):
        path = folder / name
        stat = path.stat() if path.exists() else None
        signature.append(stat and (stat.st_size, stat.st_mtime_ns))
    return tuple(signature)


def _delete_large_files(folder: Path) -> None:
    """Delete an ended job's large files; metrics, events and log are kept."""
    for path in (path for pattern in _LARGE for path in folder.glob(pattern)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _now() -> int:
    return int(time.time())


class JobLoop:
    """Starts and stops the two threads."""

    def __init__(self, context: EngineJobContext) -> None:
        self._wakes = (threading.Event(), threading.Event())
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(step, wake), name=name, daemon=True)
            for step, wake, name in (
                (Validator(context, self._stopping).step, self._wakes[0], "validator"),
                (TrainingRunner(context, self._stopping, self._wakes[1]).step, self._wakes[1], "trainer"),
            )
        ]

    def start(self) -> None:
        """Start the threads; they resume unfinished jobs."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Make the threads check for work now."""
        for wake in self._wakes:
            wake.set()

    def begin_stop(self) -> None:
        """Tell the threads to stop; returns at once. A running trainer saves its state, and its job resumes at the next
        start."""
        self._stopping.set()
        self.wake()

    def stop(self) -> None:
        """Stop the threads, and wait until they have ended."""
        self.begin_stop()
        for thread in self._threads:
            thread.join()

    def _loop(self, step: Callable[[], bool], wake: threading.Event) -> None:
        """Call `step` repeatedly while it finds work; retry if the disk is full or the database is locked."""
        while not self._stopping.is_set():
            wake.clear()
            try:
                if step():
                    self.wake()
                    continue
            except (OSError, sqlite3.Error) as exc:
                _log.error("The engine cannot process jobs for now: %s", exc)
            except Exception:
                _log.exception("Unexpected error; retrying")
            wake.wait(_IDLE_S)
