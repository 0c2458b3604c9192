"""Tests wait for conditions, with one common timeout: no wait has its own number of seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_WAITS = {"communicate", "join", "result", "select", "settimeout", "until", "wait", "wait_for"}


def _offences(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each wait with a literal timeout instead of `tests.support.waiting.WAIT_LIMIT_S`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        limits = [each.value for each in node.keywords if each.arg == "default_timeout" or name in _WAITS]
        for limit in [*limits, *(node.args if name in _WAITS else ())]:
            if isinstance(limit, ast.Constant) and isinstance(limit.value, int | float):
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("path", sorted(_TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(_TESTS)))
def test_a_wait_has_the_common_limit(path: Path) -> None:
    assert [f"{path.name}:{line}: {wait}" for line, wait in _offences(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "line",
    [
        "thread.join(0.3)",
        "assert stopped.wait(60)",
        "until(lambda: server.flying, 'a request', 90)",
        "process.communicate(timeout=60)",
        "AppTest.from_file('frame.py', default_timeout=60)",
    ],
)
def test_the_rule_finds(line: str) -> None:
    assert list(_offences(line))


@pytest.mark.parametrize(
    "line",
    [
        "thread.join(WAIT_LIMIT_S)",
        "until(lambda: server.flying == 4, 'four requests')",
        "until(lambda: done(store), 'all rows', 2 * WAIT_LIMIT_S)",
        "', '.join(names)",
        "Client(provider, timeout=0.05)",
    ],
)
def test_the_rule_allows(line: str) -> None:
    assert not list(_offences(line))
