"""What child processes of the engine are started with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core.settings import engine_environment

_ROOT = Path(__file__).parents[2]


def command(module: str, *arguments: str) -> list[str]:
    """Command line of a module of the engine."""
    return [sys.executable, "-m", f"core.engine.{module}", *arguments]


def environment() -> dict[str, str]:
    """What children need of the engine's environment, offline, and able to import the engine from any folder."""
    kept = engine_environment(os.environ)
    path = os.pathsep.join(filter(None, (str(_ROOT), kept.get("PYTHONPATH"))))
    ours = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**kept, **ours}
