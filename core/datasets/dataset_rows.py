"""The rows of a data set: filtered by state, text or position in the grid; left out, restored and edited by hand.

A row that is left out keeps its previous state, and an edited row keeps the model's text, so every change can be
undone. Every action is idempotent. Rows in flight are not changed, so that an answer never overwrites a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets.recipe import Recipe
from core.db.store import Store, in_chunks
from core.db.tables import Dataset, Row, utcnow
from core.errors import FabulaError, NotFound
from core.message import Message, msg
from core.ownership import edits
from core.sanitize import storable

MAX_CHARACTERS = 100_000  # per text, the same as for imported files: longer than any model trains on
BY_HAND = msg("Left out by hand.")
# Parts of reasons that earlier versions stored as plain text.
_FAILED_PREFIX, _LEFT_OUT_SEPARATOR = "It had failed: ", " Left out: "
_EMPTY = msg("The completion is empty.")


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
        states: any of these; None means all.
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


_ALL_ROWS = RowFilter()


def page(
    store: Store,
    dataset_id: str,
    where: RowFilter = _ALL_ROWS,
    *,
    newest: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> list[RowView]:
    """Rows in grid order, or the most recently changed first. Cells without a row are not included."""
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
    """The number of positions between two values of a column: the sizes of the faster-varying columns times the
    repeats.
    """
    positions = recipe.repeats
    for faster in recipe.columns[column + 1 :]:
        positions *= len(faster.values)
    return positions


def require_dataset(session: Session, dataset_id: str) -> Dataset:
    """A data set.

    Raises:
        NotFound: it does not exist.
    """
    dataset = session.get(Dataset, dataset_id)
    if dataset is None:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    return dataset


def prompt_of(dataset: Dataset, values: Mapping[str, Any]) -> str:
    """The training prompt of a row: its values, joined by the data set's separator (by default a comma)."""
    return join_values((str(values.get(column, "")) for column in dataset.columns), dataset.prompt_separator)


def join_values(values: Iterable[str], separator: str) -> str:
    """Column values joined to one text; empty values add no separator."""
    return separator.join(value for value in values if value.strip())


def text_values(values: Mapping[str, Any]) -> dict[str, str]:
    """Column values as they are stored, as texts by column name."""
    return {str(name): str(value) for name, value in values.items()}


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
        values=text_values(row.column_values),
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


@requires("editor")
@edits(row="row_ids[]")
def exclude(store: Store, actor: Actor, row_ids: Sequence[int], reason: str) -> tuple[int, ...]:
    """Leave rows out of training and export. Returns the ids of the rows changed by this call, for undoing it.

    Rows that are already left out, or in flight, stay as they are. Text, usage and cost are kept, as is a failed row's
    reason.

    Args:
        reason: a sentence, ending in a full stop.
    """
    why = storable(reason if isinstance(reason, Message) else reason.strip()) or BY_HAND
    changed: list[int] = []
    for chunk in _sorted_chunks(row_ids):
        with store.session() as session:
            query = select(Row.id, Row.reason).where(Row.id.in_(chunk), Row.state.not_in(("excluded", "sent")))
            rows = session.execute(query.order_by(Row.id).with_for_update()).all()
            for previous in {previous for _, previous in rows}:
                new_reason = msg("It had failed: {was} Left out: {why}", was=previous, why=why) if previous else why
                statement = update(Row).where(Row.id.in_([id_ for id_, row_reason in rows if row_reason == previous]))
                # An edited row that had failed keeps that state.
                previous_state = func.coalesce(Row.previous_state, Row.state)
                values = {
                    "state": "excluded",
                    "previous_state": previous_state,
                    "reason": new_reason,
                    "updated_at": utcnow(),
                }
                session.execute(statement.values(values))
            changed += [id_ for id_, _ in rows]
    return tuple(changed)


