"""Collects every sentence that a person may see: what pages mark with `_`, `n_` or `mark`, and what core says.

Pages mark their words. Core speaks plain English (an error's `what` and `next_step`, a verdict, a note), often with
values in it; each such f-string becomes a message with named places, which `pages.ui.lang.told` recognises again
when the filled sentence is shown.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MARKS = {"_": 1, "mark": 1, "n_": 2, "msg": 1}  # function → how many of its first arguments are messages
_ERRORS = "errors.py"
_SENTENCE = re.compile(r"[A-Z“{].*\s.*[.!?…]|[A-Z][a-z]* [a-z].*\}", re.DOTALL)  # ends like one, or in a place
_LOGGING = frozenset({"debug", "info", "warning", "error", "exception", "critical", "print", "compile"})
_SILENT = ("locale", "db/migrations")
_ENGINE = "core/engine/"  # its API is English, as OpenAI's is; its jobs' events and failures are shown to people
_EVENTS = frozenset({"say", "event"})
_JOBS = tuple(
    f"{_ENGINE}{name}.py"
    for name in ("jobs", "prepare", "training", "validate", "validator", "workshop", "trainer/__main__")
)
_OUTCOMES = frozenset({"_in_words", "_cause"})
_REFUSALS = frozenset({"JobFailed", "ApiError", "BadLine", "BadTrainingFile", "bad_value"})


@dataclass(frozen=True, slots=True)
class Found:
    """A message in the code: its id (and plural id), and where it stands."""

    message: str
    plural: str | None
    where: str
    line: int


def collect(root: Path) -> list[Found]:
    """All messages below the project's folder, in order of files and lines."""
    errors = _error_names(root / "core" / _ERRORS)
    found: list[Found] = []
    for path in sorted([root / "app.py", *root.glob("pages/**/*.py"), *root.glob("core/**/*.py")]):
        where = path.relative_to(root).as_posix()
        if not path.is_file() or any(where.startswith(f"core/{part}") for part in _SILENT):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=where)
        found += _marked(tree, where)
        if where.startswith(_ENGINE):
            events = list(_events(tree, where))
            known = {(event.message, event.line) for event in events}
            found += events
            if where in _JOBS:
                found += _outcomes(tree, where)
                said = _said(tree, where, _REFUSALS)
                found += (f for f in said if " " in f.message and (f.message, f.line) not in known)
        elif where.startswith("core/"):
            found += _said(tree, where, errors)
    return found


def _error_names(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef))


def _marked(tree: ast.AST, where: str) -> Iterator[Found]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MARKS:
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            wanted = _MARKS[node.func.id]
            if len(texts) >= wanted and texts[0]:
                yield Found(texts[0], texts[1] if wanted == 2 else None, where, node.lineno)


def _events(tree: ast.AST, where: str) -> Iterator[Found]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in _EVENTS:
            for argument in node.args:
                if (text := _template(argument)) and re.search(r"[^\W\d_]", _without_places(text)):
                    yield Found(text, None, where, argument.lineno)


def _outcomes(tree: ast.AST, where: str) -> Iterator[Found]:
    """What `_in_words` and `_cause` return: a pair of what happened and what to do is shown as one sentence."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in _OUTCOMES]
    for node in (node for function in functions for node in ast.walk(function) if isinstance(node, ast.Return)):
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] if node.value else []
        texts = [text for text in map(_template, parts) if text]
        if texts and len(texts) == len(parts) and " " in _without_places(text := " ".join(texts)).strip():
            yield Found(text, None, where, node.lineno)


def _said(tree: ast.AST, where: str, errors: frozenset[str]) -> Iterator[Found]:
    skipped = _docstrings(tree) | _inside_joined(tree) | _logged(tree) | _inside_messages(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Call) and _called(node) in errors:
            for argument in [*node.args[:2], *(k.value for k in node.keywords if k.arg in ("what", "next_step"))]:
                text = _template(argument)
                if text and any(c.isalpha() for c in _without_places(text)):
                    skipped.add(id(argument))
                    yield Found(text, None, where, argument.lineno)
        elif (text := _template(node)) and _SENTENCE.fullmatch(text) and " " in _without_places(text):
            yield Found(text, None, where, getattr(node, "lineno", 0))


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _template(node: ast.AST) -> str | None:
    """The message of a string or f-string, each value a place named after its expression; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    out, names = "", dict[str, str]()
    for part in node.values:
        if isinstance(part, ast.Constant):
            out += str(part.value)
        elif isinstance(part, ast.FormattedValue):
            out += "{" + _place(part, names) + "}"
    return out


def _place(part: ast.FormattedValue, names: dict[str, str]) -> str:
    expression = ast.unparse(part.value)
    if expression not in names:
        words = [word for word in re.findall(r"[a-z]\w*", expression) if not keyword.iskeyword(word)]
        name = words[-1] if words else "value"
        names[expression] = name if name not in names.values() else f"{name}_{len(names)}"
    return names[expression]


def _without_places(text: str) -> str:
    return re.sub(r"\{\w*\}", "", text)


def _docstrings(tree: ast.AST) -> set[int]:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, owners):  # also the strings that document attributes
            found |= {id(child.value) for child in ast.walk(node) if isinstance(child, ast.Expr)}
    return found


def _logged(tree: ast.AST) -> set[int]:
    """What goes to a log: read by whoever runs the studio, in English."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) in _LOGGING)
    return {id(child) for call in calls for child in ast.walk(call)}


def _inside_messages(tree: ast.AST) -> set[int]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) == "msg")
    return {id(child) for call in calls for child in call.args}


def _inside_joined(tree: ast.AST) -> set[int]:
    joined = (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr))
    return {id(child) for node in joined for child in ast.walk(node) if child is not node}
