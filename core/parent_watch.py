"""Run a module as a child that ends with its parent: `python -m core.parent_watch PARENT MODULE ARGUMENT…`.

The child asks the kernel for a signal at its parent's death (Linux), and looks for itself elsewhere. Doing it here, in
the child, spares the parent code between fork and exec, which a process with threads must not run.
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
_LOOK_S = 1.0  # where the kernel cannot tell: an orphan lives this much longer
_GRACE_S = 10.0  # an orphan that does not stop when asked is ended


def tie_to_parent(parent: int) -> None:
    """From now on this process is asked to stop (SIGTERM) when process `parent` dies, and ended if it does not."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(0)
    threading.Thread(target=_follow, args=(parent,), name="parent-watch", daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then become the module."""
    parent, module, *arguments = argv
    tie_to_parent(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
