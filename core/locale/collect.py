"""Collects every translatable sentence: the literal templates in calls of `_`, `n_`, `mark` and `msg`.

It uses the syntax tree because Babel's extractor does not see calls inside f-strings before Python 3.12.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MARKS = {"_": 1, "mark": 1, "msg": 1, "n_": 2}  # function → number of leading template arguments


@dataclass(frozen=True, slots=True)
class CollectedMessage:
    """A message in the code: its id, plural id and position."""

    message: str
    plural: str | None
    where: str
    line: int


def collect(root: Path) -> list[CollectedMessage]:
    """All messages in the project folder, sorted by file and line."""
    paths = sorted([root / "app.py", *root.glob("pages/**/*.py"), *root.glob("core/**/*.py")])
    return [found for path in paths if path.is_file() for found in _in_file(path, path.relative_to(root).as_posix())]


def _in_file(path: Path, where: str) -> Iterator[CollectedMessage]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=where)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MARKS:
            count = _MARKS[node.func.id]
            texts = [a.value for a in node.args[:count] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if len(texts) == count and texts[0]:
                yield CollectedMessage(texts[0], texts[1] if count == 2 else None, where, node.lineno)
