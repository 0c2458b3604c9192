"""What child processes of the engine are started with."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_SECRETS = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|DATABASE_URL)$")  # names of what children need nothing of


def command(module: str, *arguments: str) -> list[str]:
    """Command line of a module of the engine."""
    return [sys.executable, "-m", f"core.engine.{module}", *arguments]


def environment() -> dict[str, str]:
    """The engine's own environment without secrets, offline, and able to import the engine from any folder."""
    kept = {name: value for name, value in os.environ.items() if not _SECRETS.search(name)}
    path = os.pathsep.join(filter(None, (str(_ROOT), kept.get("PYTHONPATH"))))
    ours = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**kept, **ours}
