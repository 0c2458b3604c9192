"""Builds a table from rows of text: validates cells, and packs rows as they arrive, within limits. Pure.

`ImportProblems` collects what is wrong with them, as sentences with positions.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from core.errors import BadFile
from core.message import Message, msg
from core.sanitize import canonical

MAX_ROWS = 2_000_000
MAX_CHARACTERS = 300_000_000  # characters; about 1 GB as a table of Chinese text
MAX_COLUMNS = 1_000
_PACK_ROWS = 10_000  # rows; packed text takes a tenth of the memory of Python strings
_PACK_CHARACTERS = 10_000_000
_INDEX_NAMES = {"", "index", "unnamed: 0", "__index_level_0__"}  # common names of a column of row numbers
_MISSING_NUMBERS = frozenset({"nan", "inf", "-inf", "infinity", "-infinity"})
BROKEN = "\udcff"  # replaces invalid bytes; decoded text cannot contain it otherwise
MAX_CELL_CHARACTERS = 100_000  # characters; more than any training example needs
MAX_LINE_CHARACTERS = 4_000_000  # characters of a line, or of a multi-line row: 40 cells of maximum length
_MAX_SENTENCES = 100  # maximum number of sentences

RowUnit = Literal["Line", "Row", "Entry"]
"""What positions count: lines of a text, rows of a spreadsheet, or entries of a JSON document.

A JSON array may have all its entries on one line, so the position of an entry is its number and its line.
"""


class ImportProblems:
    """Collects sentences: problems (rows left out) and notes (rows kept, but changed). Keeps the first hundred of each.

    Attributes:
        left_out: number of rows that could not be used.
        cut_short: why reading ended before the end of the file; None if it did not.
    """

    def __init__(self) -> None:
        self.cut_short: str | None = None
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._more_notes = 0
        self.left_out = 0

    def add(self, sentence: str) -> None:
        """Add the reason for a row that is left out."""
        self.left_out += 1
        if len(self._problems) < _MAX_SENTENCES:
            self._problems.append(sentence)

    def note(self, sentence: str) -> None:
        """Add a note about rows that are kept."""
        if len(self._notes) < _MAX_SENTENCES:
            self._notes.append(sentence)
        else:
            self._more_notes += 1

    def end_early(self, sentence: str) -> None:
        """Record that reading ended before the end of the file; listed first."""
        self.cut_short = sentence

    def problems(self) -> list[str]:
        """All reasons, followed by the number of those not listed."""
        more = self.left_out - len(self._problems)
        first = [] if self.cut_short is None else [self.cut_short]
        return [
            *first,
            *self._problems,
            *([msg("And {more} more problems like these.", more=f"{more:,}")] if more else []),
        ]

    def first(self) -> str:
        """The first reason, for files without usable rows; "" if there is none."""
        return next(iter(self.problems()), "")

    def notes(self) -> list[str]:
        """All notes, followed by the number of those not listed."""
        more = self._more_notes
        return [*self._notes, *([msg("And {more} more notes like these.", more=f"{more:,}")] if more else [])]


def position(unit: RowUnit, line: int, entry: int = 0, *, conversation: bool = False) -> Message:
    """The position of a row, as a prefix for a problem.

    Args:
        unit: the unit of positions.
        line: the line where the row begins, from 1; for `Row` the row number.
        entry: for `Entry` its number in the file, from 1; for `Line` its number on the line, 0 for the first one.
        conversation: call an entry a conversation.
    """
    if unit == "Row":
        return msg("Row {row}", row=f"{line:,}")
    if unit == "Line":
        if entry:
            return msg("Entry {entry} of line {line}", entry=f"{entry:,}", line=f"{line:,}")
        return msg("Line {line}", line=f"{line:,}")
    if conversation:
        return msg("Conversation {entry} (line {line})", entry=f"{entry:,}", line=f"{line:,}")
    return msg("Entry {entry} (line {line})", entry=f"{entry:,}", line=f"{line:,}")


def with_position(where: str, fault: str) -> Message:
    """A problem prefixed with its position."""
    return msg("{where}: {fault}", where=where, fault=fault)


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table that was read, all cells as text.

    Attributes:
        lines: the line where each row begins, from 1.
        entries: the number of each row, see `position`.
        unit: the unit of positions.
        delimiter: the separator of a CSV file; None for other files and for a single column.
    """

    frame: pd.DataFrame
    lines: Sequence[int]
    entries: Sequence[int]
    unit: RowUnit
    delimiter: str | None = None

    def with_frame(self, frame: pd.DataFrame) -> TableRows:
        """The same rows with other columns."""
        return replace(self, frame=frame)


