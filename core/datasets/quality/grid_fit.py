"""How the texts fit the grid: rows per cell (coverage), and texts that lack a value of their cell (adherence).

Adherence is measured for columns with literal values. A column of the type `word` is literal, one of the type `style`
is not. For other columns the texts decide. A value that occurs in nearly every text, requested or not, proves nothing,
and neither does a value that is never written out ("light-hearted" describes a manner; the word does not occur in the
story). So a column counts as literal only if its value occurs in at least half of the texts, and clearly more often
than in texts with another value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.datasets.quality.units import normalize
from core.datasets.recipe import ColumnType

MAX_CELLS = 50_000  # above this, cells are not listed individually, only counts per value
_MAX_MISSING = 200  # maximum number of empty cells listed
LITERAL_FROM = 0.5  # share of texts that must contain the value; below it, a missing value means nothing
ABOVE_CHANCE = 0.2  # minimum by which that share must exceed the share in texts with another value
MAX_VALUES = 200  # a column with more values is free text, not a dimension of the grid
_MAX_VALUE_CHARACTERS = 60  # characters; a longer value is a sentence, which texts do not repeat


@dataclass(frozen=True, slots=True)
class Coverage:
    """Rows per cell.

    Attributes:
        columns: the columns that form the grid; columns of free text (a different value in nearly every row) are not
            among them.
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


def measure_coverage(
    rows: Sequence[tuple[int, tuple[str, ...]]],
    columns: Sequence[str],
    grid: Mapping[str, Sequence[str]] | None,
    per_cell: int | None,
) -> Coverage:
    """Measure which cells `rows` (id, value of each column) cover.

    Args:
        grid: the recipe's values by column; if None, the grid consists of the values that occur.
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


@dataclass(frozen=True, slots=True)
class ValueShare:
    """One value of a column: how many texts it was requested for, and the ids of those that lack it."""

    value: str
    requested: int
    missing: tuple[int, ...]

    @property
    def found(self) -> int:
        """Number of texts that contain it."""
        return self.requested - len(self.missing)


@dataclass(frozen=True, slots=True)
class Adherence:
    """How well the texts adhere to the values of one column.

    Attributes:
        column: its name.
        literal: True if its values are written out in the texts, so that a missing one is a problem.
        share: share of the texts that contain the requested value; None if not measured.
        chance: how often a value occurs in texts with another value, in a sample; None if there is only one value.
        values: the same by value, the lowest share first.
        missing: ids of the rows without their value; empty unless `literal`.
    """

    column: str
    literal: bool
    share: float | None
    chance: float | None
    values: tuple[ValueShare, ...]
    missing: tuple[int, ...]


class AdherenceCollector:
    """Counts, text by text, how often the values of one column occur."""

    def __init__(self, column: str, column_type: ColumnType = "auto") -> None:
        self.column, self._type = column, column_type
        self._requested: Counter[str] = Counter()
        self._missing: dict[str, list[int]] = {}
        self._is_free_text = False

    def add(self, row_id: int, value: str, text: str) -> None:
        """Count `text`, which is normalized (`normalize`) and was requested with `value`."""
        if self._is_free_text or not value.strip():
            return
        self._requested[value] += 1
        is_long = len(self._requested) > MAX_VALUES or len(value) > _MAX_VALUE_CHARACTERS
        if is_long and self._type != "word":
            self._is_free_text = True
            self._missing.clear()
        elif normalize(value).strip() not in text:
            self._missing.setdefault(value, []).append(row_id)

    def result(self, sample: Sequence[tuple[Mapping[str, str], str]]) -> Adherence:
        """The result; `sample` are normalized texts with their values, to estimate how often values occur by chance."""
        total = self._requested.total()
        if self._is_free_text or not total:
            return Adherence(self.column, False, None, None, (), ())
        values = [ValueShare(value, n, tuple(self._missing.get(value, ()))) for value, n in self._requested.items()]
        values.sort(key=lambda item: item.found / item.requested)
        share, chance = sum(item.found for item in values) / total, self._chance(sample)
        literal = self._type == "word" or (self._type == "auto" and _is_literal(share, chance))
        missing = tuple(sorted(row for item in values for row in item.missing)) if literal else ()
        return Adherence(self.column, literal, share, chance, tuple(values), missing)

    def _chance(self, sample: Sequence[tuple[Mapping[str, str], str]]) -> float | None:
        needles = [(value, normalize(value).strip()) for value in self._requested]
        pairs = hits = 0
        for values, text in sample:
            own_value = normalize(values.get(self.column, "")).strip()
            for _, needle in needles:
                if needle not in own_value and own_value not in needle:  # 魏 inside 北魏 is not by chance
                    pairs += 1
                    hits += needle in text
        return hits / pairs if pairs else None


def _is_literal(share: float, chance: float | None) -> bool:
    return share >= LITERAL_FROM and (chance is None or share >= chance + ABOVE_CHANCE)
