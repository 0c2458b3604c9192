"""Processes by something better than their number: numbers come back, a number with its start time does not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_POLL_S = 0.05  # how often `terminate` looks whether the process is gone


def identity(pid: int | None = None) -> str:
    """`pid:start time` of a process (by default this one); empty when it is gone or only a zombie.

    The start time is Linux's (proc(5), field 22, clock ticks since boot); elsewhere it stays empty.
    """
    pid = os.getpid() if pid is None else pid
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return f"{pid}:" if _answers(pid) else ""
    try:
        fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold anything
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{pid}:{fields[19]}"


def is_running(who: str) -> bool:
    """Whether the process that `identity` named is still there."""
    pid = who.partition(":")[0]
    return bool(pid) and pid.isdigit() and identity(int(pid)) == who


def terminate(who: str, grace_s: float) -> None:
    """Ask the process to stop, and after `grace_s` seconds make it. Does nothing when it is gone already."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        if not is_running(who):
            return
        try:
            os.kill(int(who.partition(":")[0]), number)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + patience_s
        while is_running(who) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
