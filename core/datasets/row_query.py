"""The rows of a data set: filtered by state, text or position in the grid; finished ones as training pairs and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from core.datasets.recipe import Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import NotFound
from core.message import msg
from core.sanitize import safe_cell


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
        states: any of these; None for all.
        ids: only these rows.
        start, end: positions from `start` up to, but not including, `end`.
        value_filters: values of columns.
        edited: only rows edited by a user.
        words: only rows whose text or prompt contains this string (ASCII letters: ignoring case).
    """

    states: tuple[str, ...] | None = None
    ids: tuple[int, ...] | None = None
    start: int | None = None
    end: int | None = None
    value_filters: tuple[ValueFilter, ...] = ()
    edited: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True)
class RowView:
    """A row for display.

    Attributes:
        reason: why it failed or was excluded; its text, if any, is kept.
        original: the model's text, if a user has edited the row.
    """

    id: int
    position: int
    repeat: int
    values: dict[str, str]
    prompt: str
    state: str
    reason: str | None
    text: str | None
    original: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    updated_at: datetime

    @property
    def edited(self) -> bool:
        return self.original is not None


def page(
    store: Store, dataset_id: str, where: RowFilter, *, newest: bool = False, limit: int = 50, offset: int = 0
) -> list[RowView]:
    """Rows in grid order, or the most recently changed first. Only cells that already have a row."""
    query = select(Row).where(*_conditions(dataset_id, where))
    query = query.order_by(Row.updated_at.desc(), Row.id.desc()) if newest else query.order_by(Row.position, Row.id)
    with store.reading() as session:
        return [_view(row) for row in session.scalars(query.limit(limit).offset(offset))]


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


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """Finished rows as (prompt, completion) pairs for training. Iterating reads them as a stream, each time again.

    Rows that are held out or used for validation are not included.

    Raises:
        NotFound: on iteration: the data set does not exist (any more).
    """

    store: Store
    dataset_id: str

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with self.store.reading() as session:
            dataset = _require(session.get(Dataset, self.dataset_id))
            training = _finished_rows(self.dataset_id).where(Row.split.is_(None) | (Row.split == "train"))
            for values, text, _split in session.execute(training):
                yield prompt_of(dataset, values), text or ""


def examples(store: Store, dataset_id: str) -> list[tuple[str, str]]:
    """`TrainingExamples` as a list, for data sets that fit in memory."""
    return list(TrainingExamples(store, dataset_id))


def prompt_of(dataset: Dataset, values: Mapping[str, Any]) -> str:
    """The training prompt of a row: its values, joined by the data set's separator (by default a comma)."""
    return join_values((str(values.get(column, "")) for column in dataset.columns), dataset.prompt_separator)


def join_values(values: Iterable[str], separator: str) -> str:
    """Column values joined to one text; empty values add no separator."""
    return separator.join(value for value in values if value.strip())


def to_csv(store: Store, dataset_id: str) -> str:
    """Finished rows as CSV in the article's format: an unnamed index, the columns, then the story.

    Cells that a spreadsheet would interpret as a formula are prefixed with `'`. If rows have a split, a last column
    `split` is added.
    """
    return "".join(csv_lines(store, dataset_id))


def csv_lines(store: Store, dataset_id: str) -> Iterator[str]:
    """`to_csv` line by line, for files larger than memory."""
    with store.reading() as session:
        columns = list(_require(session.get(Dataset, dataset_id)).columns)
        first = session.execute(_finished_rows(dataset_id).limit(1)).first()
        columns += [name for name in (first[0] if first else ()) if name not in columns]
        with_split = _finished_rows(dataset_id).where(Row.split.is_not(None)).limit(1)
        split_column = ["split"] if session.execute(with_split).first() and "split" not in columns else []
        yield csv_line(["", *columns, "story" if "story" not in columns else "completion", *split_column])
        for index, (values, text, split) in enumerate(session.execute(_finished_rows(dataset_id))):
            cells = [str(values.get(c, "")) for c in columns]
            yield csv_line([str(index), *cells, text or "", *([split or ""] if split_column else [])])


def csv_line(cells: Sequence[str]) -> str:
    """One line of CSV, including the line end; formulas are escaped."""
    line = io.StringIO()
    # With "\r\n" as line end it quotes both CR and LF in cells.
    csv.writer(line).writerow([safe_cell(c) for c in cells])
    return line.getvalue().removesuffix("\r\n") + "\n"


def _finished_rows(dataset_id: str) -> Select[tuple[dict[str, Any], str | None, str | None]]:
    query = select(Row.column_values, Row.text, Row.split).where(Row.dataset_id == dataset_id, Row.state == "done")
    return query.order_by(Row.position, Row.id).execution_options(yield_per=1_000)


def _require(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    return dataset


def _conditions(dataset_id: str, where: RowFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Row.dataset_id == dataset_id]
    if where.states is not None:
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


def _view(row: Row) -> RowView:
    return RowView(
        id=row.id,
        position=row.position,
        repeat=row.repeat,
        values={str(name): str(value) for name, value in row.column_values.items()},
        prompt=row.prompt,
        state=row.state,
        reason=row.reason,
        text=row.text,
        original=row.original_text,
        finish_reason=row.finish_reason,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_usd=row.cost_usd,
        updated_at=row.updated_at,
    )
