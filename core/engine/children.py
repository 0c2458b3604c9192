"""What child processes of the engine are started with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def command(module: str, *arguments: str) -> list[str]:
    """Command line of a module of the engine."""
    return [sys.executable, "-m", f"core.engine.{module}", *arguments]


def environment() -> dict[str, str]:
    """The engine's own environment without its token, offline, and able to import the engine from any folder.

    Threads wait asleep, not spinning (`OMP_WAIT_POLICY`): a story written while a job trains on two cores comes at 13
    tokens/s instead of 3, and the job does not stand still meanwhile.
    """
    kept = {name: value for name, value in os.environ.items() if name != "FABULA_ENGINE_TOKEN"}
    path = os.pathsep.join(filter(None, (str(_ROOT), kept.get("PYTHONPATH"))))
    ours = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**kept, **ours}
