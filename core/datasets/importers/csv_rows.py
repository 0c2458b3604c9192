"""Reads CSV: a header line, then one cell per column. A malformed row affects only its own line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from core.datasets.importers import csv_dialect, table
from core.datasets.importers.csv_dialect import Dialect
from core.datasets.importers.import_problems import MAX_CELL_CHARACTERS, MAX_LINE_CHARACTERS, ImportProblems
from core.datasets.importers.table import TableRows
from core.datasets.importers.text_lines import LineReader, LineTooLong, RowTooLong
from core.errors import BadFile
from core.message import msg


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """One row, which may span several lines; `line` is the first, from 1."""

    line: int
    cells: list[str]


def read(lines: LineReader, filename: str, problems: ImportProblems) -> TableRows:
    """The usable rows, all cells as text.

    Raises:
        BadFile: there are none, or there are too many columns.
    """
    dialect = csv_dialect.sniff(lines)
    rows_read = records(lines, dialect, problems)
    for title in islice(rows_read, dialect.titles):
        problems.note(msg("Line {line} is a title above the columns; it is left out.", line=f"{title.line:,}"))
    header = next(rows_read, None)
    if header is None:
        raise BadFile(
            msg("{filename} is empty. {first}", filename=filename, first=problems.first()),
            msg("Choose a file with rows."),
        )
    table.check_width(len(header.cells), filename)
    builder = table.TableBuilder(table.names(header.cells, problems))
    for record in rows_read:
        if not any(cell.strip() for cell in record.cells[len(header.cells) :]):
            del record.cells[len(header.cells) :]  # trailing separators that the header does not have
        if len(record.cells) > 1 and record.cells == header.cells:
            problems.note(msg("Line {line} repeats the header; it is left out.", line=f"{record.line:,}"))
        elif _usable(record, len(header.cells), problems):
            builder.add(record.cells, record.line)
            if builder.full:
                table.report_full(len(builder), problems)
                break
    if not len(builder):
        if not problems.first():
            raise BadFile(
                msg("{filename} has no rows: nothing follows its first line.", filename=filename),
                msg("Choose a file with rows."),
            )
        raise BadFile(
            msg("{filename} has no row that can be used. {first}", filename=filename, first=problems.first()),
            msg("The first line must name the columns, and each further line must have a cell for each."),
        )
    rows = table.without_index(builder.rows("Line"), header.cells[0], problems)
    rows = table.without_empty(rows, header.cells)
    return replace(rows, delimiter=dialect.delimiter if len(header.cells) > 1 else None)


def records(lines: LineReader, dialect: Dialect, problems: ImportProblems) -> Iterator[CsvRecord]:
    """The rows of a CSV file, including the header. Blank rows are skipped.

    An unclosed quote would consume the rest of the file: its line is left out, and reading continues after it.
    """
    reader = csv.reader(
        dialect.normalized_lines(lines), delimiter=dialect.delimiter, skipinitialspace=dialect.spaced, strict=True
    )
    while True:
        first = lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, LineTooLong, RowTooLong) as exc:
            _report_broken(exc, first, lines, problems)
            continue
        if any(cell.strip() for cell in cells):
            yield CsvRecord(first, cells)


def _report_broken(exc: Exception, first: int, lines: LineReader, problems: ImportProblems) -> None:
    """Report the malformed row that begins at line `first`, and continue after that line."""
    last = lines.number
    if isinstance(exc, LineTooLong) and exc.number == first:
        problems.add(
            msg("Line {first} has more than {value} characters.", first=f"{first:,}", value=f"{MAX_LINE_CHARACTERS:,}")
        )
    elif "unexpected end of data" in str(exc):
        problems.add(msg("Line {first}: a quote is opened and never closed; the line is left out.", first=f"{first:,}"))
    elif last > first:
        problems.add(
            msg(
                "Line {first}: a quote is opened and not closed as it should be; the line is left out.",
                first=f"{first:,}",
            )
        )
    elif "field larger than field limit" in str(exc):
        problems.add(
            msg(
                "Line {first}: a cell has more than {value} characters.",
                first=f"{first:,}",
                value=f"{MAX_CELL_CHARACTERS:,}",
            )
        )
    else:
        problems.add(msg("Line {first}: the quotes do not match.", first=f"{first:,}"))
    if last > first and not lines.rewind(keep=1):
        problems.add(
            msg(
                "Lines {first} to {last} are between quotes that do not match; they are left out.",
                first=f"{first + 1:,}",
                last=f"{last:,}",
            )
        )


def _usable(record: CsvRecord, width: int, problems: ImportProblems) -> bool:
    line, cells = record.line, record.cells
    if len(cells) != width:
        if len(cells) == 1:
            problems.add(msg("Line {line} has 1 cell, but the header has {width}.", line=f"{line:,}", width=width))
        else:
            problems.add(
                msg(
                    "Line {line} has {cells} cells, but the header has {width}.",
                    line=f"{line:,}",
                    cells=len(cells),
                    width=width,
                )
            )
        return False
    for number, cell in enumerate(cells, 1):
        if (problem := table.cell_problem(cell)) is not None:
            problems.add(
                msg("Line {line}, column {number}: {problem}", line=f"{line:,}", number=number, problem=problem)
            )
            return False
        if table.is_missing_number(cell):
            problems.note(
                msg(
                    "Line {line}, column {number} contains {text}; it is kept as text.",
                    line=f"{line:,}",
                    number=number,
                    text=cell.strip(),
                )
            )
    return True
