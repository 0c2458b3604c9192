"""Run a module as a child that ends with its parent: `python -m core.parent_watch PARENT MODULE ARGUMENT…`.

On Linux the child asks the kernel for a signal when its parent dies; elsewhere it polls. The child does this itself
because a multi-threaded parent must not run code between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 1.0  # without the kernel's signal, an orphan lives this much longer
_GRACE_S = 10.0  # an orphan that ignores SIGTERM for this long is ended


def tie_to_parent(parent: int) -> None:
    """Send this process SIGTERM when process `parent` dies, and end it if it does not stop.

    Raises:
        SystemExit: the parent is already dead.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(0)
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then run the module."""
    parent, module, *arguments = argv
    tie_to_parent(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
