"""Virtual environments for clients in versions that we do not install ourselves. They are kept in `.venv-clients`."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / ".venv-clients"
_DEADLINE_S = 600.0  # for making one; the registry may be slow


class NoClient(Exception):
    """The client could not be installed; the message says why."""


def python_with(requirement: str) -> Path:
    """Return the interpreter of an environment with `requirement`, such as `openai==0.27.0`; the first call makes it.

    Raises:
        NoClient: the environment cannot be made, for example because the registry cannot be reached.
    """
    folder = _FOLDER / re.sub(r"[^A-Za-z0-9.]+", "-", requirement)
    python, ready = folder / "bin" / "python", folder / "ready"
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_file():
            _run([sys.executable, "-m", "venv", "--clear", str(folder)], requirement)
            _run([str(python), "-m", "pip", "install", "--quiet", requirement], requirement)
            ready.touch()
    return python


def _run(command: list[str], requirement: str) -> None:
    try:
        subprocess.run(command, check=True, timeout=_DEADLINE_S, capture_output=True, text=True)
    except subprocess.CalledProcessError as exc:
        last = (exc.stderr or "").strip().splitlines()[-1:] or [str(exc)]
        raise NoClient(f"{requirement} could not be installed: {last[0]}") from exc
    except (subprocess.TimeoutExpired, OSError) as exc:
        raise NoClient(f"{requirement} could not be installed: {exc}") from exc
