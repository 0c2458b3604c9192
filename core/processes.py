"""Processes: their identity, stopping one, and children that end with their parent.

A process is identified by pid and start time, because pids are reused. `python -m core.processes PARENT MODULE
ARGUMENT…` runs a module as a child that ends with its parent. On Linux the child asks the kernel for a signal when its
parent dies; elsewhere it polls. The child does this itself because a multi-threaded parent must not run code between
fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

DRAIN_S = 14.0
"""How long a stopping worker waits for answers to requests in flight, which are paid for. With the time to save them it
ends within 20 seconds; service managers must allow it more (`deploy/`)."""
_POLL_S = 0.05  # how often `terminate` checks whether the process has ended
_SIGNAL_POLL_S = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PARENT_POLL_S = 1.0  # without the kernel's signal, an orphan runs up to this much longer
_ORPHAN_GRACE_S = 10.0  # an orphan that ignores SIGTERM for this long is killed


def identity(pid: int | None = None) -> str:
    """`pid:start time` of a process (default: this one); empty if it has ended or is a zombie.

    The start time is Linux's (proc(5), field 22, clock ticks since boot); elsewhere it is empty.
    """
    pid = os.getpid() if pid is None else pid
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return f"{pid}:" if _exists(pid) else ""
    try:
        # the process name in front of it may contain any character
        fields = stat.read_text().rpartition(")")[2].split()
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


def wait_for_signal(event: threading.Event) -> None:
    """Wait on the main thread until a signal handler sets the event.

    The kernel may deliver a signal to any thread, for example one of a library. Python then runs the handler on the
    main thread as soon as that runs, which `event.wait()` alone would never do.
    """
    while not event.wait(_SIGNAL_POLL_S):
        pass


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def tie_to_parent(parent: int) -> None:
    """Send this process SIGTERM when process `parent` dies, and end it if it does not stop.

    Raises:
        SystemExit: the parent is already dead.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(0)
    threading.Thread(target=_watch_parent, args=(parent,), name="parent-watch", daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_GRACE_S)
    os._exit(1)


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then run the module."""
    parent, module, *arguments = argv
    tie_to_parent(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
