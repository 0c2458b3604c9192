"""JSON as a table: the keys of the first objects are the columns, each object is a row, all cells text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple, TextIO

from core.dataset.importers import json_document, json_objects, json_rows, positions, table
from core.dataset.importers.cell_format import text_of
from core.dataset.importers.import_problems import ImportProblems
from core.dataset.importers.json_objects import JsonObject
from core.dataset.importers.positions import position
from core.dataset.importers.sniffing import HEAD
from core.dataset.importers.text_lines import LineReader
from core.errors import BadFile
from core.message import msg

_FIRST_OBJECTS = 1_000  # their keys are the columns
_FIRST_CHARACTERS = 20_000_000  # or the keys of fewer objects, where those take more than this
_SHAPES = msg(
    'Write one object a line, such as {{"prompt": "…", "completion": "…"}} or {{"messages": […]}}, or an array of '
    'objects (in pandas: orient="records").'
)


def read(text: TextIO, filename: str, problems: ImportProblems) -> table.TableRows:
    """The good objects, all cells text; lists and objects in them are JSON again. Columns are the keys that occur in
    the first thousand objects.

    Raises:
        BadFile: no object can be used, or there are too many keys.
    """
    layout = json_objects.layout(text.read(HEAD))
    text.seek(0)
    if layout == "lines":
        objects = json_objects.in_lines(LineReader(text), problems)
    else:
        objects = json_document.in_document(text, problems)
    place: positions.Place = "Line" if layout == "lines" else "Entry"
    first, characters = list[JsonObject](), 0
    for found in objects:
        first.append(found)
        characters += found.size
        if len(first) >= _FIRST_OBJECTS or characters >= _FIRST_CHARACTERS:
            break
    if len(first) == 1 and (rows := json_rows.rows_of(first[0].value)) is not None:
        place, first = "Row", [JsonObject(number, row, 0) for number, row in enumerate(rows, 1)]
    header = json_rows.header_of(first[0].value) if first else None
    if (key := json_rows.envelope([found.value for found in first])) is not None:
        first = [found._replace(value=json_rows.unwrapped(found.value, key)) for found in first]
        objects = (found._replace(value=json_rows.unwrapped(found.value, key)) for found in objects)
    keys = list(dict.fromkeys(chain.from_iterable(found.value for found in first)))
    if not keys:
        raise nothing(filename, problems)
    table.checked_width(len(keys), filename)
    found_rows = _Found(chain(first if header is None else first[1:], objects), place, keys, len(first))
    table_of_rows = _table(found_rows, filename, problems)
    if header is None:
        return table_of_rows
    names = table.names(header + keys[len(header) :], problems)
    return table_of_rows.with_frame(table_of_rows.frame.set_axis(names, axis="columns"))


def nothing(filename: str, problems: ImportProblems) -> BadFile:
    """The error of a file without any good object."""
    if not problems.first():
        return BadFile(msg("{filename} has no rows: there is no object in it.", filename=filename), _SHAPES)
    return BadFile(
        msg("{filename} has no line that can be used. {first}", filename=filename, first=problems.first()), _SHAPES
    )


class _Found(NamedTuple):
    """The objects of a file, how they are counted, and the keys of the `looked_at` first ones."""

    objects: Iterable[JsonObject]
    place: positions.Place
    keys: list[str]
    looked_at: int


def _table(rows: _Found, filename: str, problems: ImportProblems) -> table.TableRows:
    keys, known = rows.keys, set(rows.keys)
    good = table.TableBuilder(table.names(keys, problems))
    for line, found, _size, entry in rows.objects:
        if strange := found.keys() - known:
            key = min(strange)
            known |= strange
            problems.note(
                msg(
                    "{where} has {key}, which the first {looked_at} do not have; it is left out.",
                    where=position(rows.place, line, entry),
                    key=repr(key[:100]),
                    looked_at=f"{rows.looked_at:,}",
                )
            )
        cells = [text_of(found.get(key)) for key in keys]
        flaws = ((name, table.cell_problem(cell)) for name, cell in zip(keys, cells, strict=True))
        if bad := next(((name, flaw) for name, flaw in flaws if flaw), None):
            where = position(rows.place, line, entry)
            problems.add(msg("{where}, {key}: {flaw}", where=where, key=repr(bad[0][:100]), flaw=bad[1]))
        elif any(cell and not cell.isspace() for cell in cells):
            good.add(cells, line, entry)
        if good.full:
            table.ends_early(len(good), problems)
            break
    if not len(good):
        raise nothing(filename, problems)
    made = good.rows(rows.place)
    return made.with_frame(made.frame.rename(columns={"": "column 1"}))
