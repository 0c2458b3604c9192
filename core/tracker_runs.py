"""Runs in Weights & Biases and Trackio. Both libraries are optional, and only this module uses them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.message import msg

_TIMEOUT_S = 15.0  # W&B's server normally answers within a second


@dataclass(frozen=True, slots=True)
class RunName:
    """What a tracker calls a run.

    Attributes:
        id: the job's id, by which the run is found again.
        name: its display name.
        entity, tags: W&B's team and tags; None: the account's own team.
    """

    project: str
    id: str
    name: str
    entity: str | None = None
    tags: tuple[str, ...] = ()


class TrackerRun(Protocol):
    """One run in a tracker.

    Attributes:
        url: web page of the run; None if there is none.
        last_step: the last logged step; -1 or 0: no step logged yet.
    """

    url: str | None
    last_step: int

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step. Steps must increase."""

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Close the run with its results; None if it will be continued."""


def unavailable(tracker: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Why a tracker can't be used here; None if it can."""
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


def open_run(tracker: str, run: RunName, config: Mapping[str, Any], folder: Path) -> TrackerRun:
    """Create or resume a run. Raises any exception of the library.

    Args:
        config: the job's settings.
        folder: the folder for the library's files.
    """
    return (_Wandb if tracker == "wandb" else _Trackio)(run, config, folder)


class _Wandb:
    """A Weights & Biases run, identified by the job's id."""

    def __init__(self, run: RunName, config: Mapping[str, Any], folder: Path) -> None:
        wandb = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob(f"wandb/offline-run-*-{run.id}"):  # may be incomplete; the new run has all steps
            shutil.rmtree(earlier, ignore_errors=True)
        self._run = wandb.init(
            project=run.project,
            entity=run.entity,
            name=run.name,
            tags=list(run.tags) or None,
            id=run.id,
            resume="allow",
            config=dict(config),
            dir=str(folder),
            reinit="create_new",  # several jobs can run at the same time
            settings=wandb.Settings(
                init_timeout=_TIMEOUT_S, finish_timeout=_TIMEOUT_S, console="off", silent=True, disable_git=True
            ),
        )
        self.url = None if self._run.offline else str(self._run.url)
        self.last_step = int(self._run.starting_step) - 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._run.summary.update(dict(summary or {}))
        self._run.finish()


class _Trackio:
    """A local Trackio run, identified by the job's name and the start of its id."""

    url: str | None = None

    def __init__(self, run: RunName, config: Mapping[str, Any], folder: Path) -> None:
        trackio = importlib.import_module("trackio")
        self._run = trackio.init(
            project=run.project, name=f"{run.name}-{run.id[:6]}", config=dict(config), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        self.last_step = int(self._run._next_step) - 1  # there is no public attribute

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        numbers = {name: value for name, value in (summary or {}).items() if isinstance(value, int | float)}
        if numbers:
            self._run.log(numbers, step=max(0, self._run._next_step - 1))
        self._run.finish()
