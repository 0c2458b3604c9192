"""What the engine needs of the place where trainers run: this machine or a Ray cluster (`launchers`).

The engine keeps a job's id, files, events and status, and alone decides about retries. A launcher only starts a
trainer, brings what it writes to the engine's job folder, and stops it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from core.message import Message


class LauncherUnavailable(Exception):
    """Trainers cannot be started for now; the job waits. `message` is for the user."""

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.message = message


class Trainer(Protocol):
    """A running trainer.

    Attributes:
        outlives_engine: whether it goes on while the engine is stopped; the next engine finds it again.
    """

    outlives_engine: bool

    @property
    def code(self) -> int | None:
        """None while it runs; 0 if it ended by itself; negative for a signal."""

    @property
    def trouble(self) -> Message | None:
        """Why its state is unknown at the moment; None if it is known."""

    def collect(self) -> None:
        """Bring what it has written to the engine's job folder. Raises OSError; the next call retries."""

    def request_stop(self) -> None:
        """Ask it to save its state and exit, which takes about one step."""

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds; return whether it has exited."""

    def kill(self) -> None:
        """End it; its last saved state is kept."""

    def close(self) -> None:
        """Stop watching it: a trainer that does not outlive the engine is killed."""

    def last_log_line(self) -> str:
        """The last line of its log."""


class Launcher(Protocol):
    """Starts trainers.

    Attributes:
        max_jobs: how many jobs train at once, at most.
    """

    max_jobs: int

    def at_once(self) -> int:
        """How many jobs can train at once, as far as is known; nothing is asked."""

    def has_room(self, running: int) -> bool:
        """Whether another job can start while `running` jobs train."""

    def launch(self, folder: Path) -> Trainer:
        """Start a trainer for the job in `folder`, which has its `job.json`, or find the one that is still running.

        Raises:
            LauncherUnavailable: not possible for now.
            JobFailed: not possible for this job.
        """

    def abandon(self, folder: Path) -> None:
        """Stop the trainer of a job that no longer trains, if the engine was killed before it did. Raises OSError."""

    def forget(self, folder: Path) -> None:
        """Delete what an ended job has outside its folder. Raises OSError."""

    def end_left_over(self, folder: Path) -> bool:
        """End trainers of a job that no longer trains which `Trainer.kill` could not reach; return whether none is
        left.

        Raises:
            OSError, LauncherUnavailable: not possible for now.
        """
