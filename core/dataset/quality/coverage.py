"""Which cells of the grid have how many good rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.dataset.quality.adherence import MOST_VALUES

MOST_CELLS = 50_000  # beyond, cells are not listed one by one; the figures for each value still are
_MOST_MISSING = 200  # cells without a row that are named


@dataclass(frozen=True, slots=True)
class Coverage:
    """Rows by cell.

    Attributes:
        columns: those that make the grid: columns of free text, with another value in nearly every row, are not.
        values: of each of these columns, those that are known, in order of appearance.
        wanted: rows that each cell should have (the recipe's repeats); None for rows that came from a file.
        expected: cells that the grid has.
        cells: ids of the good rows of each cell that has some; empty when there are more than 50,000 cells.
        filled: cells that have a row.
        missing: the first 200 cells without any.
    """

    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    wanted: int | None
    expected: int
    cells: Mapping[tuple[str, ...], tuple[int, ...]]
    filled: int
    missing: tuple[tuple[str, ...], ...]

    def by_pair(self, across: str, down: str) -> list[tuple[str, str, int]]:
        """Rows for each pair of values of two columns, empty pairs too."""
        i, j = self.columns.index(across), self.columns.index(down)
        counted: Counter[tuple[str, str]] = Counter()
        for cell, ids in self.cells.items():
            counted[cell[i], cell[j]] += len(ids)
        return [(a, d, counted[a, d]) for a in self.values[i] for d in self.values[j]]

    def rows_of(self, wanted: Mapping[str, str]) -> tuple[int, ...]:
        """Ids of the rows whose cell has these values."""
        places = [(self.columns.index(name), value) for name, value in wanted.items() if name in self.columns]
        found = (ids for cell, ids in self.cells.items() if all(cell[i] == value for i, value in places))
        return tuple(sorted(row for ids in found for row in ids))


def measure(
    rows: Sequence[tuple[int, tuple[str, ...]]],
    columns: Sequence[str],
    grid: Mapping[str, Sequence[str]] | None,
    wanted: int | None,
) -> Coverage:
    """Coverage by `rows` (id, value of each column).

    Args:
        grid: the recipe's values by column; None: the values that occur make the grid.
        wanted: the recipe's repeats.
    """
    seen = [dict.fromkeys((grid or {}).get(column, ())) for column in columns]
    for _, cell in rows:
        for values, value in zip(seen, cell, strict=True):
            if len(values) <= MOST_VALUES or grid is not None:
                values[value] = None
    kept = [i for i, values in enumerate(seen) if grid is not None or _is_dimension(len(values), len(rows))]
    by_cell: dict[tuple[str, ...], list[int]] = {}
    for row_id, cell in rows:
        by_cell.setdefault(tuple(cell[i] for i in kept), []).append(row_id)
    listed = len(by_cell) <= MOST_CELLS and bool(kept)
    known = tuple(tuple(seen[i]) for i in kept)
    expected = math.prod(len(values) for values in known) if kept else 0
    return Coverage(
        columns=tuple(columns[i] for i in kept),
        values=known,
        wanted=wanted,
        expected=expected,
        cells={cell: tuple(ids) for cell, ids in by_cell.items()} if listed else {},
        filled=len(by_cell) if kept else 0,
        missing=_missing(known, by_cell) if kept and expected <= 10 * MOST_CELLS else (),
    )


def _is_dimension(values: int, rows: int) -> bool:
    return values <= MOST_VALUES and 2 * values <= max(rows, 2)


def _missing(
    values: Sequence[Sequence[str]], by_cell: Mapping[tuple[str, ...], Sequence[int]]
) -> tuple[tuple[str, ...], ...]:
    found: list[tuple[str, ...]] = []
    total = math.prod(len(v) for v in values)
    for number in range(total):
        rest, cell = number, list[str]()
        for column in reversed(values):
            rest, place = divmod(rest, len(column))
            cell.append(column[place])
        key = tuple(reversed(cell))
        if key not in by_cell:
            found.append(key)
            if len(found) == _MOST_MISSING:
                break
    return tuple(found)
