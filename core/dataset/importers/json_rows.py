"""JSON values that are rows without looking like it: tables held by columns or by an index, lists of turns or cells,
objects around a row. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.dataset.importers import column_roles

_FEWEST_COLUMNS = 2  # of a table that is held by columns
_ENVELOPES = ("row", "item", "fields", "data", "_source")  # Hugging Face, OpenAI Evals, Argilla, Label Studio, Elastic
_TURN_KEYS = frozenset(
    ("role", "content", "from", "value", "speaker", "sender", "text", "name", "weight", "refusal", "reasoning_content")
) | {"tool_calls", "tool_call_id", "function_call", "language"}


def rows_of(only: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a table that is the only object of a file, as pandas writes it; None: the object is a row itself.

    `DataFrame.to_json` with `orient="split"` (`columns` and `data`), `"list"` (a list for each column), `"columns"` (an
    object for each column, by the index) and `"index"` (a row for each entry of the index). Two columns at least: one
    alone may be any list.
    """
    columns = _columns(only)
    if columns is not None:
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    values = list(only.values())
    if not _alike(values) or any(map(_is_named, only)) or not any(map(_is_named, values[0])):
        return None
    return [dict(value) for value in values]


def _columns(only: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    names, data = only.get("columns"), only.get("data")
    if isinstance(names, list) and isinstance(data, list) and only.keys() <= {"columns", "index", "data"}:
        whole = all(isinstance(row, list) and len(row) == len(names) for row in data)
        return {str(name): [row[at] for row in data] for at, name in enumerate(names)} if whole else None
    values = list(only.values())
    if len(values) < _FEWEST_COLUMNS:
        return None
    if _alike(values):
        counted = list(values[0]) == [str(row) for row in range(len(values[0]))]
        by_index = any(map(_is_named, only)) and not any(map(_is_named, values[0]))
        if counted or by_index:
            return {name: list(value.values()) for name, value in only.items()}
        return None
    lists = all(isinstance(value, list) and len(value) == len(values[0]) for value in values)
    if not lists or any(isinstance(cell, dict) for value in values for cell in value):  # messages and tools, say
        return None
    return dict(only)


def _alike(values: Sequence[Any]) -> bool:
    """Whether all values are objects with the same keys."""
    return bool(values) and all(
        isinstance(value, dict) and value and value.keys() == values[0].keys() for value in values
    )


def _is_named(key: str) -> bool:
    """Whether a key is the name of a column that has a part in examples, and no entry of an index."""
    return column_roles.part_of(key) in ("prompt", "completion") or key.strip().lower() in ("messages", "conversations")


def is_conversation(values: Sequence[Any]) -> bool:
    """Whether a list that stands where a row is expected holds turns and nothing else."""
    return bool(values) and all(isinstance(one, dict) and one and one.keys() <= _TURN_KEYS for one in values)


def of_list(values: Sequence[Any]) -> dict[str, Any]:
    """A list that stands where a row is expected, as a row: a conversation, or cells without names."""
    if is_conversation(values):
        return {"messages": list(values)}
    return {f"column {number}": value for number, value in enumerate(values, 1)}


def header_of(first: Mapping[str, Any]) -> list[str] | None:
    """The names of the columns, where a row of a table without names is its header; None: it is an ordinary row."""
    names = list(first.values())
    without_names = list(first) == [f"column {number}" for number in range(1, len(first) + 1)]
    texts = all(isinstance(name, str) and name.strip() for name in names)
    if not without_names or not texts or len(set(names)) < max(len(names), _FEWEST_COLUMNS):
        return None
    return names if any(map(_is_named, names)) else None


def envelope(objects: Sequence[Mapping[str, Any]]) -> str | None:
    """The key under which all objects hold the row itself, such as Hugging Face's `row`; None: there is none."""
    for key in _ENVELOPES:
        if objects and all(isinstance(one.get(key), dict) and one[key] for one in objects):
            return key
    return None


def unwrapped(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object whose row lies under `key`, with the row's columns beside its own."""
    inside = found.get(key)
    if not isinstance(inside, dict):
        return dict(found)
    outside = {name: value for name, value in found.items() if name != key}
    return {**{f"{key}.{name}" if name in outside else name: value for name, value in inside.items()}, **outside}
