"""JSON as a table: the keys of the first objects are the columns, each object is a row, all cells are text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple, TextIO

from core.datasets.importers import import_problems, json_document, json_objects, json_rows, table
from core.datasets.importers.cell_format import cell_text
from core.datasets.importers.decoding import LineReader
from core.datasets.importers.import_problems import ImportProblems, position
from core.datasets.importers.json_objects import JsonObject
from core.datasets.importers.sniffing import HEAD
from core.errors import BadFile
from core.message import msg

_FIRST_OBJECTS = 1_000  # sample whose keys become the columns
_FIRST_CHARACTERS = 20_000_000  # or fewer objects, if they exceed this size
_EXPECTED_FORMAT = msg(
    'Write one object per line, such as {{"prompt": "…", "completion": "…"}} or {{"messages": […]}}, or an array of '
    'objects (in pandas: orient="records").'
)


def read(text: TextIO, filename: str, problems: ImportProblems) -> table.TableRows:
    """The usable objects, all cells as text; nested lists and objects become JSON. The columns are the keys of the
    first thousand objects.

    Raises:
        BadFile: no object can be used, or there are too many keys.
    """
    layout = json_objects.layout(text.read(HEAD))
    text.seek(0)
    if layout == "lines":
        objects = json_objects.read_lines(LineReader(text), problems)
    else:
        objects = json_document.read_document(text, problems)
    unit: import_problems.RowUnit = "Line" if layout == "lines" else "Entry"
    first, characters = list[JsonObject](), 0
    for item in objects:
        first.append(item)
        characters += item.size
        if len(first) >= _FIRST_OBJECTS or characters >= _FIRST_CHARACTERS:
            break
    if len(first) == 1 and (rows := json_rows.rows_from_table(first[0].value)) is not None:
        unit, first = "Row", [JsonObject(number, row, 0) for number, row in enumerate(rows, 1)]
    header = json_rows.header_row(first[0].value) if first else None
    if (key := json_rows.wrapper_key([item.value for item in first])) is not None:
        first = [item._replace(value=json_rows.unwrap(item.value, key)) for item in first]
        objects = (item._replace(value=json_rows.unwrap(item.value, key)) for item in objects)
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
    unit: import_problems.RowUnit
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
