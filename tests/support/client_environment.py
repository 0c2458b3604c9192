"""Environments for clients that we do not install ourselves: virtual ones for Python, folders of npm for Node. They are
kept in `.venv-clients`."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / ".venv-clients"
_DEADLINE_S = 600.0  # for making one; the registry may be slow


class NoClient(Exception):
    """The client could not be installed; the message says why."""


def python_with(*requirements: str) -> Path:
    """Return the interpreter of an environment with `requirements`, such as `openai==0.27.0`; the first call makes it.

    Raises:
        NoClient: the environment cannot be made, for example because the registry cannot be reached.
    """
    with _folder_for(requirements) as (folder, ready):
        python = folder / "bin" / "python"
        if not ready:
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
            _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], requirements)
            _run([*pip, *requirements], requirements)
    return python


def node_with(*packages: str) -> Path:
    """Return a folder with npm's `packages`, such as `openai@^6`; the first call makes it. Scripts must be in it.

    Raises:
        NoClient: it cannot be made, for example because npm is not installed.
    """
    with _folder_for(packages) as (folder, ready):
        if not ready:
            folder.mkdir(parents=True, exist_ok=True)
            npm = shutil.which("npm") or "npm"
            _run([npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", *packages], packages)
    return folder


def forget(*requirements: str) -> None:
    """Delete the environment of `requirements`, so that the next call installs the newest versions."""
    shutil.rmtree(_FOLDER / _name(requirements), ignore_errors=True)


@contextmanager
def _folder_for(requirements: tuple[str, ...]) -> Iterator[tuple[Path, bool]]:
    """Yield the environment's folder, and whether it is complete; one process makes environments at a time."""
    folder = _FOLDER / _name(requirements)
    ready = folder / "ready"
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, ready.is_file()
        ready.touch()


def _name(requirements: tuple[str, ...]) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(requirements)).strip("-")


def _run(command: list[str], requirements: tuple[str, ...]) -> None:
    names = " and ".join(requirements)
    try:
        subprocess.run(command, check=True, timeout=_DEADLINE_S, capture_output=True, text=True)
    except subprocess.CalledProcessError as exc:
        last = (exc.stderr or "").strip().splitlines()[-1:] or [str(exc)]
        raise NoClient(f"{names} could not be installed: {last[0]}") from exc
    except (subprocess.TimeoutExpired, OSError) as exc:
        raise NoClient(f"{names} could not be installed: {exc}") from exc
