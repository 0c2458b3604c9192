"""Tests lie where a reader looks for them, share through `tests/support`, and share what is really shared."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_ROOT = _TESTS.parent
_FILES = sorted(_TESTS.rglob("*.py"))
_FOLDERS = sorted(path for path in _TESTS.iterdir() if path.is_dir() and path.name != "__pycache__")
_NOT_A_PACKAGE = {
    "browser": "the app in a real browser",
    "house": "rules about code, documents and tests",
    "support": "doubles, servers and helpers; no tests",
}


def _name(path: Path) -> str:
    return path.relative_to(_TESTS).as_posix()


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def _imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, each with the imported name at its end."""
    for node in _nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_has_the_name_of_the_package_that_it_tests(folder: Path) -> None:
    packages = (_ROOT / "core" / folder.name, _ROOT / folder.name)
    assert folder.name in _NOT_A_PACKAGE or any(package.is_dir() for package in packages)


def test_tests_are_in_the_folders_of_their_packages_and_support_has_none() -> None:
    apart = [_name(path) for path in _FILES if path.parent in (_TESTS, _TESTS / "support")]
    assert [name for name in apart if name.rpartition("/")[2].startswith("test_")] == []
    assert [name for name in apart if "/" not in name] == ["conftest.py"]


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_no_file_imports_a_test_or_a_conftest(path: Path) -> None:
    parts = [(name, name.split(".")) for name in _imported(path) if name.startswith("tests.")]
    assert [name for name, found in parts if any(one.startswith(("test_", "conftest")) for one in found)] == []


def test_every_support_module_is_used() -> None:
    used = {name for path in _FILES for name in _imported(path)}
    text = "\n".join(path.read_text(encoding="utf-8") for path in _FILES)  # started with `python -m`
    names = [f"tests.support.{path.stem}" for path in _TESTS.glob("support/*.py")]
    assert [name for name in names if not any(one.startswith(name) for one in used) and f'"{name}"' not in text] == []


def _fixtures(path: Path) -> list[str]:
    functions = [node for node in _nodes(path) if isinstance(node, ast.FunctionDef)]
    marks = {one.name: [ast.unparse(mark) for mark in one.decorator_list] for one in functions}
    return [name for name, found in marks.items() if any("fixture" in one and "autouse" not in one for one in found)]


@cache
def _requested(path: Path) -> set[str]:
    """Names of the parameters of a file's functions, and of `usefixtures`."""
    functions = [node for node in _nodes(path) if isinstance(node, ast.FunctionDef)]
    calls = [node for node in _nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    marks = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "usefixtures"]
    named = {str(one.value) for mark in marks for one in mark.args if isinstance(one, ast.Constant)}
    return named | {argument.arg for function in functions for argument in function.args.args}


def test_a_fixture_in_a_conftest_is_used_by_several_files_and_one_in_the_root_by_several_folders() -> None:
    places: defaultdict[str, set[str]] = defaultdict(set)
    for conftest in (path for path in _FILES if path.name == "conftest.py"):
        root = conftest.parent == _TESTS
        for fixture in _fixtures(conftest):
            for path in _FILES:
                if path.is_relative_to(conftest.parent) and path != conftest and fixture in _requested(path):
                    places[f"{_name(conftest)}: {fixture}"].add(_name(path.parent) if root else _name(path))
            places[f"{_name(conftest)}: {fixture}"] |= set()
    within = {name for path in _FILES if path.name == "conftest.py" for name in _requested(path)}
    assert [where for where, found in places.items() if len(found) < 2 and where.rpartition(" ")[2] not in within] == []
