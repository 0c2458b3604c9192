"""The grid in the database: its cells become rows bit by bit, and are counted by state. Nothing is bought here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from core.dataset import grid
from core.dataset.recipe import Recipe
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadRecipe, NotFound
from core.message import msg

CHUNK = 1_000  # rows in one transaction: about 50 ms, so that no other writer waits long
AT_ONCE = 5_000  # rows that a click waits for, a quarter of a second; the run puts the rest of the grid in its place
FROM_THE_FIRST_ROW = -1  # the cursor while rows get new places, see `update_positions`


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a data set by state.

    `total` counts the whole grid, also the part that is not in the ledger yet, and the rows that stand outside of it
    since the grid has changed.
    """

    total: int
    done: int
    failed: int
    sent: int
    excluded: int

    @property
    def pending(self) -> int:
        """Rows that are still to be written, those on their way among them."""
        return self.total - self.done - self.failed - self.excluded


def recipe_of(session: Session, dataset_id: str) -> Recipe:
    """The recipe of a data set.

    Raises:
        NotFound: no such data set.
        BadRecipe: it did not grow from a recipe.
    """
    found = session.execute(select(Dataset.recipe).where(Dataset.id == dataset_id)).first()
    if found is None:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    if found[0] is None:
        raise BadRecipe(
            msg("This data set was loaded, not generated: there is no recipe to write more rows with."),
            msg("Design a grid to generate rows."),
        )
    return Recipe.from_dict(found[0])


def fill(session: Session, dataset_id: str, recipe: Recipe, most: int = CHUNK) -> int:
    """Put the next missing cells of the grid into the ledger; how many there were (0: the grid is all there).

    At most `most` cells are looked at from the first missing one on, so that a transaction stays short. The data set's
    own recipe counts: `recipe` is what the caller took for it, and the set may have grown since. (The answer is also 0
    in a moment in which another session holds rows of a grid that is just growing.)

    Raises:
        NotFound: no such data set.
    """
    filled, recipe = locked(session, dataset_id, recipe)
    while filled < 0:  # a `grow` that is under way, or was cut short: its rows are put in their places first
        before, filled = filled, update_positions(session, dataset_id, recipe, filled)
        if filled == before:
            return 0
    start = _first_gap(session, dataset_id, filled, recipe.rows(), most)
    end, now = min(start + most, recipe.rows()), utcnow()
    there = _between(dataset_id, start, end)
    taken = set(session.scalars(select(Row.position).where(*there)))
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
        if cell.position not in taken
    ]
    if rows:
        session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
    if end != filled:
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(filled=end))
    return len(rows)


def grid_size() -> ColumnElement[int]:
    """Column: how many rows the data set's grid has; null when it did not grow from one."""
    size: ColumnElement[int] = Dataset.recipe["rows"].as_integer()
    return size


def counts(session: Session, dataset_ids: Sequence[str] | None = None) -> dict[str, Counts]:
    """Rows by state for the given data sets (all of them by default). Counted by the database, never loaded."""
    beside = select(func.count()).where(Row.dataset_id == Dataset.id, Row.position >= grid_size())
    totals = select(Dataset.id, grid_size(), beside.correlate(Dataset).scalar_subquery())
    states = select(Row.dataset_id, Row.state, func.count()).group_by(Row.dataset_id, Row.state)
    if dataset_ids is not None:
        totals = totals.where(Dataset.id.in_(dataset_ids))
        states = states.where(Row.dataset_id.in_(dataset_ids))
    found: dict[str, dict[str, int]] = {}
    for dataset_id, state, count in session.execute(states):
        found.setdefault(dataset_id, {})[state] = count
    return {
        dataset_id: _counts((size or 0) + outside, found.get(dataset_id, {}))
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


def locked(session: Session, dataset_id: str, recipe: Recipe) -> tuple[int, Recipe]:
    """Cursor and recipe of a data set that nobody else fills or lets grow until this transaction ends."""
    query = select(Dataset.filled, Dataset.recipe).where(Dataset.id == dataset_id).with_for_update()
    found = session.execute(query).first()
    if found is None or found[1] is None:
        return 0, recipe_of(session, dataset_id)  # which says why there is none
    return found[0], recipe if found[1] == recipe.to_dict() else Recipe.from_dict(found[1])


def _between(dataset_id: str, start: int, end: int) -> tuple[ColumnElement[bool], ...]:
    return Row.dataset_id == dataset_id, Row.position >= start, Row.position < end


def _first_gap(session: Session, dataset_id: str, start: int, end: int, step: int) -> int:
    """From where on a row is missing within the next `step` places; `end` when none is missing at all.

    A row whose position is inside the grid is the row of that cell, so a stretch is complete when its rows are as many
    as its places: a long one is skipped by counting it. The stretch doubles while it is complete.
    """
    width = step
    while start < end:
        stop = min(start + width, end)
        there = session.scalar(select(func.count()).select_from(Row).where(*_between(dataset_id, start, stop)))
        if there == stop - start:
            start, width = stop, width * 2
        elif stop - start <= step:
            break
        else:
            width = max(step, (stop - start) // 2)
    return start


def update_positions(session: Session, dataset_id: str, recipe: Recipe, filled: int) -> int:
    """Give the next `CHUNK` rows their places in the grid that the data set has now; the new cursor.

    While rows are being placed, the cursor is negative: -n says that those from id n on are still to be looked at.
    """
    next_ids = select(Row.id).where(Row.dataset_id == dataset_id, Row.id >= -filled).order_by(Row.id).limit(CHUNK)
    ids = list(session.scalars(next_ids))
    query = select(Row.id, Row.position, Row.column_values, Row.repeat, Row.state, Row.text).where(Row.id.in_(ids))
    found = session.execute(query.with_for_update(skip_locked=True)).all()  # waiting for a row here could be a deadlock
    place, size = grid.placer(recipe), recipe.rows()
    moved, gone = [], []
    for row_id, position, values, repeat, state, text in found:
        new = place(values, repeat)
        if new is None and state == "pending" and text is None:
            gone.append(row_id)
        elif (new := size + row_id if new is None else new) != position:
            moved.append({"row": row_id, "place": new})
    if moved:
        rows = Row.__table__.c
        moving = update(Row.__table__).where(rows.id == bindparam("row"))  # type: ignore[arg-type]  # a Table
        session.execute(moving.values(position=bindparam("place")), moved)
    if gone:
        session.execute(delete(Row).where(Row.id.in_(gone)))
    held_by_others = set(ids) - {row.id for row in found}
    cursor = -min(held_by_others, default=ids[-1] + 1 if len(ids) == CHUNK else 0)
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(filled=cursor))
    return cursor
