"""Logs a job's steps to the trackers of its `integrations`. Nothing that a tracker does affects the job."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core import tracker_runs
from core.engine.event_log import add_event
from core.engine.store import EngineStore, Job
from core.engine.training.job_folder import RESULTS_COLUMNS, read_lines
from core.message import msg
from core.tracker_runs import RunName, TrackerRun

_log = logging.getLogger(__name__)
_LOOK_S = 2.0  # between two looks at the job's metrics; the trainer writes them about once a second
_STOP_S = 5.0  # longest wait for a tracker to take the last steps; its thread goes on meanwhile
_TRACKER = "wandb"
_NAME = "Weights & Biases"
_MAX_ERROR_CHARS = 300


def announce(store: EngineStore, job: Job) -> None:
    """Add an event that says why a new job cannot be logged to its tracker, if that is so."""
    reason = tracker_runs.unavailable(_TRACKER) if job.integrations else None
    if reason is not None:
        message = msg("{reason} The job runs without it.", reason=reason)
        add_event(store, job.id, message, level="warn")


class JobTracking:
    """Logs one running job, in a thread of its own, until `stop`; does nothing for a job without integrations."""

    def __init__(self, store: EngineStore, job: Job, home: Path) -> None:
        self._store, self._job, self._home = store, job, home
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if the tracker can be used here."""
        if self._job.integrations and tracker_runs.unavailable(_TRACKER) is None:
            self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Log what is left; a tracker that does not answer is left behind."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        try:
            run = self._open()
            last = run.last_step
            while not self._ended.wait(_LOOK_S):
                last = self._send(run, last)
            self._send(run, last)
            run.close(self._summary())
        except Exception as exc:  # code, network or login of the tracker
            _log.warning("Could not log %s to %s.", self._job.id, _NAME, exc_info=exc)
            error = f"{type(exc).__name__}: {exc}"[:_MAX_ERROR_CHARS]
            message = msg("Could not log the job to {tracker}: {error}. The job continues.", tracker=_NAME, error=error)
            add_event(self._store, self._job.id, message, level="warn")

    def _open(self) -> TrackerRun:
        wanted = json.loads(self._job.integrations)[0][_TRACKER]
        name = RunName(
            wanted["project"], self._job.id, wanted.get("name") or self._job.id, wanted.get("entity"),
            tuple(wanted.get("tags") or ()),
        )  # fmt: skip
        run = tracker_runs.open_run(_TRACKER, name, self._config(), self._home / _TRACKER)
        where = run.url or name.project
        add_event(self._store, self._job.id, msg("Logging to {tracker}: {where}", tracker=_NAME, where=where))
        return run

    def _send(self, run: TrackerRun, last: int) -> int:
        """Log the steps after `last`; return the new last one."""
        for step, values in _steps(self._home / "jobs" / self._job.id / "metrics.jsonl"):
            if step > last:
                run.log(step, values)
                last = step
        return last

    def _config(self) -> dict[str, Any]:
        job = self._job
        return {
            "model": job.model,
            "seed": job.seed,
            "n_epochs": job.n_epochs,
            "batch_size": job.batch_size,
            "learning_rate_multiplier": job.learning_rate_multiplier,
            "training_file": job.training_file,
            **json.loads(job.options),
        }

    def _summary(self) -> dict[str, Any] | None:
        """The job's results; None while it has not ended."""
        job = self._store.get(Job, self._job.id)
        if job is None or job.finished_at is None:
            return None
        found = {
            "status": job.status, "fine_tuned_model": job.fine_tuned_model, "trained_tokens": job.trained_tokens,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


def _steps(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """All steps with their measured values, by the names of the result file."""
    for row in read_lines(path):
        step = row.get("step")
        values = {name: row.get(name) for name in RESULTS_COLUMNS if name != "step"}
        if isinstance(step, int):
            numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
            yield step, {name: value for name, value in numbers.items() if math.isfinite(value)}
