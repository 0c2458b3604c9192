"""The new lines of a file that another process writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JsonlTail:
    """A JSONL file, read from where the last kept reading ended.

    A file that was put in place of the old one, or that became shorter, is read from its start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = self._seen = (0, 0)  # which file (its inode), and how many bytes of it

    def fresh(self) -> list[dict[str, Any]]:
        """Objects of the lines that are new since the last `keep`; a malformed or unfinished line is none."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                inode, end = self._kept
                if inode != stat.st_ino or end > stat.st_size:
                    end = 0
                file.seek(end)
                block = file.read()
        except FileNotFoundError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self._seen = (stat.st_ino, end + len(whole))
        return [row for line in whole.splitlines() if (row := _object(line)) is not None]

    def keep(self) -> None:
        """What `fresh` has given is taken care of."""
        self._kept = self._seen


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
