"""The grid as a map of states: one square for a row while that can be seen, and a share of many rows beyond.

Four kinds, the first that fits: `cells` (the last column across, the others down), `strip` (rows in their order, when
there are more values than labels fit), `pairs` (two columns, each square the share of its rows that is done) and
`blocks` (stretches of the grid). Whatever the size of the grid, a map has at most `MOST_SQUARES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.dataset import grid
from core.dataset.recipe import Recipe
from core.dataset.row_query import RowFilter, ValueFilter, stride
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import NotFound
from core.message import msg

Kind = Literal["cells", "strip", "pairs", "blocks"]
MOST_SQUARES = 5_000  # a browser draws so many in a blink, and a finger can still hit one
MOST_UNLABELLED = 2_000  # in a strip: more dots than that say less than a share does
MOST_DOWN = 90  # labelled lines, at 16 px a screen and a half
MOST_ACROSS = 60  # labelled columns, repeats among them
_BLOCKS = 1_000
_BETWEEN = " · "


@dataclass(frozen=True, slots=True)
class Square:
    """One square of a map.

    Attributes:
        place: which one was clicked, see `HeatMap.where`.
        down, across: its labels; in a strip and in blocks only `name` has words.
        repeat: which of a cell's rows, from 0.
        state: of its row; None where a square stands for many, which then has a `share` done and its counts.
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
    """A map. `outside` counts rows that are not part of the grid any more; `cells` the ids of each cell's rows."""

    kind: Kind
    squares: tuple[Square, ...]
    columns: tuple[str, ...]
    outside: int = 0
    pair: tuple[int, int] | None = None
    choices: tuple[int, ...] = ()
    per_square: int = 1
    _cells: Mapping[int, tuple[int, ...]] | None = None
    _turns: tuple[tuple[int, int], tuple[int, int]] | None = None

    def where(self, place: int) -> RowFilter:
        """The rows behind a square: of its cell, its pair of values, or its stretch of the grid."""
        if self._cells is not None:
            return RowFilter(ids=self._cells.get(place, ()))
        if self._turns is not None:
            (across_stride, across), (down_stride, down) = self._turns
            high, low = divmod(place, across)
            return RowFilter(turns=(ValueFilter(down_stride, down, high), ValueFilter(across_stride, across, low)))
        return RowFilter(start=place * self.per_square, end=(place + 1) * self.per_square)

    def name(self, place: int) -> str:
        """What a square is called; "" when there is none."""
        return next((square.name for square in self.squares if square.place == place), "")


def draw(store: Store, dataset_id: str, pair: tuple[int, int] | None = None) -> HeatMap:
    """The map of a data set.

    Args:
        pair: numbers of the columns across and down, where two have to be chosen; by default the last and the
            largest other one that fits.

    Raises:
        NotFound: no such data set.
    """
    with store.reading() as session:
        dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        columns = tuple(dataset.columns)
        if dataset.recipe is None:
            return _loaded(session, dataset_id, columns)
        return _grown(session, dataset_id, columns, Recipe.from_dict(dataset.recipe), pair)


def _grown(
    session: Session, dataset_id: str, columns: tuple[str, ...], recipe: Recipe, pair: tuple[int, int] | None
) -> HeatMap:
    total = recipe.rows()
    beyond = select(func.count()).select_from(Row).where(Row.dataset_id == dataset_id, Row.position >= total)
    outside = session.scalar(beyond) or 0
    if total <= MOST_SQUARES:
        found = select(Row.position, Row.id, Row.state).where(Row.dataset_id == dataset_id, Row.position < total)
        here = {position: (row_id, state) for position, row_id, state in session.execute(found)}
        rows = [
            (list(cell.values.values()), cell.repeat, *here.get(cell.position, (None, "pending")))
            for cell in grid.cells(recipe)
        ]
        small = _small(columns, rows, outside)
        if small.kind == "cells" or total <= MOST_UNLABELLED:
            return small
    choices = tuple(i for i, column in enumerate(recipe.columns) if 1 < len(column.values) <= MOST_DOWN)
    fitting = [i for i in choices if len(recipe.columns[i].values) <= MOST_ACROSS]
    if len(choices) < 2 or not fitting:
        return _blocks(session, dataset_id, columns, total, outside)
    across = pair[0] if pair and pair[0] in fitting else fitting[-1]
    others = [i for i in choices if i != across]
    down = pair[1] if pair and pair[1] in others else max(others, key=lambda i: len(recipe.columns[i].values))
    return _pairs(session, dataset_id, columns, recipe, (across, down), choices, outside)


