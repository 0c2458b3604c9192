"""Reads new lines of a JSONL file that another process writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JsonlTail:
    """Reads a JSONL file from where the last committed read ended.

    A file that was replaced or became shorter is read from its start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._committed = self._last_read = (0, 0)  # (inode, offset in bytes)

    def read_new(self) -> list[dict[str, Any]]:
        """Objects of the lines since the last `commit`; malformed and incomplete lines are skipped."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                inode, end = self._committed
                if inode != stat.st_ino or end > stat.st_size:
                    end = 0
                file.seek(end)
                block = file.read()
        except FileNotFoundError:
            return []
        complete = block[: block.rfind(b"\n") + 1]
        self._last_read = (stat.st_ino, end + len(complete))
        return [row for line in complete.splitlines() if (row := _object(line)) is not None]

    def commit(self) -> None:
        """Mark the lines of the last `read_new` as processed."""
        self._committed = self._last_read


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
