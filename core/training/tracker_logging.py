"""Runs in Weights & Biases and Trackio too, for teams that keep theirs there: live, each step once.

OpenAI logs to W&B by itself (`integrations` of a job). For every other provider the worker sends what is new with
each look at the job: settings first, then steps, and at the end what came out. A worker that was killed goes on after
the last step that the tracker has. A tracker that fails harms nothing: the job says why, and it is tried again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd

from core.db.store import Store
from core.db.tables import TrainingJob
from core.settings import Settings
from core.training import job_views, results, run_export, trackers
from core.training.job_form import PROJECT
from core.training.job_views import JobView
from core.training.trackers import TrackerRun

_log = logging.getLogger(__name__)
_LONGEST_ERROR = 300  # characters of a tracker's own words
_BY_ITSELF = ("openai", "wandb")  # (provider, tracker): the provider logs there, see core.training.submit
_AT_ONCE = 2_000  # steps with one look: the job's own news shall not wait for a tracker
_AGAIN_S = 300.0  # after a failure


def unavailable(tracker: str, environ: Mapping[str, str] | None = None, provider: str = "") -> str | None:
    """Why a tracker cannot be used here; None: it can. A provider that logs to it by itself needs nothing here."""
    return None if (provider, tracker) == _BY_ITSELF else trackers.unavailable(tracker, environ)


class TrackerLogger:
    """What a job sends to its trackers while it goes on. None of the calls raises for a tracker."""

    def __init__(self, store: Store, job: JobView) -> None:
        self._store, self._job_id = store, job.id
        self._seen: str | None = None
        self._lines = {name: _TrackerChannel(name, job, dict(known)) for name, known in job.trackers.items()}

    def send(self, results_csv: str | None, *, everything: bool = False) -> dict[str, Any] | None:
        """Send the steps that are new in a results file; where each tracker stands then, None: there is no tracker.

        Args:
            results_csv: as it is now.
            everything: the job has ended; otherwise a few thousand steps have to do at a time.
        """
        if not self._lines:
            return None
        if results_csv and (results_csv is not self._seen or everything):
            frame = results.parse(results_csv).frame
            behind = [line.send(frame, None if everything else _AT_ONCE) for line in self._lines.values()]
            self._seen = None if any(behind) else results_csv
        return {name: dict(line.known) for name, line in self._lines.items()}

    def end(self) -> None:
        """The job has ended, and the ledger says so: tell what came of it, and write down where it is logged."""
        if self._lines:
            job = job_views.get(self._store, self._job_id, results=False)
            for line in self._lines.values():
                line.end(job)
            with self._store.session() as session:
                stands = {name: line.known for name, line in self._lines.items()}
                session.get_one(TrainingJob, self._job_id).trackers = stands

    def leave(self) -> None:
        """Let go of what is open; the job goes on with another worker."""
        for line in self._lines.values():
            line.leave()


class _TrackerChannel:
    """The way to one tracker. `known` is what the job says about it: project, state, step, url, error."""

    def __init__(self, name: str, job: JobView, known: dict[str, Any]) -> None:
        self._name, self._job, self.known = name, job, known
        self._run: TrackerRun | None = None
        self._step = int(known.get("step") or 0)
        self._not_before = 0.0

    def send(self, frame: pd.DataFrame, most: int | None) -> bool:
        """Send up to `most` steps that it does not have yet; whether there are more."""
        if (self._job.provider, self._name) == _BY_ITSELF:
            return False
        if not (frame["step"] > self._step).any() or not self._opened():
            return False
        new = frame[frame["step"] > self._step]  # the tracker may have more, or less, than could be written down
        try:
            for step, values in _steps(new if most is None else new.head(most)):
                assert self._run is not None
                self._run.log(step, values)
                self._step = step
        except Exception as exc:
            self._failed(exc)
            return False
        self.known |= {"state": "live", "step": self._step, "error": None}
        return most is not None and len(new) > most

    def end(self, job: JobView) -> None:
        """Tell what came of it."""
        if (self._job.provider, self._name) == _BY_ITSELF:
            self.known["state"] = "logged"
        elif self._run is not None or (self.known.get("state") != "logged" and self._opened()):
            try:
                assert self._run is not None
                self._run.close(_summary(job))
                self.known |= {"state": "logged", "error": None}
            except Exception as exc:
                self._failed(exc)
            self._run = None

    def leave(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            try:
                run.close(None)
            except Exception as exc:
                self._failed(exc)

    def _opened(self) -> bool:
        if self._run is not None:
            return True
        if (why := trackers.unavailable(self._name)) is not None:
            self.known |= {"state": "skipped", "error": why}
        elif time.monotonic() >= self._not_before:
            try:
                project, folder = str(self.known.get("project") or PROJECT), Settings.from_env().home / self._name
                self._run = trackers.open_run(self._name, project, self._job, _config(self._job), folder)
            except Exception as exc:
                self._failed(exc)
            else:
                self._step = self._run.newest
                self.known["url"] = self._run.url
        return self._run is not None

    def _failed(self, exc: Exception) -> None:
        """A tracker's own code, network or login: none of it may harm the job."""
        _log.warning("Could not log %s to %s.", self._job.id, self._name, exc_info=exc)
        self._run, self._not_before = None, time.monotonic() + _AGAIN_S
        self.known |= {"state": "failed", "error": f"{type(exc).__name__}: {exc}"[:_LONGEST_ERROR]}


def _steps(frame: pd.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Every step with what is known of it."""
    names = [name for name in frame.columns if name != "step"]
    rows = frame.astype("float64").to_dict("records")
    return [
        (int(row["step"]), {str(name): float(row[name]) for name in names if not math.isnan(row[name])}) for row in rows
    ]


def _config(job: JobView) -> dict[str, Any]:
    return {
        name: value for name, value in run_export.settings(job).items() if isinstance(value, str | int | float | dict)
    }


def _summary(job: JobView) -> dict[str, Any]:
    found = {
        "trained_tokens": job.trained_tokens,
        "cost_usd": None if job.cost_usd is None else float(job.cost_usd),
        "fine_tuned_model": job.fine_tuned_model,
        "status": job.status,
    }
    return {name: value for name, value in found.items() if value is not None}
