"""Excel workbooks and OpenDocument sheets, read by a child process: see `workbook_child`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

from core.datasets.importers import sandboxed_reader, table
from core.datasets.importers.table import ImportProblems, TableRows
from core.errors import BadFile
from core.message import msg

MAX_BYTES = 100_000_000  # limit for the compressed workbook, which contains about ten times as much text
MAX_MEMORY = 1_500_000_000  # bytes for the child; a sheet of 10 million cells takes half of it
_MAX_TITLES = 10  # rows above the header
_AS_CSV = msg("Save the sheet as CSV (UTF-8), then choose that file.")


@dataclass(frozen=True, slots=True)
class WorkbookSheet:
    """The sheet that was read, and all sheets of the workbook."""

    name: str | None
    names: tuple[str, ...]


NO_SHEET = WorkbookSheet(None, ())


def read(
    file: BinaryIO, filename: str, problems: ImportProblems, wanted: str | None = None
) -> tuple[TableRows, WorkbookSheet]:
    """The usable rows of one sheet, all cells as text: sheet `wanted`, or the first non-empty one. The first row is the
    header.

    Raises:
        BadFile: it is broken, password-protected, too large when opened, or has no usable row.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        raise BadFile(
            msg(
                "{filename} is a workbook of {size} MB; the limit is {value} MB.",
                filename=filename,
                size=f"{size // 1_000_000:,}",
                value=MAX_BYTES // 1_000_000,
            ),
            _AS_CSV,
        )
    arguments = [str(MAX_MEMORY), *([wanted] if wanted else [])]
    with sandboxed_reader.run_reader("core.datasets.importers.workbook_child", arguments, file) as child:
        answers = sandboxed_reader.read_messages(child, lambda why: _read_error(why, filename))
        about = next(answers)
        rows = _table(_rows(answers), filename, problems)
    return rows, WorkbookSheet(str(about["sheet"]), tuple(about["sheets"]))


@dataclass(frozen=True, slots=True)
class _Row:
    """A non-empty row: its number as in Excel, its texts, and the indices of errors and unsaved formulas."""

    number: int
    cells: list[str]
    errors: Sequence[int] = ()
    formulas: Sequence[int] = ()

    @property
    def filled(self) -> int:
        """Number of non-empty cells."""
        return sum(bool(cell.strip()) for cell in self.cells) + len(self.formulas)


def _rows(answers: Iterator[Any]) -> Iterator[_Row]:
    for number, message in enumerate(answers, 1):
        row = _Row(number, **message) if isinstance(message, dict) else _Row(number, message)
        if row.filled:
            yield row


def _table(rows: Iterator[_Row], filename: str, problems: ImportProblems) -> TableRows:
    header, rows = _header(rows, filename, problems)
    names = table.names(header, problems)
    builder = table.TableBuilder(names)
    for row in rows:
        cells = row.cells[: len(names)]
        if any(cell.strip() for cell in row.cells[len(names) :]):
            problems.add(msg("Row {number} has a cell beyond the last named column.", number=f"{row.number:,}"))
        elif cells == header and len(names) > 1:
            problems.note(msg("Row {number} repeats the header; it is left out.", number=f"{row.number:,}"))
        elif _usable(row, names, problems) and table.usable(row.number, names, cells, problems):
            builder.add(cells, row.number)
        if builder.full:
            table.report_full(len(builder), problems)
            break
    if not len(builder):
        raise BadFile(
            msg("{filename} has no row that can be used. {first}", filename=filename, first=problems.first()),
            msg("The first row must name the columns; at least one data row must follow."),
        )
    return table.without_index(builder.rows("Row"), header[0], problems)


def _header(rows: Iterator[_Row], filename: str, problems: ImportProblems) -> tuple[list[str], Iterator[_Row]]:
    """The column names, and the rows below. Single-cell rows above a wider row are titles."""
    first_rows = list(islice(rows, 1))
    while (
        first_rows
        and first_rows[-1].filled == 1
        and len(first_rows) <= _MAX_TITLES
        and (row := next(rows, None)) is not None
    ):
        first_rows.append(row)
    header_index = next((i for i, row in enumerate(first_rows) if row.filled > 1), 0)
    for row in first_rows[:header_index]:
        problems.note(msg("Row {number} is a title above the columns; it is left out.", number=f"{row.number:,}"))
    header = first_rows[header_index].cells if first_rows else []
    while header and not header[-1].strip():
        header.pop()
    table.check_width(len(header), filename)
    return header, chain(first_rows[header_index + 1 :], rows)


def _usable(row: _Row, names: Sequence[str], problems: ImportProblems) -> bool:
    """True if the values of all formulas were saved. Errors are kept as text, and reported."""
    if unsaved := [names[index] for index in row.formulas if index < len(names)]:
        problems.add(
            msg(
                "Row {number}, column {column}: the formula has no saved value. Open the workbook in Excel and "
                "save it there.",
                number=f"{row.number:,}",
                column=unsaved[0],
            )
        )
        return False
    for index in row.errors:
        if index < len(names):
            error = row.cells[index]
            problems.note(
                msg(
                    "Row {number}, column {column} contains the error {error}; it is kept as text.",
                    number=f"{row.number:,}",
                    column=names[index],
                    error=error,
                )
            )
    return True


def _read_error(reason: str, filename: str) -> BadFile:
    if reason == "password":
        return BadFile(
            msg("{filename} is an Excel workbook with a password.", filename=filename),
            msg("Remove the password, then choose the file again."),
        )
    if reason == "empty":
        return BadFile(
            msg("{filename} is an Excel workbook without any row.", filename=filename),
            msg("Choose a workbook with rows."),
        )
    if reason == "memory":
        limit = MAX_MEMORY // 1_000_000
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
