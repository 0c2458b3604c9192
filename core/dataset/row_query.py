"""Rows as a person looks through them: by state, by words, by their place in the grid, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from core.dataset.recipe import Recipe
from core.db.store import Store
from core.db.tables import Row


@dataclass(frozen=True, slots=True)
class ValueFilter:
    """One digit of a place in the grid: rows whose `position // stride % size` is `index` have one value."""

    stride: int
    size: int
    index: int


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows. Everything that is given must hold; nothing given means all rows.

    Attributes:
        states: any of these; () for all.
        ids: only these rows.
        start, end: places from `start` to before `end`.
        turns: values of columns, as digits of the place in the grid.
        edited: only rows that a person has edited.
        words: only rows whose text or prompt has these words, as they stand (ASCII letters: either case).
    """

    states: tuple[str, ...] = ()
    ids: tuple[int, ...] | None = None
    start: int | None = None
    end: int | None = None
    turns: tuple[ValueFilter, ...] = ()
    edited: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True)
class ListedRow:
    """One row of a list. `original` is what the model wrote, where a person has edited the text."""

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
    """Rows in the order of the grid, only those that are in the ledger already."""
    query = select(Row).where(*_conditions(dataset_id, where)).order_by(Row.position, Row.id)
    with store.reading() as session:
        return [_listed(row) for row in session.scalars(query.limit(limit).offset(offset))]


def count(store: Store, dataset_id: str, where: RowFilter) -> int:
    """How many rows there are."""
    query = select(func.count()).select_from(Row).where(*_conditions(dataset_id, where))
    with store.reading() as session:
        return session.scalar(query) or 0


def edited(store: Store, dataset_id: str) -> int:
    """How many rows a person has edited."""
    return count(store, dataset_id, RowFilter(edited=True))


def stride(recipe: Recipe, column: int) -> int:
    """How many places stand between two values of a column: what turns faster than it, repeats among them."""
    step = recipe.repeats
    for later in recipe.columns[column + 1 :]:
        step *= len(later.values)
    return step


def _conditions(dataset_id: str, where: RowFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [Row.dataset_id == dataset_id]
    if where.states:
        found.append(Row.state.in_(where.states))
    if where.ids is not None:
        found.append(Row.id.in_(where.ids))
    if where.start is not None:
        found.append(Row.position >= where.start)
    if where.end is not None:
        found.append(Row.position < where.end)
    found += [Row.position // turn.stride % turn.size == turn.index for turn in where.turns]
    if where.edited:
        found.append(Row.original_text.is_not(None))
    if where.words:
        said, asked = (column.icontains(where.words, autoescape=True) for column in (Row.text, Row.prompt))
        found.append(said | asked)
    return found


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