class TableBuilder:
    """Collects rows of equal width.

    Args:
        columns: unique column names.
        pack_rows: rows that are kept as Python strings before they are packed.
    """

    def __init__(self, columns: Sequence[str], pack_rows: int = _PACK_ROWS) -> None:
        self._columns, self._pack_rows = list(columns), pack_rows
        self._packed: list[pd.DataFrame] = []
        self._rows: list[Sequence[str]] = []
        self._lines = array("q")
        self._entries = array("q")
        self._unpacked_characters = 0
        self._characters = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """True if the limit is reached."""
        return self._count >= MAX_ROWS or self._characters >= MAX_CHARACTERS

    def add(self, cells: Sequence[str], line: int, entry: int = 0) -> None:
        """Add a row with a cell for each column; `line` and `entry` are its position."""
        self._rows.append(cells)
        self._lines.append(line)
        self._entries.append(entry)
        self._count += 1
        size = sum(map(len, cells))
        self._characters += size
        self._unpacked_characters += size
        if len(self._rows) >= self._pack_rows or self._unpacked_characters >= _PACK_CHARACTERS:
            self._pack()

    def rows(self, unit: RowUnit) -> TableRows:
        """The collected rows."""
        self._pack()
        frame = self._packed[0] if len(self._packed) == 1 else pd.concat(self._packed, ignore_index=True)
        return TableRows(frame, self._lines, self._entries, unit)

    def _pack(self) -> None:
        if self._rows or not self._packed:
            self._packed.append(pd.DataFrame(self._rows, columns=self._columns, dtype="str"))
            self._rows, self._unpacked_characters = [], 0


def names(header: Sequence[str], problems: ImportProblems) -> list[str]:
    """Unique column names: empty and repeated names get a number.

    An empty first name stays empty, because the column may contain row numbers, see `without_index`.
    """
    result: list[str] = []
    for number, cell in enumerate(header, 1):
        name = canonical(cell.encode("utf-8", "ignore").decode())[:200]
        name = name or (f"column {number}" if number > 1 else "")
        if name in result:
            new_name = next(f"{name} ({n})" for n in range(2, len(header) + 2) if f"{name} ({n})" not in result)
            problems.note(
                msg("Two columns are called {name}; the second is renamed to {new_name}.", name=name, new_name=new_name)
            )
            name = new_name
        result.append(name)
    return result


def check_width(columns: int, filename: str) -> None:
    """Reject a table with too many columns.

    Raises:
        BadFile: it has more than `MAX_COLUMNS`.
    """
    if columns > MAX_COLUMNS:
        raise BadFile(
            msg("{filename} has {columns} columns.", filename=filename, columns=f"{columns:,}"),
            msg("Up to {value} columns are supported.", value=f"{MAX_COLUMNS:,}"),
        )


def without_index(rows: TableRows, first: str, problems: ImportProblems) -> TableRows:
    """Drop a column of row numbers: the first one, whose header was `first`, or pandas' index column."""
    frame = rows.frame
    for name in [str(frame.columns[0]), "__index_level_0__"]:
        header = first if name == frame.columns[0] else name
        if name not in frame.columns or header.strip().lower() not in _INDEX_NAMES or len(frame.columns) < 2:
            continue
        if frame[name].str.fullmatch(r"\d+").all():
            problems.note(msg("Row-number column ignored."))
            return rows.with_frame(frame.drop(columns=name))
    return rows.with_frame(frame.rename(columns={"": "column 1"}))


def without_empty(rows: TableRows, header: Sequence[str]) -> TableRows:
    """Drop columns without name and content, which trailing separators create."""
    unnamed = [f"column {number}" for number, name in enumerate(header, 1) if not name.strip()]
    empty = [name for name in unnamed if name in rows.frame and not rows.frame[name].str.strip().any()]
    return rows.with_frame(rows.frame.drop(columns=empty)) if 0 < len(empty) < len(rows.frame.columns) else rows


def report_full(rows: int, problems: ImportProblems) -> None:
    """Report that the table is full."""
    problems.end_early(
        msg("Only the first {rows} rows were read; the rest is more than a data set can hold.", rows=f"{rows:,}")
    )


def cell_problem(cell: str) -> str | None:
    """Why a cell is unusable, as a sentence after its position; None if it is usable."""
    if "\0" in cell:
        return msg("The cell contains a NUL character.")
    if not cell.isascii() and not _is_encodable(cell):
        return (
            msg("Some bytes are not valid characters.")
            if BROKEN in cell
            else msg("It contains an invalid character (a lone surrogate).")
        )
    if len(cell) > MAX_CELL_CHARACTERS:
        return msg("The cell has more than {value} characters.", value=f"{MAX_CELL_CHARACTERS:,}")
    return None


def usable(row: int, names: Sequence[str], cells: Sequence[str], problems: ImportProblems) -> bool:
    """True if a row of a Parquet or Excel file can be kept; problems and notes are reported."""
    for name, cell in zip(names, cells, strict=True):
        if (problem := cell_problem(cell)) is not None:
            problems.add(msg("Row {row}, column {name}: {problem}", row=f"{row:,}", name=name, problem=problem))
            return False
        if is_missing_number(cell):
            problems.note(
                msg(
                    "Row {row}, column {name} contains {text}; it is kept as text.",
                    row=f"{row:,}",
                    name=name,
                    text=cell.strip(),
                )
            )
    return any(cell.strip() for cell in cells)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_missing_number(cell: str) -> bool:
    """True for words that programs write for a missing or infinite number."""
    return len(cell) < 10 and cell.strip().lower() in _MISSING_NUMBERS
