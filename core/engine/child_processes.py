"""The engine's child processes: their command lines and environment, and the trainer."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from core.engine import job_rules
from core.process_environment import engine_environment

_ROOT = Path(__file__).parents[2]

_LOG_BYTES = 2000  # bytes read from the end of the log to find its last line
_PARENT_CHECK_S = 1.0
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Environment in which waiting threads sleep instead of spinning."""
_NICENESS = 10  # used on systems without an idle scheduling class


def command(module: str, *arguments: str) -> list[str]:
    """Command line that runs one of the engine's modules."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Environment for child processes: no secrets, offline mode, and an import path that works from any folder."""
    inherited = engine_environment(os.environ)
    path = os.pathsep.join(filter(None, (str(_ROOT), inherited.get("PYTHONPATH"))))
    overrides = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**inherited, **overrides}


def start(log: Path, module: str, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    """Start one of the engine's modules in its own process; its output is appended to `log`.

    A signal from a terminal (Ctrl-C) goes to the engine only, which stops its processes in order.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command(module, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(), **environ},
            process_group=0,
        )


def exit_with(engine_pid: int) -> None:
    """Called in a child process: exit, with code 1, when the engine has exited."""
    threading.Thread(target=_wait_for_end, args=(engine_pid,), daemon=True).start()


def _wait_for_end(engine_pid: int) -> None:
    while os.getppid() == engine_pid:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


class TrainerProcess:
    """A process running `python -m core.engine.training.trainer JOBDIR`. Its output goes to JOBDIR/trainer.log.

    It is a `core.engine.training.launcher.Trainer`.
    """

    outlives_engine = False
    trouble = None

    def __init__(self, folder: Path) -> None:
        self._log = folder / "trainer.log"
        self._process = start(
            self._log, "core.engine.training.trainer", str(folder), str(os.getpid()), **PASSIVE_THREADS
        )
        if job_rules.trainer_priority(os.environ) == "idle":
            set_idle_priority(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code; None while running; negative for a signal."""
        return self._process.poll()

    def collect(self) -> None:
        """The trainer writes to the job folder itself."""

    def close(self) -> None:
        """Kill the trainer if it is running."""
        if self.code is None:
            self.kill()

    def request_stop(self) -> None:
        """Ask the trainer to save its state and exit, which takes about one micro-batch."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill the trainer; its last saved state is kept."""
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds; return whether the trainer has exited."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_log_line(self) -> str:
        """The last line of the trainer's log."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = log.read().decode("utf-8", "replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines else ""


def set_idle_priority(pid: int) -> None:
    """Let a process run only on idle CPU time. The parent calls it, so that it also applies while the child imports its
    modules.

    llama.cpp's threads wait for each other at every layer, so a trainer that takes even a small share of a core, as
    with nice +10, slows generation by far more than that share. The exact effect has not been measured on otherwise
    idle cores.
    """
    with contextlib.suppress(OSError):  # the process has exited, or the system does not allow it
        if hasattr(os, "SCHED_IDLE"):  # Linux
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
