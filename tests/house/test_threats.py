"""The table of threats in `docs/security.md`: each row names its tests, and each of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TITLE = "## Threats to a team's server"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def _rows() -> list[str]:
    section = (_ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition(_TITLE)[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


@cache
def _tests(path: str) -> frozenset[str]:
    tree = ast.parse((_ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_there_are_threats() -> None:
    assert len(_rows()) > 20


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row.split("|")[1].strip())
def test_a_threat_names_tests_that_exist(row: str) -> None:
    named = _TEST.findall(row.split("|")[3])
    assert named, "the row names no test"
    assert [f"{path}::{name}" for path, name in named if name not in _tests(path)] == []
