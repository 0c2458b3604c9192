"""Runs training jobs: each has a trainer, monitored until it ends or the job's status changes.

The `Launcher` decides where trainers run. The API changes the status in the store, and the threads of
`core.engine.training.job_loop` act on it.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.engine.api.files import RESULTS_PURPOSE
from core.engine.event_log import EventCollector, add_event, read_state, register_adapter
from core.engine.formats import gguf_file
from core.engine.store import File, Job, new_id
from core.engine.training.job_claims import JobClaims
from core.engine.training.job_context import EngineJobContext, JobFailed, describe_error
from core.engine.training.job_folder import metrics_csv, write_job_spec
from core.engine.training.launcher import Launcher, LauncherUnavailable, Trainer
from core.engine.training.tracking import JobTracking
from core.engine.training_options import DPO_RATE, TrainingOptions, base_learning_rate
from core.message import from_json, msg, with_cause

_log = logging.getLogger(__name__)

_CHECKPOINT_S = 20  # maximum training time in seconds that is lost on kill -9
_POLL_S = 0.5  # how often the trainer's files are read; the trainer writes about once per second
_GRACE_S = 60.0  # a trainer stops within one micro-batch, which takes longer only on a machine that is swapping
_SHUTDOWN_GRACE_S = 10.0  # used instead when the engine itself is stopping
_MAX_CRASHES = 3  # consecutive crashes without a completed step between them
IDLE_S = 5.0
"""How often the queue, or a cluster that does not answer, is asked again if there is no wake-up."""


class TrainingRunner:
    """Moves jobs from queued to running to succeeded or failed, or to a status that the API sets in the meantime."""

    def __init__(
        self,
        context: EngineJobContext,
        launcher: Launcher,
        claims: JobClaims,
        stopping: threading.Event,
        wake: threading.Event,
    ) -> None:
        self._context, self._launcher, self._claims = context, launcher, claims
        self._stopping, self._wake = stopping, wake

    def step(self) -> bool:
        """Train an interrupted job if there is one, otherwise the oldest queued job; return whether there was one."""
        job = self._claims.take()
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
        finally:
            self._claims.release(job)
        return True

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
        while (trainer := self._launch(job)) is not None:
            try:
                latest = self._watch(job, trainer, collector)
            finally:
                trainer.close()
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

    def _launch(self, job: Job) -> Trainer | None:
        """Start a trainer, or wait until that is possible; return None if the job is no longer to be trained."""
        waits = False
        while self._context.status(job) == "running" and not self._stopping.is_set():
            (self._context.folder(job) / "state.json").unlink(missing_ok=True)  # left by the previous trainer
            try:
                return self._launcher.launch(self._context.folder(job))
            except LauncherUnavailable as exc:
                if not waits:
                    add_event(self._context.store, job.id, exc.message, level="warn")
                waits = True
                self._wake.wait(IDLE_S)
                self._wake.clear()
        return None

    def _watch(self, job: Job, trainer: Trainer, collector: EventCollector) -> Job | None:
        """Collect the trainer's output until it ends; return the job, or None if the trainer was asked to stop."""
        last_signature: object = None
        collected_at = time.monotonic()
        trouble: str | None = None
        while True:
            ended = trainer.code is not None
            trouble = self._report_trouble(job, trainer, trouble)
            self._fetch(job, trainer, ended)
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
                self._fetch(job, trainer, ended=False)
                collector.collect(time.monotonic() - collected_at)
                self._close_results(job)
                return None
            self._wake.wait(_POLL_S)
            self._wake.clear()

    def _report_trouble(self, job: Job, trainer: Trainer, before: str | None) -> str | None:
        """Add an event when a trainer's state is no longer known; return the trouble."""
        if trainer.trouble is not None and before is None:
            add_event(self._context.store, job.id, trainer.trouble, level="warn")
        return trainer.trouble

    @staticmethod
    def _fetch(job: Job, trainer: Trainer, ended: bool) -> None:
        """Bring the trainer's output to the job folder; while it runs, an error only delays that."""
        try:
            trainer.collect()
        except OSError as exc:
            if ended:
                raise
            _log.error("Cannot read the progress of %s for now: %s", job.id, exc)

    def _stop(self, trainer: Trainer, status: str) -> None:
        if trainer.outlives_engine and status == "running":  # the next engine finds it again
            return
        if status in ("paused", "queued", "running"):  # `queued`: paused and resumed between two polls
            trainer.request_stop()
            self._wait_until_saved(trainer)
        if trainer.code is None:
            trainer.kill()

    def _wait_until_saved(self, trainer: Trainer) -> None:
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


def _crash_cause(trainer: Trainer) -> str:
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


def _now() -> int:
    return int(time.time())
