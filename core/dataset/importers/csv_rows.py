"""CSV: a header line, then a cell for each column. What is broken costs its own line only."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from core.dataset.importers import csv_dialect, table
from core.dataset.importers.csv_dialect import Dialect
from core.dataset.importers.import_problems import LONGEST_CELL, LONGEST_LINE, ImportProblems
from core.dataset.importers.table import TableRows
from core.dataset.importers.text_lines import LineReader, LineTooLong, RowTooLong
from core.errors import BadFile
from core.message import msg


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """One row, which may span lines; `line` is its first, from 1."""

    line: int
    cells: list[str]


def read(lines: LineReader, filename: str, problems: ImportProblems) -> TableRows:
    """The good rows, all cells text.

    Raises:
        BadFile: there is none, or there are too many columns.
    """
    dialect = csv_dialect.sniffed(lines)
    found = records(lines, dialect, problems)
    for title in islice(found, dialect.titles):
        problems.note(msg("Line {line} is a title above the columns; it is left out.", line=f"{title.line:,}"))
    header = next(found, None)
    if header is None:
        raise BadFile(
            msg("{filename} is empty. {first}", filename=filename, first=problems.first()),
            msg("Choose a file with rows."),
        )
    table.checked_width(len(header.cells), filename)
    good = table.TableBuilder(table.names(header.cells, problems))
    for record in found:
        if not any(cell.strip() for cell in record.cells[len(header.cells) :]):
            del record.cells[len(header.cells) :]  # separators at the end of a line, which the header does not have
        if len(record.cells) > 1 and record.cells == header.cells:
            problems.note(msg("Line {line} repeats the header; it is left out.", line=f"{record.line:,}"))
        elif _usable(record, len(header.cells), problems):
            good.add(record.cells, record.line)
            if good.full:
                table.ends_early(len(good), problems)
                break
    if not len(good):
        if not problems.first():
            raise BadFile(
                msg("{filename} has no rows: nothing follows its first line.", filename=filename),
                msg("Choose a file with rows."),
            )
        raise BadFile(
            msg("{filename} has no row that can be used. {first}", filename=filename, first=problems.first()),
            msg("The first line must name the columns, and each further line must have a cell for each."),
        )
    rows = table.without_index(good.rows("Line"), header.cells[0], problems)
    rows = table.without_empty(rows, header.cells)
    return replace(rows, delimiter=dialect.delimiter if len(header.cells) > 1 else None)


def records(lines: LineReader, dialect: Dialect, problems: ImportProblems) -> Iterator[CsvRecord]:
    """The rows of a CSV file, the header among them. Blank ones are skipped.

    A quote that is never closed would swallow what follows: its line is left out, and reading goes on after it.
    """
    reader = csv.reader(dialect.plain(lines), delimiter=dialect.delimiter, skipinitialspace=dialect.spaced, strict=True)
    while True:
        first = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, LineTooLong, RowTooLong) as exc:
            _broken(exc, first, lines, problems)
            continue
        if any(cell.strip() for cell in cells):
            yield CsvRecord(first, cells)


def _broken(exc: Exception, first: int, lines: LineReader, problems: ImportProblems) -> None:
    """Say what is wrong with the row that begins at line `first`, and go on after that line."""
    last = lines.number
    if isinstance(exc, LineTooLong) and exc.number == first:
        problems.add(
            msg("Line {first} has more than {value} characters.", first=f"{first:,}", value=f"{LONGEST_LINE:,}")
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
            msg("Line {first}: a cell has more than {value} characters.", first=f"{first:,}", value=f"{LONGEST_CELL:,}")
        )
    else:
        problems.add(msg("Line {first}: the quotes do not match.", first=f"{first:,}"))
    if last > first and not lines.give_back(keep=1):
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
        if (flaw := table.cell_problem(cell)) is not None:
            problems.add(msg("Line {line}, column {number}: {flaw}", line=f"{line:,}", number=number, flaw=flaw))
            return False
        if table.no_number(cell):
            problems.note(
                msg(
                    "Line {line}, column {number} says {text}; it is kept as that word.",
                    line=f"{line:,}",
                    number=number,
                    text=cell.strip(),
                )
            )
    return True
