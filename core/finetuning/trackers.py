"""Logs runs to Weights & Biases and Trackio: live, each step once. The libraries are used in `core.tracker_runs`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from core import tracker_runs
from core.db.store import Store
from core.db.tables import TrainingJob
from core.finetuning import job_views, results
from core.finetuning.job_form import DEFAULT_PROJECT
from core.finetuning.job_views import JobView
from core.pricing.prices import price_list
from core.settings import Settings
from core.tracker_runs import RunName, TrackerRun

_log = logging.getLogger(__name__)
_MAX_ERROR_CHARS = 300  # characters kept of a tracker's error message
# (provider, tracker) pairs where the provider sends the data itself, see core.finetuning.submit
_LOGGED_BY_PROVIDER = ("openai", "wandb")
_MAX_STEPS_PER_SEND = 2_000  # per poll, so that a slow tracker does not delay the job's updates
_RETRY_S = 300.0  # pause after a failure


def unavailable(tracker: str, environ: Mapping[str, str] | None = None, provider: str = "") -> str | None:
    """Why a tracker can't be used here; None if it can.

    If the provider sends the data to the tracker itself, nothing is needed here.
    """
    if (price_list(provider), tracker) == _LOGGED_BY_PROVIDER:
        return None
    return tracker_runs.unavailable(tracker, environ)


def open_run(tracker: str, project: str, job: JobView, config: Mapping[str, Any], folder: Path) -> TrackerRun:
    """Create or resume the job's run; see `core.tracker_runs.open_run`."""
    return tracker_runs.open_run(tracker, RunName(project, job.id, job.name), config, folder)


class TrackerLogger:
    """Sends a job's data to its trackers. Errors of a tracker are logged and never raised."""

    def __init__(self, store: Store, job: JobView) -> None:
        self._store, self._job_id = store, job.id
        self._last_sent: str | None = None
        self._channels = {name: _TrackerChannel(name, job, dict(state)) for name, state in job.trackers.items()}

    def send(self, results_csv: str | None, *, send_all: bool = False) -> dict[str, Any] | None:
        """Send the new steps of a results file.

        Args:
            results_csv: current content.
            send_all: send all steps, because the job has ended; otherwise at most `_MAX_STEPS_PER_SEND`.

        Returns:
            The state of each tracker; None if the job has no trackers.
        """
        if not self._channels:
            return None
        if results_csv and (results_csv is not self._last_sent or send_all):
            frame = results.parse(results_csv).frame
            incomplete = [
                channel.send(frame, None if send_all else _MAX_STEPS_PER_SEND) for channel in self._channels.values()
            ]
            self._last_sent = None if any(incomplete) else results_csv
        return {name: dict(channel.state) for name, channel in self._channels.items()}

    def finish(self) -> None:
        """Send the results of the finished job, and save the state of its trackers."""
        if self._channels:
            job = job_views.get(self._store, self._job_id, results=False)
            for channel in self._channels.values():
                channel.finish(job)
            with self._store.session() as session:
                states = {name: channel.state for name, channel in self._channels.items()}
                session.get_one(TrainingJob, self._job_id).trackers = states

    def close(self) -> None:
        """Close open runs. The job continues with another worker."""
        for channel in self._channels.values():
            channel.close()


class _TrackerChannel:
    """The connection to one tracker. `state` is saved with the job: project, state, step, url, error."""

    def __init__(self, name: str, job: JobView, state: dict[str, Any]) -> None:
        self._name, self._job, self.state = name, job, state
        self._run: TrackerRun | None = None
        self._step = int(state.get("step") or 0)
        self._not_before = 0.0

    def send(self, frame: pd.DataFrame, max_steps: int | None) -> bool:
        """Send up to `max_steps` new steps. Returns whether there are more."""
        if (price_list(self._job.provider), self._name) == _LOGGED_BY_PROVIDER:
            return False
        if not (frame["step"] > self._step).any() or not self._ensure_open():
            return False
        new = frame[frame["step"] > self._step]  # the tracker's last step can differ from the saved one
        try:
            for step, values in _steps(new if max_steps is None else new.head(max_steps)):
                assert self._run is not None
                self._run.log(step, values)
                self._step = step
        except Exception as exc:
            self._failed(exc)
            return False
        self.state |= {"state": "live", "step": self._step, "error": None}
        return max_steps is not None and len(new) > max_steps

    def finish(self, job: JobView) -> None:
        """Send the results and close the run."""
        if (price_list(self._job.provider), self._name) == _LOGGED_BY_PROVIDER:
            self.state["state"] = "logged"
        elif self._run is not None or (self.state.get("state") != "logged" and self._ensure_open()):
            try:
                assert self._run is not None
                self._run.close(_summary(job))
                self.state |= {"state": "logged", "error": None}
            except Exception as exc:
                self._failed(exc)
            self._run = None

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            try:
                run.close(None)
            except Exception as exc:
                self._failed(exc)

    def _ensure_open(self) -> bool:
        if self._run is not None:
            return True
        if (reason := unavailable(self._name)) is not None:
            self.state |= {"state": "skipped", "error": reason}
        elif time.monotonic() >= self._not_before:
            try:
                project, folder = (
                    str(self.state.get("project") or DEFAULT_PROJECT),
                    Settings.from_env().home / self._name,
                )
                self._run = open_run(self._name, project, self._job, _config(self._job), folder)
            except Exception as exc:
                self._failed(exc)
            else:
                self._step = self._run.last_step
                self.state["url"] = self._run.url
        return self._run is not None

    def _failed(self, exc: Exception) -> None:
        """Record a tracker's failure (code, network, login); it must not affect the job."""
        _log.warning("Could not log %s to %s.", self._job.id, self._name, exc_info=exc)
        self._run, self._not_before = None, time.monotonic() + _RETRY_S
        self.state |= {"state": "failed", "error": f"{type(exc).__name__}: {exc}"[:_MAX_ERROR_CHARS]}


def _steps(frame: pd.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """All steps with their known values."""
    names = [name for name in frame.columns if name != "step"]
    rows = frame.astype("float64").to_dict("records")
    return [
        (int(row["step"]), {str(name): float(row[name]) for name in names if not math.isnan(row[name])}) for row in rows
    ]


def _config(job: JobView) -> dict[str, Any]:
    return {
        name: value
        for name, value in job_views.job_settings(job).items()
        if isinstance(value, str | int | float | dict)
    }


def _summary(job: JobView) -> dict[str, Any]:
    found = {
        "trained_tokens": job.trained_tokens,
        "cost_usd": None if job.cost_usd is None else float(job.cost_usd),
        "fine_tuned_model": job.fine_tuned_model,
        "status": job.status,
    }
    return {name: value for name, value in found.items() if value is not None}
