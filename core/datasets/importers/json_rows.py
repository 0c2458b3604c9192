"""JSON values that represent rows in other ways: tables by column or by index, lists of turns or cells, wrapped rows.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.datasets.importers import column_roles

_MIN_COLUMNS = 2  # minimum for a table stored by column
_WRAPPER_KEYS = (
    "row",
    "item",
    "fields",
    "data",
    "_source",
)  # Hugging Face, OpenAI Evals, Argilla, Label Studio, Elastic
_TURN_KEYS = frozenset(
    ("role", "content", "from", "value", "speaker", "sender", "text", "name", "weight", "refusal", "reasoning_content")
) | {"tool_calls", "tool_call_id", "function_call", "language"}


def rows_from_table(table: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a table that is the only object of a file, as pandas writes it. None: the object is itself a row.

    Supports `DataFrame.to_json` with `orient="split"` (`columns` and `data`), `"list"` (a list per column), `"columns"`
    (an object per column, by index) and `"index"` (a row per index entry). At least two columns: a single one may be
    any list.
    """
    columns = _columns(table)
    if columns is not None:
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    values = list(table.values())
    if not _same_keys(values) or any(map(_is_example_column, table)) or not any(map(_is_example_column, values[0])):
        return None
    return [dict(value) for value in values]


def _columns(table: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    names, data = table.get("columns"), table.get("data")
    if isinstance(names, list) and isinstance(data, list) and table.keys() <= {"columns", "index", "data"}:
        is_complete = all(isinstance(row, list) and len(row) == len(names) for row in data)
        return {str(name): [row[i] for row in data] for i, name in enumerate(names)} if is_complete else None
    values = list(table.values())
    if len(values) < _MIN_COLUMNS:
        return None
    if _same_keys(values):
        has_row_numbers = list(values[0]) == [str(row) for row in range(len(values[0]))]
        by_index = any(map(_is_example_column, table)) and not any(map(_is_example_column, values[0]))
        if has_row_numbers or by_index:
            return {name: list(value.values()) for name, value in table.items()}
        return None
    equal_lists = all(isinstance(value, list) and len(value) == len(values[0]) for value in values)
    # Lists of objects are values of a row, for example messages and tools.
    if not equal_lists or any(isinstance(cell, dict) for value in values for cell in value):
        return None
    return dict(table)


def _same_keys(values: Sequence[Any]) -> bool:
    """True if all values are objects with the same keys."""
    return bool(values) and all(
        isinstance(value, dict) and value and value.keys() == values[0].keys() for value in values
    )


def _is_example_column(key: str) -> bool:
    """True if a key is the name of a prompt, completion or conversation column, not an index entry."""
    return column_roles.guess_role(key) in ("prompt", "completion") or key.strip().lower() in (
        "messages",
        "conversations",
    )


def is_conversation(values: Sequence[Any]) -> bool:
    """True if a list instead of a row contains only turns."""
    return bool(values) and all(isinstance(turn, dict) and turn and turn.keys() <= _TURN_KEYS for turn in values)


def row_from_list(values: Sequence[Any]) -> dict[str, Any]:
    """A list instead of a row: a conversation, or cells without names."""
    if is_conversation(values):
        return {"messages": list(values)}
    return {f"column {number}": value for number, value in enumerate(values, 1)}


def header_row(first: Mapping[str, Any]) -> list[str] | None:
    """The column names, if the first row of a table without names is a header. None: it is an ordinary row."""
    names = list(first.values())
    is_unnamed = list(first) == [f"column {number}" for number in range(1, len(first) + 1)]
    all_texts = all(isinstance(name, str) and name.strip() for name in names)
    if not is_unnamed or not all_texts or len(set(names)) < max(len(names), _MIN_COLUMNS):
        return None
    return names if any(map(_is_example_column, names)) else None


def wrapper_key(objects: Sequence[Mapping[str, Any]]) -> str | None:
    """The key under which all objects wrap the row, such as Hugging Face's `row`. None: there is none."""
    for key in _WRAPPER_KEYS:
        if objects and all(isinstance(item.get(key), dict) and item[key] for item in objects):
            return key
    return None


def unwrap(wrapper: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object whose row is nested under `key`: the row's columns next to the object's own."""
    nested = wrapper.get(key)
    if not isinstance(nested, dict):
        return dict(wrapper)
    outside = {name: value for name, value in wrapper.items() if name != key}
    return {**{f"{key}.{name}" if name in outside else name: value for name, value in nested.items()}, **outside}
