"""Queries for the row list: filter by state, text or position in the grid, page by page."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from core.datasets.recipe import Recipe
from core.db.store import Store
from core.db.tables import Row


@dataclass(frozen=True, slots=True)
class ValueFilter:
    """Rows with one value of a column: those whose `position // stride % size` is `index`."""

    stride: int
    size: int
    index: int


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Filter for rows. All given conditions must hold; no conditions means all rows.

    Attributes:
        states: any of these; () for all.
        ids: only these rows.
        start, end: positions from `start` up to, but not including, `end`.
        value_filters: values of columns.
        edited: only rows edited by a user.
        words: only rows whose text or prompt contains this string (ASCII letters: ignoring case).
    """

    states: tuple[str, ...] = ()
    ids: tuple[int, ...] | None = None
    start: int | None = None
    end: int | None = None
    value_filters: tuple[ValueFilter, ...] = ()
    edited: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True)
class ListedRow:
    """A row of the list. `original`: the model's text, if a user has edited the row."""

    id: int
    position: int
    repeat: int
    values: dict[str, str]
    state: str
    reason: str | None
    text: str
    original: str | None
    finish_reason: str | None
    completion_tokens: int | None

    @property
    def edited(self) -> bool:
        return self.original is not None


def page(store: Store, dataset_id: str, where: RowFilter, *, limit: int = 50, offset: int = 0) -> list[ListedRow]:
    """Rows in grid order; only cells that already have a row."""
    query = select(Row).where(*_conditions(dataset_id, where)).order_by(Row.position, Row.id)
    with store.reading() as session:
        return [_listed(row) for row in session.scalars(query.limit(limit).offset(offset))]


def count(store: Store, dataset_id: str, where: RowFilter) -> int:
    """The number of rows."""
    query = select(func.count()).select_from(Row).where(*_conditions(dataset_id, where))
    with store.reading() as session:
        return session.scalar(query) or 0


def edited(store: Store, dataset_id: str) -> int:
    """The number of rows edited by a user."""
    return count(store, dataset_id, RowFilter(edited=True))


def stride(recipe: Recipe, column: int) -> int:
    """The number of positions between two values of a column: faster-varying sizes times repeats."""
    positions = recipe.repeats
    for faster in recipe.columns[column + 1 :]:
        positions *= len(faster.values)
    return positions


def _conditions(dataset_id: str, where: RowFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Row.dataset_id == dataset_id]
    if where.states:
        conditions.append(Row.state.in_(where.states))
    if where.ids is not None:
        conditions.append(Row.id.in_(where.ids))
    if where.start is not None:
        conditions.append(Row.position >= where.start)
    if where.end is not None:
        conditions.append(Row.position < where.end)
    conditions += [
        Row.position // value_filter.stride % value_filter.size == value_filter.index
        for value_filter in where.value_filters
    ]
    if where.edited:
        conditions.append(Row.original_text.is_not(None))
    if where.words:
        in_text, in_prompt = (column.icontains(where.words, autoescape=True) for column in (Row.text, Row.prompt))
        conditions.append(in_text | in_prompt)
    return conditions


def _listed(row: Row) -> ListedRow:
    return ListedRow(
        id=row.id,
        position=row.position,
        repeat=row.repeat,
        values={str(name): str(value) for name, value in row.column_values.items()},
        state=row.state,
        reason=row.reason,
        text=row.text or "",
        original=row.original_text,
        finish_reason=row.finish_reason,
        completion_tokens=row.completion_tokens,
    )
