"""Coverage of the grid: the number of good rows per cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.datasets.quality.adherence import MAX_VALUES

MAX_CELLS = 50_000  # above this, cells are not listed individually, only counts per value
_MAX_MISSING = 200  # maximum number of empty cells listed


@dataclass(frozen=True, slots=True)
class Coverage:
    """Rows per cell.

    Attributes:
        columns: the columns that make the grid; columns of free text (a different value in nearly every row) do not.
        values: the known values of each of these columns, in order of appearance.
        per_cell: rows that each cell should have (the recipe's repeats); None for rows from a file.
        expected: number of cells in the grid.
        cells: ids of the good rows of each cell that has any; empty if there are more than 50,000 cells.
        filled: number of cells that have a row.
        missing: the first 200 empty cells.
    """

    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    per_cell: int | None
    expected: int
    cells: Mapping[tuple[str, ...], tuple[int, ...]]
    filled: int
    missing: tuple[tuple[str, ...], ...]

    def by_pair(self, across: str, down: str) -> list[tuple[str, str, int]]:
        """Number of rows for each pair of values of two columns, including empty pairs."""
        i, j = self.columns.index(across), self.columns.index(down)
        counts: Counter[tuple[str, str]] = Counter()
        for cell, ids in self.cells.items():
            counts[cell[i], cell[j]] += len(ids)
        return [(a, d, counts[a, d]) for a in self.values[i] for d in self.values[j]]

    def rows_of(self, selected: Mapping[str, str]) -> tuple[int, ...]:
        """Ids of the rows whose cell has these values."""
        positions = [(self.columns.index(name), value) for name, value in selected.items() if name in self.columns]
        matches = (ids for cell, ids in self.cells.items() if all(cell[i] == value for i, value in positions))
        return tuple(sorted(row for ids in matches for row in ids))


def measure(
    rows: Sequence[tuple[int, tuple[str, ...]]],
    columns: Sequence[str],
    grid: Mapping[str, Sequence[str]] | None,
    per_cell: int | None,
) -> Coverage:
    """Coverage by `rows` (id, value of each column).

    Args:
        grid: the recipe's values by column; None: the values that occur make the grid.
        per_cell: the recipe's repeats.
    """
    seen = [dict.fromkeys((grid or {}).get(column, ())) for column in columns]
    for _, cell in rows:
        for values, value in zip(seen, cell, strict=True):
            if len(values) <= MAX_VALUES or grid is not None:
                values[value] = None
    dimensions = [i for i, values in enumerate(seen) if grid is not None or _is_dimension(len(values), len(rows))]
    by_cell: dict[tuple[str, ...], list[int]] = {}
    for row_id, cell in rows:
        by_cell.setdefault(tuple(cell[i] for i in dimensions), []).append(row_id)
    list_cells = len(by_cell) <= MAX_CELLS and bool(dimensions)
    known_values = tuple(tuple(seen[i]) for i in dimensions)
    expected = math.prod(len(values) for values in known_values) if dimensions else 0
    return Coverage(
        columns=tuple(columns[i] for i in dimensions),
        values=known_values,
        per_cell=per_cell,
        expected=expected,
        cells={cell: tuple(ids) for cell, ids in by_cell.items()} if list_cells else {},
        filled=len(by_cell) if dimensions else 0,
        missing=_missing(known_values, by_cell) if dimensions and expected <= 10 * MAX_CELLS else (),
    )


def _is_dimension(values: int, rows: int) -> bool:
    return values <= MAX_VALUES and 2 * values <= max(rows, 2)


def _missing(
    values: Sequence[Sequence[str]], by_cell: Mapping[tuple[str, ...], Sequence[int]]
) -> tuple[tuple[str, ...], ...]:
    missing: list[tuple[str, ...]] = []
    total = math.prod(len(v) for v in values)
    for index in range(total):
        remainder, cell = index, list[str]()
        for column in reversed(values):
            remainder, position = divmod(remainder, len(column))
            cell.append(column[position])
        key = tuple(reversed(cell))
        if key not in by_cell:
            missing.append(key)
            if len(missing) == _MAX_MISSING:
                break
    return tuple(missing)
