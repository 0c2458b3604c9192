"""Excel workbooks (also OpenDocument sheets), opened by a process of their own: see `workbook_child`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

from core.dataset.importers import sandboxed_reader, table
from core.dataset.importers.import_problems import ImportProblems
from core.dataset.importers.table import TableRows
from core.errors import BadFile
from core.message import msg

MOST_BYTES = 100_000_000  # of a workbook, which is packed: ten times that as text
MOST_MEMORY = 1_500_000_000  # bytes for the child: a sheet of 10 million cells takes half of it
_MOST_TITLES = 10  # rows above the header
_AS_CSV = msg("Save the sheet as CSV (UTF-8), then choose that file.")


@dataclass(frozen=True, slots=True)
class WorkbookSheet:
    """Which sheet of a workbook was read, and which ones there are."""

    name: str | None
    names: tuple[str, ...]


NO_SHEET = WorkbookSheet(None, ())


def read(
    file: BinaryIO, filename: str, problems: ImportProblems, wanted: str | None = None
) -> tuple[TableRows, WorkbookSheet]:
    """The good rows of one sheet, all cells text: `wanted`, or the first one that has some. The first row names the
    columns.

    Raises:
        BadFile: it is broken, locked, too large when opened, or has no row that can be used.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MOST_BYTES:
        raise BadFile(
            msg(
                "{filename} is a workbook of {size} MB; {value} can be read.",
                filename=filename,
                size=f"{size // 1_000_000:,}",
                value=MOST_BYTES // 1_000_000,
            ),
            _AS_CSV,
        )
    arguments = [str(MOST_MEMORY), *([wanted] if wanted else [])]
    with sandboxed_reader.run_reader("core.dataset.importers.workbook_child", arguments, file) as child:
        answers = sandboxed_reader.read_messages(child, lambda why: _refused(why, filename))
        about = next(answers)
        found = _table(_rows(answers), filename, problems)
    return found, WorkbookSheet(str(about["sheet"]), tuple(about["sheets"]))


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that is not empty: its number as Excel counts, its texts, and the places of errors and lost formulas."""

    number: int
    cells: list[str]
    errors: Sequence[int] = ()
    formulas: Sequence[int] = ()

    @property
    def filled(self) -> int:
        """How many cells have something in them."""
        return sum(bool(cell.strip()) for cell in self.cells) + len(self.formulas)


def _rows(answers: Iterator[Any]) -> Iterator[_Row]:
    for number, told in enumerate(answers, 1):
        row = _Row(number, **told) if isinstance(told, dict) else _Row(number, told)
        if row.filled:
            yield row


def _table(rows: Iterator[_Row], filename: str, problems: ImportProblems) -> TableRows:
    header, rows = _header(rows, filename, problems)
    names = table.names(header, problems)
    good = table.TableBuilder(names)
    for row in rows:
        cells = row.cells[: len(names)]
        if any(cell.strip() for cell in row.cells[len(names) :]):
            problems.add(
                msg("Row {number} has a cell beyond the last column that has a name.", number=f"{row.number:,}")
            )
        elif cells == header and len(names) > 1:
            problems.note(msg("Row {number} repeats the header; it is left out.", number=f"{row.number:,}"))
        elif _usable(row, names, problems) and table.usable(row.number, names, cells, problems):
            good.add(cells, row.number)
        if good.full:
            table.ends_early(len(good), problems)
            break
    if not len(good):
        raise BadFile(
            msg("{filename} has no row that can be used. {first}", filename=filename, first=problems.first()),
            msg("The first row must name the columns, and rows must follow."),
        )
    return table.without_index(good.rows("Row"), header[0], problems)


def _header(rows: Iterator[_Row], filename: str, problems: ImportProblems) -> tuple[list[str], Iterator[_Row]]:
    """The names of the columns, and the rows below. Rows of one cell above a wider row are titles."""
    above = list(islice(rows, 1))
    while above and above[-1].filled == 1 and len(above) <= _MOST_TITLES and (row := next(rows, None)) is not None:
        above.append(row)
    place = next((n for n, row in enumerate(above) if row.filled > 1), 0)
    for row in above[:place]:
        problems.note(msg("Row {number} is a title above the columns; it is left out.", number=f"{row.number:,}"))
    header = above[place].cells if above else []
    while header and not header[-1].strip():
        header.pop()
    table.checked_width(len(header), filename)
    return header, chain(above[place + 1 :], rows)


def _usable(row: _Row, names: Sequence[str], problems: ImportProblems) -> bool:
    """Whether the values of all formulas were saved; errors are kept as their word, and named."""
    if lost := [names[place] for place in row.formulas if place < len(names)]:
        problems.add(
            msg(
                "Row {number}, column {lost}: the formula has no saved value. Open the workbook in Excel and "
                "save it there.",
                number=f"{row.number:,}",
                lost=lost[0],
            )
        )
        return False
    for place in row.errors:
        if place < len(names):
            told = row.cells[place]
            problems.note(
                msg(
                    "Row {number}, column {place} says {told}, an error; it is kept as that word.",
                    number=f"{row.number:,}",
                    place=names[place],
                    told=told,
                )
            )
    return True


def _refused(why: str, filename: str) -> BadFile:
    if why == "password":
        return BadFile(
            msg("{filename} is an Excel workbook with a password.", filename=filename),
            msg("Remove the password, then choose the file again."),
        )
    if why == "empty":
        return BadFile(
            msg("{filename} is an Excel workbook without any row.", filename=filename),
            msg("Choose a workbook with rows."),
        )
    if why == "memory":
        limit = MOST_MEMORY // 1_000_000
        return BadFile(
            msg(
                "{filename} is an Excel workbook that takes more than {limit} MB or too long to open.",
                filename=filename,
                limit=f"{limit:,}",
            ),
            _AS_CSV,
        )
    return BadFile(
        msg("{filename} is an Excel workbook that is broken, or a zip file of another kind.", filename=filename),
        _AS_CSV,
    )
