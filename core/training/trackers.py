"""A run in a tracker's own library: Weights & Biases or Trackio. Both are optional to install, and known only here."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from core.message import msg
from core.training.job_views import JobView

_PATIENCE_S = 15.0  # W&B's server answers within a second, or the network is not there


class TrackerRun(Protocol):
    """One run there.

    Attributes:
        url: where it can be looked at; None: nowhere on the web.
        newest: the last step that it has; -1 or 0: none yet.
    """

    url: str | None
    newest: int

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a step; steps only grow."""

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Let go of the run, with what came of it; None: it goes on in another life of the worker."""


def unavailable(tracker: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Why a tracker cannot be used here; None: it can."""
    if tracker == "wandb":
        if importlib.util.find_spec("wandb") is None:
            return msg("Weights & Biases is not installed here. Install it with: `pip install wandb`.")
        env = os.environ if environ is None else environ
        if not env.get("WANDB_API_KEY") and env.get("WANDB_MODE") != "offline":
            return msg("Weights & Biases needs its key in `WANDB_API_KEY`.")
        return None
    if importlib.util.find_spec("trackio") is None:
        return msg("Trackio is not installed here. Install it with: `pip install trackio`.")
    return None


def open_run(tracker: str, project: str, job: JobView, config: Mapping[str, Any], folder: Path) -> TrackerRun:
    """The run of this job there: made, or gone on with. Raises whatever the library raises.

    Args:
        config: the job's settings.
        folder: where the library may keep its files.
    """
    return (_Wandb if tracker == "wandb" else _Trackio)(project, job, config, folder)


class _Wandb:
    """A run of Weights & Biases; it is known by the job's id."""

    def __init__(self, project: str, job: JobView, config: Mapping[str, Any], folder: Path) -> None:
        wandb = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob(f"wandb/offline-run-*-{job.id}"):  # its end may be lost: the new one has all of it
            shutil.rmtree(earlier, ignore_errors=True)
        self._run = wandb.init(
            project=project,
            name=job.name,
            id=job.id,
            resume="allow",
            config=dict(config),
            dir=str(folder),
            reinit="create_new",  # several jobs may go on at once
            settings=wandb.Settings(
                init_timeout=_PATIENCE_S, finish_timeout=_PATIENCE_S, console="off", silent=True, disable_git=True
            ),
        )
        self.url = None if self._run.offline else str(self._run.url)
        self.newest = int(self._run.starting_step) - 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._run.summary.update(dict(summary or {}))
        self._run.finish()


class _Trackio:
    """A run of Trackio on this machine; it is known by the job's name and the end of its id."""

    url: str | None = None

    def __init__(self, project: str, job: JobView, config: Mapping[str, Any], folder: Path) -> None:
        trackio = importlib.import_module("trackio")
        self._run = trackio.init(
            project=project, name=f"{job.name}-{job.id[:6]}", config=dict(config), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        self.newest = int(self._run._next_step) - 1  # it tells this nowhere else

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        numbers = {name: value for name, value in (summary or {}).items() if isinstance(value, int | float)}
        if numbers:
            self._run.log(numbers, step=max(0, self._run._next_step - 1))
        self._run.finish()
