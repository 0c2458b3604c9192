"""JSON as a table: the keys of the first objects are the columns, each object is a row, all cells text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TextIO

from core.dataset.intake import jsonobjects, table
from core.dataset.intake.celltext import text_of
from core.dataset.intake.jsonobjects import Object
from core.dataset.intake.problems import Problems
from core.dataset.intake.recognising import HEAD
from core.dataset.intake.textlines import Lines
from core.errors import BadFile

_FIRST_OBJECTS = 1_000  # their keys are the columns
_FIRST_CHARACTERS = 20_000_000  # or the keys of fewer objects, where those take more than this
_FEWEST_COLUMNS = 2  # of a table that is held by columns
_SHAPES = (
    'Write one object a line, such as {"prompt": "…", "completion": "…"} or {"messages": […]}, or an array of objects.'
)


def read(text: TextIO, filename: str, problems: Problems) -> table.Rows:
    """The good objects, all cells text; lists and objects in them are JSON again. Columns are the keys that occur in
    the first thousand objects.

    Raises:
        BadFile: no object can be used, or there are too many keys.
    """
    layout = jsonobjects.layout(text.read(HEAD))
    text.seek(0)
    if layout == "lines":
        objects = jsonobjects.in_lines(Lines(text), problems)
    else:
        objects = jsonobjects.in_document(text, problems)
    first, characters = [], 0
    for found in objects:
        first.append(found)
        characters += found.size
        if len(first) >= _FIRST_OBJECTS or characters >= _FIRST_CHARACTERS:
            break
    if len(first) == 1 and (columns := _columns(first[0].value)) is not None:
        first = list(_rows_of(columns, first[0].line))
    keys = list(dict.fromkeys(chain.from_iterable(found.value for found in first)))
    if not keys:
        raise nothing(filename, problems)
    table.checked_width(len(keys), filename)
    return _table(chain(first, objects), keys, len(first), filename, problems)


def _columns(only: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """The columns of a table that the only object of a file holds by columns, as pandas writes it; None: a plain row.

    `DataFrame.to_json` with `orient="split"` (`columns` and `data`), `"list"` (a list for each column) and `"columns"`
    (an object for each column, by the index). Two columns at least: one alone may be any list.
    """
    names, data = only.get("columns"), only.get("data")
    if isinstance(names, list) and isinstance(data, list) and only.keys() <= {"columns", "index", "data"}:
        whole = all(isinstance(row, list) and len(row) == len(names) for row in data)
        return {str(name): [row[at] for row in data] for at, name in enumerate(names)} if whole else None
    values = list(only.values())
    if len(values) < _FEWEST_COLUMNS:
        return None
    if all(isinstance(value, dict) and list(value) == [str(row) for row in range(len(values[0]))] for value in values):
        return {name: list(value.values()) for name, value in only.items()}
    lists = all(isinstance(value, list) and len(value) == len(values[0]) for value in values)
    if not lists or any(isinstance(cell, dict) for value in values for cell in value):  # messages and tools, say
        return None
    return dict(only)


def _rows_of(columns: Mapping[str, list[Any]], line: int) -> Iterator[Object]:
    for cells in zip(*columns.values(), strict=True):
        yield Object(line, dict(zip(columns, cells, strict=True)), 0)


def nothing(filename: str, problems: Problems) -> BadFile:
    """The error of a file without any good object."""
    return BadFile(f"{filename} has no line that can be used. {problems.first()}", _SHAPES)


def _table(objects: Iterable[Object], keys: list[str], looked_at: int, filename: str, problems: Problems) -> table.Rows:
    good, known = table.Table(table.names(keys, problems)), set(keys)
    for line, found, _size in objects:
        if strange := found.keys() - known:
            key = min(strange)
            known |= strange
            problems.note(
                f"Line {line:,} has {key[:100]!r}, which the first {looked_at:,} do not have; it is left out."
            )
        cells = [text_of(found.get(key)) for key in keys]
        flaws = ((name, table.flaw(cell)) for name, cell in zip(keys, cells, strict=True))
        if bad := next(((name, flaw) for name, flaw in flaws if flaw), None):
            problems.add(f"Line {line:,}, {bad[0][:100]!r}: {bad[1]}")
        elif any(cell and not cell.isspace() for cell in cells):
            good.add(cells, line)
        if good.full:
            table.ends_early(len(good), line, problems)
            break
    if not len(good):
        raise nothing(filename, problems)
    rows = good.rows("Line")
    return rows.with_frame(rows.frame.rename(columns={"": "column 1"}))
