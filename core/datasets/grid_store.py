"""The grid in the database: cells become rows in chunks, and rows are counted by state. No requests are sent here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from core.datasets import grid
from core.datasets.recipe import Recipe
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadRecipe, NotFound
from core.message import msg

CHUNK = 1_000  # rows per transaction: about 50 ms, so that other writers do not wait long
INITIAL_ROWS = 5_000  # rows created when a data set is made, about 0.25 s; the run creates the rest
REPOSITION_ALL = -1  # the cursor at the start of `update_positions`


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a data set by state.

    `total` counts the whole grid, including cells without a row yet, and rows that are outside the grid after it
    changed.
    """

    total: int
    done: int
    failed: int
    sent: int
    excluded: int

    @property
    def pending(self) -> int:
        """Rows still to be written, including those in flight."""
        return self.total - self.done - self.failed - self.excluded


def recipe_of(session: Session, dataset_id: str) -> Recipe:
    """The recipe of a data set.

    Raises:
        NotFound: no such data set.
        BadRecipe: the data set was not made from a recipe.
    """
    row = session.execute(select(Dataset.recipe).where(Dataset.id == dataset_id)).first()
    if row is None:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    if row[0] is None:
        raise BadRecipe(
            msg("This data set was loaded, not generated: there is no recipe to write more rows with."),
            msg("Design a grid to generate rows."),
        )
    return Recipe.from_dict(row[0])


def fill(session: Session, dataset_id: str, recipe: Recipe, limit: int = CHUNK) -> int:
    """Create rows for the next missing cells of the grid. Returns their number (0: the grid is complete).

    At most `limit` cells are checked, from the first missing one on, to keep the transaction short. The data set's own
    recipe is used: `recipe` is what the caller read, and the grid may have grown since. (Also returns 0 while another
    session locks rows of a grid that is being changed.)

    Raises:
        NotFound: no such data set.
    """
    filled, recipe = lock_grid(session, dataset_id, recipe)
    while filled < 0:  # a `grow` is in progress or was interrupted: finish repositioning its rows first
        before, filled = filled, update_positions(session, dataset_id, recipe, filled)
        if filled == before:
            return 0
    start = _first_gap(session, dataset_id, filled, recipe.rows(), limit)
    end, now = min(start + limit, recipe.rows()), utcnow()
    in_range = _position_range(dataset_id, start, end)
    existing = set(session.scalars(select(Row.position).where(*in_range)))
    rows = [
        {
            "dataset_id": dataset_id,
            "key": grid.key(recipe, cell.values, cell.repeat),
            "position": cell.position,
            "repeat": cell.repeat,
            "column_values": dict(cell.values),
            "prompt": grid.render(recipe.template, cell.values),
            "state": "pending",
            "updated_at": now,
        }
        for cell in islice(grid.cells(recipe, start), end - start)
        if cell.position not in existing
    ]
    if rows:
        session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
    if end != filled:
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(filled=end))
    return len(rows)


def grid_size() -> ColumnElement[int]:
    """SQL expression: the number of rows in the data set's grid; null if it has no recipe."""
    size: ColumnElement[int] = Dataset.recipe["rows"].as_integer()
    return size


def counts(session: Session, dataset_ids: Sequence[str] | None = None) -> dict[str, Counts]:
    """Rows by state for the given data sets (default: all). Counted by the database."""
    outside_grid = select(func.count()).where(Row.dataset_id == Dataset.id, Row.position >= grid_size())
    totals = select(Dataset.id, grid_size(), outside_grid.correlate(Dataset).scalar_subquery())
    states = select(Row.dataset_id, Row.state, func.count()).group_by(Row.dataset_id, Row.state)
    if dataset_ids is not None:
        totals = totals.where(Dataset.id.in_(dataset_ids))
        states = states.where(Row.dataset_id.in_(dataset_ids))
    by_state: dict[str, dict[str, int]] = {}
    for dataset_id, state, count in session.execute(states):
        by_state.setdefault(dataset_id, {})[state] = count
    return {
        dataset_id: _counts((size or 0) + outside, by_state.get(dataset_id, {}))
        for dataset_id, size, outside in session.execute(totals)
    }


def _counts(total: int, by_state: Mapping[str, int]) -> Counts:
    return Counts(
        total=max(total, sum(by_state.values())),
        done=by_state.get("done", 0),
        failed=by_state.get("failed", 0),
        sent=by_state.get("sent", 0),
        excluded=by_state.get("excluded", 0),
    )


def lock_grid(session: Session, dataset_id: str, recipe: Recipe) -> tuple[int, Recipe]:
    """The fill cursor and recipe of a data set, locked until the end of this transaction."""
    query = select(Dataset.filled, Dataset.recipe).where(Dataset.id == dataset_id).with_for_update()
    row = session.execute(query).first()
    if row is None or row[1] is None:
        return 0, recipe_of(session, dataset_id)  # raises the reason
    return row[0], recipe if row[1] == recipe.to_dict() else Recipe.from_dict(row[1])


def _position_range(dataset_id: str, start: int, end: int) -> tuple[ColumnElement[bool], ...]:
    return Row.dataset_id == dataset_id, Row.position >= start, Row.position < end


def _first_gap(session: Session, dataset_id: str, start: int, end: int, step: int) -> int:
    """The first position where a row is missing, within a step of `step`; `end` if none is missing.

    Every row with a position inside the grid belongs to the cell at that position, so a range is complete if it has as
    many rows as positions. Complete ranges are skipped by counting, and the range doubles each time.
    """
    width = step
    while start < end:
        stop = min(start + width, end)
        count = session.scalar(select(func.count()).select_from(Row).where(*_position_range(dataset_id, start, stop)))
        if count == stop - start:
            start, width = stop, width * 2
        elif stop - start <= step:
            break
        else:
            width = max(step, (stop - start) // 2)
    return start


def update_positions(session: Session, dataset_id: str, recipe: Recipe, filled: int) -> int:
    """Set the positions of the next `CHUNK` rows for the data set's current grid. Returns the new cursor.

    While rows are being repositioned the cursor is negative: -n means that rows from id n on are still to be checked.
    """
    next_ids = select(Row.id).where(Row.dataset_id == dataset_id, Row.id >= -filled).order_by(Row.id).limit(CHUNK)
    ids = list(session.scalars(next_ids))
    query = select(Row.id, Row.position, Row.column_values, Row.repeat, Row.state, Row.text).where(Row.id.in_(ids))
    rows = session.execute(query.with_for_update(skip_locked=True)).all()  # waiting for a row lock here could deadlock
    position_of, size = grid.position_lookup(recipe), recipe.rows()
    moved, obsolete = [], []
    for row_id, position, values, repeat, state, text in rows:
        new = position_of(values, repeat)
        if new is None and state == "pending" and text is None:
            obsolete.append(row_id)
        elif (new := size + row_id if new is None else new) != position:
            moved.append({"row": row_id, "place": new})
    if moved:
        columns = Row.__table__.c
        statement = update(Row.__table__).where(columns.id == bindparam("row"))  # type: ignore[arg-type]  # a Table
        session.execute(statement.values(position=bindparam("place")), moved)
    if obsolete:
        session.execute(delete(Row).where(Row.id.in_(obsolete)))
    locked_by_others = set(ids) - {row.id for row in rows}
    cursor = -min(locked_by_others, default=ids[-1] + 1 if len(ids) == CHUNK else 0)
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(filled=cursor))
    return cursor
