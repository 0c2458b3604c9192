"""Reads JSON Lines files written by people or benches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """Read the objects in a file; blank lines are ignored.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not JSON.
    """
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
