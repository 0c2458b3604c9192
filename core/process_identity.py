"""Identifies processes by pid and start time, because pids are reused."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_POLL_S = 0.05  # how often `terminate` checks whether the process has ended


def identity(pid: int | None = None) -> str:
    """`pid:start time` of a process (default: this one); empty if it has ended or is a zombie.

    The start time is Linux's (proc(5), field 22, clock ticks since boot); elsewhere it is empty.
    """
    pid = os.getpid() if pid is None else pid
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return f"{pid}:" if _exists(pid) else ""
    try:
        fields = stat.read_text().rpartition(")")[2].split()  # the process name before it may contain anything
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{pid}:{fields[19]}"


def is_running(process: str) -> bool:
    """Whether the process with this `identity` is still running."""
    pid = process.partition(":")[0]
    return bool(pid) and pid.isdigit() and identity(int(pid)) == process


def terminate(process: str, grace_s: float) -> None:
    """Stop a process with SIGTERM, and with SIGKILL after `grace_s` seconds. Does nothing if it has already ended."""
    for number, timeout_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        if not is_running(process):
            return
        try:
            os.kill(int(process.partition(":")[0]), number)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + timeout_s
        while is_running(process) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
