"""Rows of text on their way from a file into a table: checked one by one, packed as they come, bounded. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from core.dataset.importers.decoding import BROKEN
from core.dataset.importers.import_problems import LONGEST_CELL, ImportProblems
from core.dataset.importers.positions import Place
from core.errors import BadFile
from core.message import msg
from core.sanitize import canonical

MOST_ROWS = 2_000_000
MOST_KEPT = 300_000_000  # characters; about 1 GB as a table of Chinese text
MOST_COLUMNS = 1_000
_PACK = 10_000  # rows; packed text takes a tenth of what Python's strings take
_PACK_CHARACTERS = 10_000_000
_INDEX_NAMES = {"", "index", "unnamed: 0", "__index_level_0__"}  # what pandas and people call a column that only counts
_NO_NUMBERS = frozenset({"nan", "inf", "-inf", "infinity", "-infinity"})


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table that was read, all cells text.

    Attributes:
        lines: where each row begins in the file, from 1.
        entries: the number of each row, as `positions.position` takes it.
        place: how its rows are counted.
        delimiter: the sign between the cells of a CSV file; None for other files and for a single column.
    """

    frame: pd.DataFrame
    lines: Sequence[int]
    entries: Sequence[int]
    place: Place
    delimiter: str | None = None

    def with_frame(self, frame: pd.DataFrame) -> TableRows:
        """The same rows with other columns."""
        return replace(self, frame=frame)


class TableBuilder:
    """Collects rows of one width.

    Args:
        columns: their names, each once.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._packed: list[pd.DataFrame] = []
        self._rows: list[Sequence[str]] = []
        self._lines = array("q")
        self._entries = array("q")
        self._loose = 0
        self._kept = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether no more rows should be added."""
        return self._count >= MOST_ROWS or self._kept >= MOST_KEPT

    def add(self, cells: Sequence[str], line: int, entry: int = 0) -> None:
        """One more row, with a cell for each column; `line` and `entry` are its position."""
        self._rows.append(cells)
        self._lines.append(line)
        self._entries.append(entry)
        self._count += 1
        size = sum(map(len, cells))
        self._kept += size
        self._loose += size
        if len(self._rows) >= _PACK or self._loose >= _PACK_CHARACTERS:
            self._pack()

    def rows(self, place: Place) -> TableRows:
        """What was collected."""
        self._pack()
        frame = self._packed[0] if len(self._packed) == 1 else pd.concat(self._packed, ignore_index=True)
        return TableRows(frame, self._lines, self._entries, place)

    def _pack(self) -> None:
        if self._rows or not self._packed:
            self._packed.append(pd.DataFrame(self._rows, columns=self._columns, dtype="str"))
            self._rows, self._loose = [], 0


def names(header: Sequence[str], problems: ImportProblems) -> list[str]:
    """Names of the columns, each once: an empty one is numbered, a second one of the same name too.

    An empty first name stays empty: such a column may only count the rows, see `without_index`.
    """
    found: list[str] = []
    for number, cell in enumerate(header, 1):
        name = canonical(cell.encode("utf-8", "ignore").decode())[:200]
        name = name or (f"column {number}" if number > 1 else "")
        if name in found:
            again = next(f"{name} ({n})" for n in range(2, len(header) + 2) if f"{name} ({n})" not in found)
            problems.note(msg("Two columns are called {name}: the second one is {again} here.", name=name, again=again))
            name = again
        found.append(name)
    return found


def checked_width(columns: int, filename: str) -> None:
    """Refuse a table of too many columns.

    Raises:
        BadFile: it has more than `MOST_COLUMNS`.
    """
    if columns > MOST_COLUMNS:
        raise BadFile(
            msg("{filename} has {columns} columns.", filename=filename, columns=f"{columns:,}"),
            msg("{value} can be read.", value=f"{MOST_COLUMNS:,}"),
        )


def without_index(rows: TableRows, first: str, problems: ImportProblems) -> TableRows:
    """Drop a column that only counts the rows: the first one, whose header was `first`, or pandas' own."""
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
    """Drop columns that have neither a name nor a cell: separators at the end of each line make one."""
    unnamed = [f"column {number}" for number, name in enumerate(header, 1) if not name.strip()]
    empty = [name for name in unnamed if name in rows.frame and not rows.frame[name].str.strip().any()]
    return rows.with_frame(rows.frame.drop(columns=empty)) if 0 < len(empty) < len(rows.frame.columns) else rows


def ends_early(rows: int, problems: ImportProblems) -> None:
    """Say that the table is full, and where."""
    problems.ends_early(
        msg("Only the first {rows} rows were read; the rest is more than a data set can hold.", rows=f"{rows:,}")
    )


def cell_problem(cell: str) -> str | None:
    """What makes a cell unusable, as a sentence that stands after its place; None for a good one."""
    if "\0" in cell:
        return msg("There is a NUL character.")
    if not cell.isascii() and not _whole(cell):
        return (
            msg("Some bytes are not valid characters.")
            if BROKEN in cell
            else msg("It has a broken character (a lone surrogate).")
        )
    if len(cell) > LONGEST_CELL:
        return msg("The cell has more than {value} characters.", value=f"{LONGEST_CELL:,}")
    return None


def usable(row: int, names: Sequence[str], cells: Sequence[str], problems: ImportProblems) -> bool:
    """Whether a row of Parquet or Excel can be kept; what is wrong or odd in it is told."""
    for name, cell in zip(names, cells, strict=True):
        if (bad := cell_problem(cell)) is not None:
            problems.add(msg("Row {row}, column {name}: {flaw}", row=f"{row:,}", name=name, flaw=bad))
            return False
        if no_number(cell):
            problems.note(
                msg(
                    "Row {row}, column {name} says {text}; it is kept as that word.",
                    row=f"{row:,}",
                    name=name,
                    text=cell.strip(),
                )
            )
    return any(cell.strip() for cell in cells)


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def no_number(cell: str) -> bool:
    """Whether a cell is a word that programs write where a number is missing or endless."""
    return len(cell) < 10 and cell.strip().lower() in _NO_NUMBERS
