"""Files of JSON Lines, as people and benches write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file; blank lines do not count.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no JSON.
    """
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
