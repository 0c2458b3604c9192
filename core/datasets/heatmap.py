"""The grid as a heat map of states: one square per row for small grids, aggregated squares for large ones.

There are four kinds, and the first one that fits is used: `cells` (last column across, the others down), `strip` (rows
in order, if there are too many values for labels), `pairs` (two columns; each square shows the share of its rows that
are done) and `blocks` (ranges of the grid). A map has at most `MAX_SQUARES` squares, even for a large grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.datasets import grid
from core.datasets.dataset_rows import RowFilter, ValueFilter, require_dataset, stride
from core.datasets.recipe import Recipe
from core.db.store import Store
from core.db.tables import Row

Kind = Literal["cells", "strip", "pairs", "blocks"]
MAX_SQUARES = 5_000  # renders instantly in a browser, and squares are still large enough to tap
MAX_UNLABELLED = 2_000  # maximum in a strip; above this, shares are more readable
MAX_DOWN = 90  # labelled rows; at 16 px about 1.5 screens
MAX_ACROSS = 60  # labelled columns, including repeats
_BLOCKS = 1_000
_SEPARATOR = " · "


@dataclass(frozen=True, slots=True)
class Square:
    """One square of a map.

    Attributes:
        place: its index, see `HeatMap.where`.
        down, across: its labels; strips and blocks only use `name`.
        repeat: the repeat within its cell, from 0.
        state: state of its row; None if it stands for many rows, which then have a `share` done and counts.
    """

    place: int
    down: str
    across: str
    repeat: int
    name: str
    state: str | None = None
    share: float | None = None
    done: int = 0
    failed: int = 0
    rows: int = 1


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A heat map. `outside`: number of rows no longer in the grid; `_cells`: row ids per cell."""

    kind: Kind
    squares: tuple[Square, ...]
    columns: tuple[str, ...]
    outside: int = 0
    pair: tuple[int, int] | None = None
    choices: tuple[int, ...] = ()
    per_square: int = 1
    _cells: Mapping[int, tuple[int, ...]] | None = None
    _value_filters: tuple[tuple[int, int], tuple[int, int]] | None = None

    def where(self, place: int) -> RowFilter:
        """Filter for the rows of a square: its cell, its pair of values, or its range of the grid."""
        if self._cells is not None:
            return RowFilter(ids=self._cells.get(place, ()))
        if self._value_filters is not None:
            (across_stride, across), (down_stride, down) = self._value_filters
            high, low = divmod(place, across)
            return RowFilter(
                value_filters=(ValueFilter(down_stride, down, high), ValueFilter(across_stride, across, low))
            )
        return RowFilter(start=place * self.per_square, end=(place + 1) * self.per_square)

    def name(self, place: int) -> str:
        """The name of a square; "" if it does not exist."""
        return next((square.name for square in self.squares if square.place == place), "")


def draw(store: Store, dataset_id: str, pair: tuple[int, int] | None = None) -> HeatMap:
    """The heat map of a data set.

    Args:
        pair: indices of the columns across and down, for kind `pairs`; default: the last column, and the largest of the
            others that fits.

    Raises:
        NotFound: no such data set.
    """
    with store.reading() as session:
        dataset = require_dataset(session, dataset_id)
        columns = tuple(dataset.columns)
        recipe = None if dataset.recipe is None else Recipe.from_dict(dataset.recipe)
        if recipe is None or recipe.listed:
            return _from_rows(session, dataset_id, columns)
        return _from_recipe(session, dataset_id, columns, recipe, pair)


def _from_recipe(
    session: Session, dataset_id: str, columns: tuple[str, ...], recipe: Recipe, pair: tuple[int, int] | None
) -> HeatMap:
    total = recipe.rows()
    outside_query = select(func.count()).select_from(Row).where(Row.dataset_id == dataset_id, Row.position >= total)
    outside = session.scalar(outside_query) or 0
    if total <= MAX_SQUARES:
        query = select(Row.position, Row.id, Row.state).where(Row.dataset_id == dataset_id, Row.position < total)
        by_position = {position: (row_id, state) for position, row_id, state in session.execute(query)}
        rows = [
            (list(cell.values.values()), cell.repeat, *by_position.get(cell.position, (None, "pending")))
            for cell in grid.cells(recipe)
        ]
        heat_map = _row_squares(columns, rows, outside)
        if heat_map.kind == "cells" or total <= MAX_UNLABELLED:
            return heat_map
    choices = tuple(i for i, column in enumerate(recipe.columns) if 1 < len(column.values) <= MAX_DOWN)
    across_choices = [i for i in choices if len(recipe.columns[i].values) <= MAX_ACROSS]
    if len(choices) < 2 or not across_choices:
        return _blocks(session, dataset_id, columns, total, outside)
    across = pair[0] if pair and pair[0] in across_choices else across_choices[-1]
    down_choices = [i for i in choices if i != across]
    down = (
        pair[1] if pair and pair[1] in down_choices else max(down_choices, key=lambda i: len(recipe.columns[i].values))
    )
    return _pairs(session, dataset_id, columns, recipe, (across, down), choices, outside)


