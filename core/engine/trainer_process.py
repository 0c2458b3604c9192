"""The trainer as a child process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from core.engine import child_processes

_LOG_BYTES = 2000  # of the trainer's last words, for the message when it dies
_NICENESS = 10  # where a system has nothing lower


class TrainerProcess:
    """`python -m core.engine.trainer JOBDIR`. Its output goes to JOBDIR/trainer.log."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "trainer.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                child_processes.command("trainer", str(folder), str(os.getpid())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **child_processes.environment(),
                    "OMP_WAIT_POLICY": "PASSIVE",
                },  # threads that wait sleep, not spin
                process_group=0,  # Ctrl-C in a terminal is for the engine, which lets the trainer save
            )
        _yield_to_everyone(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs; negative for a signal."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Have it save and leave, within a small batch."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now; its last checkpoint stays."""
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """The last line of its log."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines else ""


def _yield_to_everyone(pid: int) -> None:
    """Let a process have only the time that nobody else wants. From here, so that its imports yield too.

    llama.cpp's threads wait for each other at every layer, so a trainer that takes even a small share of a processor,
    as it does with nice +10, slows an answer far more than that share. How much has not been measured on quiet cores.
    """
    with contextlib.suppress(OSError):  # it has ended already, or the system forbids it
        if hasattr(os, "SCHED_IDLE"):  # Linux
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)


def write_job_spec(folder: Path, orders: dict[str, Any]) -> None:
    """JOBDIR/job.json, beside and renamed."""
    beside = folder / "job.json.part"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(orders, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, folder / "job.json")
