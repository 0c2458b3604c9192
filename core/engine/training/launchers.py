"""Chooses the launcher; `LocalLauncher` starts trainers on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.engine import launcher_settings
from core.engine.child_processes import TrainerProcess
from core.engine.training.launcher import Launcher, Trainer
from core.engine.training.ray_launcher import RayLauncher


class LocalLauncher:
    """One child process at a time on this machine."""

    max_jobs = 1

    def at_once(self) -> int:
        """See `Launcher`."""
        return 1

    def has_room(self, running: int) -> bool:
        """See `Launcher`."""
        return running == 0

    def launch(self, folder: Path) -> Trainer:
        """See `Launcher`."""
        return TrainerProcess(folder)

    def abandon(self, folder: Path) -> None:
        """See `Launcher`. The trainer ends with its engine."""

    def forget(self, folder: Path) -> None:
        """See `Launcher`."""

    def end_left_over(self, folder: Path) -> bool:
        """See `Launcher`. A child process can always be killed."""
        return True


def choose(environ: Mapping[str, str]) -> Launcher:
    """The launcher of the settings, which `launcher_settings.check` has accepted."""
    if launcher_settings.is_local(environ):
        return LocalLauncher()
    return RayLauncher.from_environ(environ)