@requires("editor")
@edits(row="row_ids[]")
def restore(store: Store, actor: Actor, row_ids: Sequence[int]) -> tuple[int, ...]:
    """Restore rows to their state before they were left out. Returns the ids of the rows changed by this call.

    A row loaded from a file without a completion cannot be restored: edit its text first.
    """
    changed: list[int] = []
    for chunk in _sorted_chunks(row_ids):
        with store.session() as session:
            query = select(Row).where(Row.id.in_(chunk), Row.state == "excluded").order_by(Row.id).with_for_update()
            for row in session.scalars(query):
                if row.previous_state is not None or (row.text or "").strip():
                    row.reason = _reason_before(row.reason)
                    row.state, row.previous_state = _previous_state(row)
                    row.updated_at = utcnow()
                    changed.append(row.id)
    return tuple(changed)


@requires("editor")
@edits(row="row_id")
def edit(store: Store, actor: Actor, row_id: int, text: str) -> bool:
    """Replace the model's text with a user's text; the original is kept. Returns True if anything changed.

    A failed row with a new text becomes finished. Setting the model's own text again makes the row unedited.

    Raises:
        NotFound: no such row.
        FabulaError: the row is pending or in flight; or the text is empty or too long.
    """
    text = storable(text)
    with store.session() as session:
        row = _editable(session, row_id)
        if text == (row.text or ""):
            return False
        if not text.strip():
            raise FabulaError(msg("A model learns nothing from a row without text."), msg("Leave the row out instead."))
        if len(text) > MAX_CHARACTERS:
            raise FabulaError(
                msg("The text is longer than {value} characters.", value=f"{MAX_CHARACTERS:,}"), msg("Shorten it.")
            )
        if row.original_text is not None and text == row.original_text:
            return _revert(row)
        if row.original_text is None:
            row.original_text = row.text or ""
            if row.state == "failed":
                row.state, row.previous_state = "done", "failed"
        row.text, row.updated_at = text, utcnow()
        return True


@requires("editor")
@edits(row="row_id")
def revert(store: Store, actor: Actor, row_id: int) -> bool:
    """Restore the model's text of an edited row. Returns True if anything changed.

    Raises:
        NotFound: no such row.
    """
    with store.session() as session:
        return _revert(_row(session, row_id))


def with_original_whitespace(before: str, text: str) -> str:
    """`text` with the outer white space of `before` (stories of the 2023 article start with two newlines)."""
    bare = before.strip()
    if not bare or not text.strip():
        return text
    start = before.index(bare)
    return before[:start] + text.strip() + before[start + len(bare) :]


def _editable(session: Session, row_id: int) -> Row:
    row = _row(session, row_id)
    if row.state == "sent":
        raise FabulaError(
            msg("This row is being written."), msg("Wait until the row is written, or stop the run first.")
        )
    if "pending" in (row.state, row.previous_state):
        raise FabulaError(msg("This row is not written yet."), msg("Write the story first, then edit it."))
    return row


def _row(session: Session, row_id: int) -> Row:
    row = session.get(Row, row_id, with_for_update=True)
    if row is None:
        raise NotFound(msg("This row no longer exists."), msg("Refresh the list."))
    return row


def _revert(row: Row) -> bool:
    if row.original_text is None:
        return False
    row.text, row.original_text, row.updated_at = row.original_text, None, utcnow()
    if not row.text.strip() and row.previous_state != "failed":  # loaded from a file without a completion
        row.state, row.previous_state, row.reason = "excluded", None, _EMPTY
    elif row.state != "excluded":
        row.state, row.previous_state = row.previous_state or "done", None
    return True


def _previous_state(row: Row) -> tuple[str, str | None]:
    """The state of a restored row, and its `previous_state`: "failed" if a user edited the failed row, else None."""
    if row.original_text is None:
        return row.previous_state or "done", None
    return "done", "failed" if row.previous_state == "failed" else None


def _reason_before(reason: str | None) -> str | None:
    if isinstance(reason, Message):
        was = reason.params.get("was")
        return was if isinstance(was, str) else None
    if reason is None or not reason.startswith(_FAILED_PREFIX) or _LEFT_OUT_SEPARATOR not in reason:
        return None
    return reason.removeprefix(_FAILED_PREFIX).rpartition(_LEFT_OUT_SEPARATOR)[0]


def _sorted_chunks(row_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return in_chunks(sorted(set(row_ids)))  # always in the same order, which prevents deadlocks
