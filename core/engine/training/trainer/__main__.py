"""`python -m core.engine.training.trainer JOBDIR [ENGINE_PID]` runs or resumes one job.

On SIGTERM, or when the engine that started it dies, the process saves its state and exits within one micro-batch. A
kill -9 loses the steps since the last save. A lock ensures one trainer per folder.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path

from core.engine.training.job_folder import JobSpec, Journal
from core.engine.training.trainer import failure
from core.engine.training.trainer.run import train


def main(folder: Path, engine_pid: int) -> int:
    """Train; return 0 if finished or paused, 1 if the job failed (state.json has the reason)."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # wait, because the trainer of a killed engine may still be saving
        stop_requested = _StopRequest(engine_pid)
        if stop_requested():  # the engine has died in the meantime; its successor starts its own trainer
            return 0
        journal = Journal(folder)
        try:
            train(JobSpec.read(folder), journal, stop_requested)
        except Exception as exc:  # any error is reported through state.json
            failure.report(journal, exc)
            return 1
    return 0


class _StopRequest:
    """Returns True once SIGTERM has been received or the parent has died."""

    def __init__(self, engine_pid: int) -> None:
        self._parent = engine_pid
        self._requested = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._requested = True

    def __call__(self) -> bool:
        return self._requested or os.getppid() != self._parent


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else os.getppid()))
