"""The grid in the database: cells become rows in chunks, and rows are counted by state. No requests are sent here.

`grow` changes the grid of a data set: more repeats, more values. Written rows are kept; only missing rows are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import grid
from core.datasets.recipe import Recipe, unique_values
from core.db.store import Store
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadRecipe, NotFound
from core.message import listed, msg
from core.ownership import edits, reads

CHUNK = 1_000  # rows per transaction: about 50 ms, so that other writers do not wait long
INITIAL_ROWS = 5_000  # rows created when a data set is made, about 0.25 s; the run creates the rest
REPOSITION_ALL = -1  # the cursor at the start of `update_positions`

TEXT_SETTINGS = ("template", "system", "provider", "model", "temperature", "top_p", "max_tokens", "seed", "endpoint")


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


def fill(session: Session, dataset_id: str, recipe: Recipe, limit: int | None = None) -> int:
    """Create rows for the next missing cells of the grid. Returns their number (0: the grid is complete).

    At most `limit` cells (default: `CHUNK`) are checked, starting from the first missing one, to keep the transaction
    short. The data set's own recipe is used: `recipe` is what the caller read, and the grid may have grown since. (Also
    returns 0 while another session locks rows of a grid that is being changed.)

    Raises:
        NotFound: no such data set.
    """
    if recipe.listed:
        return 0  # all rows of a list exist from the beginning
    limit = CHUNK if limit is None else limit
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
        session.execute(update(Dataset).where(Dataset.id == dataset_id).values(fill_cursor=end))
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
    query = select(Dataset.fill_cursor, Dataset.recipe).where(Dataset.id == dataset_id).with_for_update()
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
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(fill_cursor=cursor))
    return cursor


@dataclass(frozen=True, slots=True)
class Growth:
    """The result of a change: the number of new rows, and of existing rows that were kept."""

    new_rows: int
    kept_rows: int


@requires("editor")
@edits(dataset="dataset_id")
@reads(model="recipe.model")
def grow(store: Store, actor: Actor, dataset_id: str, recipe: Recipe) -> Growth:
    """Extend a data set's grid with more values or repeats. Written rows are kept; only missing rows are added.

    Every row keeps its key, text and state, and gets its position in the new grid. Rows whose value or repeat is no
    longer in the recipe are moved to positions after the grid, or deleted if they were never written. The missing cells
    become rows when a run gets to them (`fill`). If this is interrupted, the next `grow` or `fill` finishes it;
    repeating it changes nothing. An active run writes the new cells too.

    Raises:
        NotFound: no such data set.
        BadRecipe: the data set has no recipe; or `recipe` is invalid, has other columns, or other text settings.
    """
    recipe.check()
    with store.session() as session:
        filled, current = lock_grid(session, dataset_id, recipe)
        _require_same_texts(current, recipe)
        recipe = replace(recipe, name=current.name)
        added = recipe.rows() - _common_rows(current, recipe)
        if recipe != current:
            changes = {"recipe": recipe.to_dict(), "fill_cursor": REPOSITION_ALL}
            session.execute(update(Dataset).where(Dataset.id == dataset_id).values(changes))
            filled = update_positions(session, dataset_id, recipe, REPOSITION_ALL)
    while filled < 0:
        with store.session() as session:
            filled, recipe = lock_grid(session, dataset_id, recipe)
            if filled < 0:
                filled = update_positions(session, dataset_id, recipe, filled)
    with store.reading() as session:
        kept_rows = session.scalar(select(func.count()).select_from(Row).where(Row.dataset_id == dataset_id)) or 0
    for _ in range(0, min(added, INITIAL_ROWS), CHUNK):
        with store.session() as session:
            fill(session, dataset_id, recipe)
    return Growth(new_rows=added, kept_rows=kept_rows)


def more_repeats(recipe: Recipe, k: int) -> Recipe:
    """The recipe with `k` more repeats of every cell; check it before use."""
    return replace(recipe, repeats=recipe.repeats + k)


def with_values(recipe: Recipe, column: str, values: Sequence[str]) -> Recipe:
    """The recipe with more values in one column, after the existing ones. Existing values are not added again.

    Raises:
        BadRecipe: there is no such column, or no new value.
    """
    old = next((c for c in recipe.columns if c.name == column), None)
    if old is None:
        raise BadRecipe(
            msg("There is no column {column}.", column=repr(column)), msg("Choose one of the data set's columns.")
        )
    new = [value for value in unique_values(values, old.values) if value not in old.values]
    if not new:
        raise BadRecipe(
            msg("There is no new value to add."), msg("Enter a value that {column} does not have yet.", column=column)
        )
    grown = replace(old, values=(*old.values, *new))
    return replace(recipe, columns=tuple(grown if c is old else c for c in recipe.columns))


def _require_same_texts(current: Recipe, recipe: Recipe) -> None:
    """Raise BadRecipe unless `recipe` has the same columns and text settings as `current`."""
    if current.listed:
        raise BadRecipe(
            msg("The prompts of this data set come from a list, so it has no grid to extend."),
            msg("Start another list; both can be mixed later."),
        )
    if [c.name for c in current.columns] != [c.name for c in recipe.columns]:
        raise BadRecipe(
            msg("A data set's columns can't change once it has rows."),
            msg("Save this as a new data set; both can be mixed later."),
        )
    changed = [name for name in TEXT_SETTINGS if getattr(current, name) != getattr(recipe, name)]
    if changed:
        raise BadRecipe(
            msg(
                "The rows of this data set were written with different settings: {changed} differs.",
                changed=listed(changed),
            ),
            msg("Save this as a new data set; both can be mixed later."),
        )


def _common_rows(current: Recipe, recipe: Recipe) -> int:
    """Number of rows that are in both grids."""
    count = min(current.repeats, recipe.repeats)
    for old, new in zip(current.columns, recipe.columns, strict=True):
        count *= len(set(old.values) & set(new.values))
    return count