def _loaded(session: Session, dataset_id: str, columns: tuple[str, ...]) -> HeatMap:
    """Rows that came from a file or a mix: their cells are those that occur."""
    total = (session.scalar(select(func.max(Row.position)).where(Row.dataset_id == dataset_id)) or 0) + 1
    if total > MOST_SQUARES:
        return _blocks(session, dataset_id, columns, total, 0)
    found = select(Row.column_values, Row.repeat, Row.id, Row.state).where(Row.dataset_id == dataset_id)
    rows = session.execute(found.order_by(Row.position, Row.id)).all()
    small = _small(columns, [([str(values.get(c, "")) for c in columns], *rest) for values, *rest in rows], 0)
    fits = small.kind == "cells" or total <= MOST_UNLABELLED
    return small if fits else _blocks(session, dataset_id, columns, total, 0)


def _small(columns: tuple[str, ...], rows: Sequence[tuple[list[str], int, int | None, str]], outside: int) -> HeatMap:
    """A square for each row: (values, repeat, id, state)."""
    cells: dict[tuple[str, ...], int] = {}
    ids: dict[int, list[int]] = {}
    squares = []
    for values, repeat, row_id, state in rows:
        cell = cells.setdefault(tuple(values), len(cells))
        if row_id is not None:
            ids.setdefault(cell, []).append(row_id)
        down, across = (_BETWEEN.join(values[:-1]), values[-1]) if len(values) > 1 else (_BETWEEN.join(values), "")
        squares.append(Square(cell, down, across, repeat, _BETWEEN.join(values), state))
    widest = max(Counter(s.place for s in squares).values(), default=1)
    labelled = len({s.down for s in squares}) <= MOST_DOWN and len({s.across for s in squares}) * widest <= MOST_ACROSS
    return HeatMap(
        "cells" if labelled else "strip",
        tuple(squares),
        columns,
        outside,
        per_square=1,
        _cells={cell: tuple(found) for cell, found in ids.items()},
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
    turns = [(stride(recipe, i), len(recipe.columns[i].values)) for i in pair]
    low, high = (Row.position // step % size for step, size in turns)
    counted = select(high, low, Row.state, func.count()).where(
        Row.dataset_id == dataset_id, Row.position < recipe.rows()
    )
    states: dict[int, Counter[str]] = {}
    for i, j, state, count in session.execute(counted.group_by(high, low, Row.state)):
        states.setdefault(i * len(across.values) + j, Counter())[state] += count
    each = recipe.rows() // (len(across.values) * len(down.values))
    squares = (
        _share(i * len(across.values) + j, value, other, f"{value}{_BETWEEN}{other}", each, states)
        for i, value in enumerate(down.values)
        for j, other in enumerate(across.values)
    )
    return HeatMap("pairs", tuple(squares), columns, outside, pair, choices, each, _turns=(turns[0], turns[1]))


def _blocks(session: Session, dataset_id: str, columns: tuple[str, ...], total: int, outside: int) -> HeatMap:
    size = -(-total // _BLOCKS)
    block = Row.position // size
    counted = select(block, Row.state, func.count()).where(Row.dataset_id == dataset_id, Row.position < total)
    states: dict[int, Counter[str]] = {}
    for i, state, count in session.execute(counted.group_by(block, Row.state)):
        states.setdefault(i, Counter())[state] += count

    def squares() -> Iterator[Square]:
        for i, start in enumerate(range(0, total, size)):
            rows = min(size, total - start)
            yield _share(i, "", "", f"{start + 1:,}–{start + rows:,}", rows, states)

    return HeatMap("blocks", tuple(squares()), columns, outside, per_square=size)


def _share(place: int, down: str, across: str, name: str, rows: int, states: Mapping[int, Counter[str]]) -> Square:
    counted = states.get(place, Counter())
    return Square(
        place,
        down,
        across,
        0,
        name,
        share=counted["done"] / rows if rows else 0.0,
        done=counted["done"],
        failed=counted["failed"],
        rows=rows,
    )
