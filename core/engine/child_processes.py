"""Command lines and environment of the engine's child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core.settings import engine_environment

_ROOT = Path(__file__).parents[2]


def command(module: str, *arguments: str) -> list[str]:
    """Command line that runs a module of the engine."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Environment of child processes: without secrets, offline, and able to import the engine from any folder."""
    inherited = engine_environment(os.environ)
    path = os.pathsep.join(filter(None, (str(_ROOT), inherited.get("PYTHONPATH"))))
    overrides = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**inherited, **overrides}