def _from_rows(session: Session, dataset_id: str, columns: tuple[str, ...]) -> HeatMap:
    """The map of loaded or mixed rows: the cells are those that occur."""
    total = (session.scalar(select(func.max(Row.position)).where(Row.dataset_id == dataset_id)) or 0) + 1
    if total > MAX_SQUARES:
        return _blocks(session, dataset_id, columns, total, 0)
    query = select(Row.column_values, Row.repeat, Row.id, Row.state).where(Row.dataset_id == dataset_id)
    rows = session.execute(query.order_by(Row.position, Row.id)).all()
    heat_map = _row_squares(columns, [([str(values.get(c, "")) for c in columns], *rest) for values, *rest in rows], 0)
    fits = heat_map.kind == "cells" or total <= MAX_UNLABELLED
    return heat_map if fits else _blocks(session, dataset_id, columns, total, 0)


def _row_squares(
    columns: tuple[str, ...], rows: Sequence[tuple[list[str], int, int | None, str]], outside: int
) -> HeatMap:
    """One square per row: (values, repeat, id, state)."""
    cells: dict[tuple[str, ...], int] = {}
    ids: dict[int, list[int]] = {}
    squares = []
    for values, repeat, row_id, state in rows:
        cell = cells.setdefault(tuple(values), len(cells))
        if row_id is not None:
            ids.setdefault(cell, []).append(row_id)
        down, across = (_SEPARATOR.join(values[:-1]), values[-1]) if len(values) > 1 else (_SEPARATOR.join(values), "")
        squares.append(Square(cell, down, across, repeat, _SEPARATOR.join(values), state))
    max_repeats = max(Counter(s.place for s in squares).values(), default=1)
    labelled = (
        len({s.down for s in squares}) <= MAX_DOWN and len({s.across for s in squares}) * max_repeats <= MAX_ACROSS
    )
    return HeatMap(
        "cells" if labelled else "strip",
        tuple(squares),
        columns,
        outside,
        per_square=1,
        _cells={cell: tuple(row_ids) for cell, row_ids in ids.items()},
    )


def _pairs(
    session: Session,
    dataset_id: str,
    columns: tuple[str, ...],
    recipe: Recipe,
    pair: tuple[int, int],
    choices: tuple[int, ...],
    outside: int,
) -> HeatMap:
    across, down = (recipe.columns[i] for i in pair)
    value_filters = [(stride(recipe, i), len(recipe.columns[i].values)) for i in pair]
    low, high = (Row.position // step % size for step, size in value_filters)
    query = select(high, low, Row.state, func.count()).where(Row.dataset_id == dataset_id, Row.position < recipe.rows())
    states: dict[int, Counter[str]] = {}
    for i, j, state, count in session.execute(query.group_by(high, low, Row.state)):
        states.setdefault(i * len(across.values) + j, Counter())[state] += count
    per_square = recipe.rows() // (len(across.values) * len(down.values))
    squares = (
        _aggregate_square(i * len(across.values) + j, value, other, f"{value}{_SEPARATOR}{other}", per_square, states)
        for i, value in enumerate(down.values)
        for j, other in enumerate(across.values)
    )
    return HeatMap(
        "pairs",
        tuple(squares),
        columns,
        outside,
        pair,
        choices,
        per_square,
        _value_filters=(value_filters[0], value_filters[1]),
    )


def _blocks(session: Session, dataset_id: str, columns: tuple[str, ...], total: int, outside: int) -> HeatMap:
    size = -(-total // _BLOCKS)
    block = Row.position // size
    query = select(block, Row.state, func.count()).where(Row.dataset_id == dataset_id, Row.position < total)
    states: dict[int, Counter[str]] = {}
    for i, state, count in session.execute(query.group_by(block, Row.state)):
        states.setdefault(i, Counter())[state] += count

    def squares() -> Iterator[Square]:
        for i, start in enumerate(range(0, total, size)):
            rows = min(size, total - start)
            yield _aggregate_square(i, "", "", f"{start + 1:,}–{start + rows:,}", rows, states)

    return HeatMap("blocks", tuple(squares()), columns, outside, per_square=size)


def _aggregate_square(
    place: int, down: str, across: str, name: str, rows: int, states: Mapping[int, Counter[str]]
) -> Square:
    counts = states.get(place, Counter())
    return Square(
        place,
        down,
        across,
        0,
        name,
        share=counts["done"] / rows if rows else 0.0,
        done=counts["done"],
        failed=counts["failed"],
        rows=rows,
    )
