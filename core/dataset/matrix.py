"""The grid in the database: its cells become rows bit by bit, and are counted by state. Nothing is bought here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import ColumnElement, func, insert, select
from sqlalchemy.orm import Session

from core.dataset import grid
from core.dataset.recipe import Recipe
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadRecipe, NotFound

CHUNK = 1_000  # rows in one transaction: about 50 ms, so that no other writer waits long


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a data set by state. `total` counts the whole grid, also the part that is not in the ledger yet."""

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
        raise NotFound("This data set is not there any more.", "Choose another one.")
    if found[0] is None:
        raise BadRecipe(
            "This data set was loaded, not generated: there is no recipe to write more rows with.",
            "Design a grid to generate rows.",
        )
    return Recipe.from_dict(found[0])


def fill(session: Session, dataset_id: str, recipe: Recipe, most: int = CHUNK) -> int:
    """Put the next `most` cells of the grid into the ledger; how many there were (0: the grid is all there)."""
    session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())  # one filler at a time
    last = session.scalar(select(func.max(Row.position)).where(Row.dataset_id == dataset_id))
    start, now = 0 if last is None else last + 1, utcnow()
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
        for cell in islice(grid.cells(recipe, start), most)
    ]
    if rows:
        session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
    return len(rows)


def grid_size() -> ColumnElement[int]:
    """Column: how many rows the data set's grid has; null when it did not grow from one."""
    size: ColumnElement[int] = Dataset.recipe["rows"].as_integer()
    return size


def counts(session: Session, dataset_ids: Sequence[str] | None = None) -> dict[str, Counts]:
    """Rows by state for the given data sets (all of them by default). Counted by the database, never loaded."""
    totals = select(Dataset.id, grid_size())
    states = select(Row.dataset_id, Row.state, func.count()).group_by(Row.dataset_id, Row.state)
    if dataset_ids is not None:
        totals = totals.where(Dataset.id.in_(dataset_ids))
        states = states.where(Row.dataset_id.in_(dataset_ids))
    found: dict[str, dict[str, int]] = {}
    for dataset_id, state, count in session.execute(states):
        found.setdefault(dataset_id, {})[state] = count
    return {dataset_id: _counts(total, found.get(dataset_id, {})) for dataset_id, total in session.execute(totals)}


def _counts(total: int | None, by_state: Mapping[str, int]) -> Counts:
    return Counts(
        total=max(total or 0, sum(by_state.values())),
        done=by_state.get("done", 0),
        failed=by_state.get("failed", 0),
        sent=by_state.get("sent", 0),
        excluded=by_state.get("excluded", 0),
    )
