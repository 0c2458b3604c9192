"""Reads JSON as a table: the keys of the first objects are the columns, each object is a row, all cells are text.

Also supports tables stored by column or by index, rows wrapped in another object, and rows that are lists of cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TextIO

from core.datasets.importers import column_mapping, json_document, json_objects, table
from core.datasets.importers.cells import cell_text
from core.datasets.importers.decoding import LineReader
from core.datasets.importers.file_type import HEAD
from core.datasets.importers.json_objects import JsonObject
from core.datasets.importers.table import ImportProblems, position
from core.errors import BadFile
from core.message import msg

_FIRST_OBJECTS = 1_000
_FIRST_CHARACTERS = 20_000_000  # characters; fewer objects are sampled if they exceed this size
_EXPECTED_FORMAT = msg(
    'Write one object per line, such as {{"prompt": "…", "completion": "…"}} or {{"messages": […]}}, or an array of '
    'objects (in pandas: orient="records").'
)
_MIN_COLUMNS = 2  # minimum for a table stored by column
_WRAPPER_KEYS = (
    "row",
    "item",
    "fields",
    "data",
    "_source",
)  # Hugging Face, OpenAI Evals, Argilla, Label Studio, Elastic


def read(text: TextIO, filename: str, problems: ImportProblems, *, sample: int = _FIRST_OBJECTS) -> table.TableRows:
    """The usable objects, all cells as text; nested lists and objects become JSON. The columns are the keys of the
    first `sample` objects.

    Raises:
        BadFile: no object can be used, or there are too many keys.
    """
    layout = json_objects.layout(text.read(HEAD))
    text.seek(0)
    if layout == "lines":
        objects = json_objects.read_lines(LineReader(text), problems)
    else:
        objects = json_document.read_document(text, problems)
    unit: table.RowUnit = "Line" if layout == "lines" else "Entry"
    first, characters = list[JsonObject](), 0
    for item in objects:
        first.append(item)
        characters += item.size
        if len(first) >= sample or characters >= _FIRST_CHARACTERS:
            break
    if len(first) == 1 and (rows := _rows_from_table(first[0].value)) is not None:
        unit, first = "Row", [JsonObject(number, row, 0) for number, row in enumerate(rows, 1)]
    header = _header_row(first[0].value) if first else None
    if (key := _wrapper_key([item.value for item in first])) is not None:
        first = [item._replace(value=_unwrap(item.value, key)) for item in first]
        objects = (item._replace(value=_unwrap(item.value, key)) for item in objects)
    keys = list(dict.fromkeys(chain.from_iterable(item.value for item in first)))
    if not keys:
        raise no_rows_error(filename, problems)
    table.check_width(len(keys), filename)
    stream = _ObjectStream(chain(first if header is None else first[1:], objects), unit, keys, len(first))
    rows_table = _table(stream, filename, problems)
    if header is None:
        return rows_table
    names = table.names(header + keys[len(header) :], problems)
    return rows_table.with_frame(rows_table.frame.set_axis(names, axis="columns"))


def no_rows_error(filename: str, problems: ImportProblems) -> BadFile:
    """The error for a file without usable objects."""
    if not problems.first():
        return BadFile(msg("{filename} has no rows: it contains no object.", filename=filename), _EXPECTED_FORMAT)
    return BadFile(
        msg("{filename} has no line that can be used. {first}", filename=filename, first=problems.first()),
        _EXPECTED_FORMAT,
    )


class _ObjectStream(NamedTuple):
    """The objects of a file, the unit of their positions, and the keys of the first `sampled` objects."""

    objects: Iterable[JsonObject]
    unit: table.RowUnit
    keys: list[str]
    sampled: int


def _table(rows: _ObjectStream, filename: str, problems: ImportProblems) -> table.TableRows:
    keys, known = rows.keys, set(rows.keys)
    builder = table.TableBuilder(table.names(keys, problems))
    for line, value, _size, entry in rows.objects:
        if unknown_keys := value.keys() - known:
            key = min(unknown_keys)
            known |= unknown_keys
            problems.note(
                msg(
                    "{where} has the key {key}, which the first {count} objects do not have; it is left out.",
                    where=position(rows.unit, line, entry),
                    key=repr(key[:100]),
                    count=f"{rows.sampled:,}",
                )
            )
        cells = [cell_text(value.get(key)) for key in keys]
        problems_by_key = ((name, table.cell_problem(cell)) for name, cell in zip(keys, cells, strict=True))
        if invalid := next(((name, problem) for name, problem in problems_by_key if problem), None):
            where = position(rows.unit, line, entry)
            problems.add(msg("{where}, {key}: {problem}", where=where, key=repr(invalid[0][:100]), problem=invalid[1]))
        elif any(cell and not cell.isspace() for cell in cells):
            builder.add(cells, line, entry)
        if builder.full:
            table.report_full(len(builder), problems)
            break
    if not len(builder):
        raise no_rows_error(filename, problems)
    result = builder.rows(rows.unit)
    return result.with_frame(result.frame.rename(columns={"": "column 1"}))


def _rows_from_table(table: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a table that is the only object of a file, as pandas writes it; None if the object is itself a row.

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
    return column_mapping.guess_role(key) in ("prompt", "completion") or key.strip().lower() in (
        "messages",
        "conversations",
    )


def _header_row(first: Mapping[str, Any]) -> list[str] | None:
    """The column names, if the first row of a table without names is a header; None if it is an ordinary row."""
    names = list(first.values())
    is_unnamed = list(first) == [f"column {number}" for number in range(1, len(first) + 1)]
    all_texts = all(isinstance(name, str) and name.strip() for name in names)
    if not is_unnamed or not all_texts or len(set(names)) < max(len(names), _MIN_COLUMNS):
        return None
    return names if any(map(_is_example_column, names)) else None


def _wrapper_key(objects: Sequence[Mapping[str, Any]]) -> str | None:
    """The key under which all objects wrap the row, such as Hugging Face's `row`; None if there is none."""
    for key in _WRAPPER_KEYS:
        if objects and all(isinstance(item.get(key), dict) and item[key] for item in objects):
            return key
    return None


def _unwrap(wrapper: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object whose row is nested under `key`: the row's columns next to the object's own."""
    nested = wrapper.get(key)
    if not isinstance(nested, dict):
        return dict(wrapper)
    outside = {name: value for name, value in wrapper.items() if name != key}
    return {**{f"{key}.{name}" if name in outside else name: value for name, value in nested.items()}, **outside}
