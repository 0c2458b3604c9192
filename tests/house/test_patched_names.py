"""Tests and benches replace only names that exist: a name in a string is invisible to mypy, and survives a rename."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FILES = sorted((*_ROOT.glob("tests/**/*.py"), *_ROOT.glob("bench/*.py")))
_BY_NAME = ("setattr", "delattr", "object")  # of pytest's monkeypatch, and `mock.patch.object`


def _imported(tree: ast.AST) -> dict[str, str]:
    """The dotted path of each imported name of a file."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found


def _path(target: ast.expr, imported: dict[str, str]) -> str | None:
    """The dotted path of an expression; None where it is a local object."""
    name, *rest = ast.unparse(target).split(".")
    return ".".join([imported[name], *rest]) if name in imported else None


def _patched(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted path of every name that is replaced."""
    tree = ast.parse(source)
    imported = _imported(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _BY_NAME):
            continue
        match node.args:
            case [ast.Constant(value=str(path)), *_] if "." in path:
                yield node.lineno, path
            case [target, ast.Constant(value=str(name)), *_] if (owner := _path(target, imported)) is not None:
                yield node.lineno, f"{owner}.{name}"


def _exists(path: str) -> bool:
    """Whether the rest of the path exists in the longest prefix that is a module."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("file", _FILES, ids=lambda file: str(file.relative_to(_ROOT)))
def test_what_is_replaced_by_name_exists(file: Path) -> None:
    found = list(_patched(file.read_text(encoding="utf-8")))
    assert [f"{file.name}:{line}: {path}" for line, path in found if not _exists(path)] == []


@pytest.mark.parametrize(
    ("line", "path", "exists"),
    [
        ("monkeypatch.setattr(time, 'monotonic', clock)", "time.monotonic", True),
        ("monkeypatch.setattr('time.monotonic', clock)", "time.monotonic", True),
        ("monkeypatch.setattr(Path, 'open', full)", "pathlib.Path.open", True),
        ("mock.patch.object(Path, 'opened', full)", "pathlib.Path.opened", False),
        ("patched.setattr('no_such_module.name', 1)", "no_such_module.name", False),
    ],
)
def test_the_rule_finds_a_name_that_is_gone(line: str, path: str, exists: bool) -> None:
    found = list(_patched(f"import time\nfrom pathlib import Path\n{line}"))
    assert found == [(3, path)] and _exists(path) is exists


def test_a_local_object_is_left_to_the_test() -> None:
    assert list(_patched("monkeypatch.setattr(client, 'send', fail)")) == []
