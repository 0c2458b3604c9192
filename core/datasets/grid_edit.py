"""Changing the grid of a data set: more repeats, more values. Written rows are kept; only missing rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select, update

from core.actor import Actor
from core.datasets import grid_store
from core.datasets.recipe import Recipe, unique_values
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import BadRecipe
from core.message import msg

TEXT_SETTINGS = ("template", "system", "provider", "model", "temperature", "top_p", "max_tokens", "seed", "endpoint")


@dataclass(frozen=True, slots=True)
class Growth:
    """The result of a change: the number of new rows, and of existing rows that were kept."""

    new_rows: int
    kept_rows: int


def grow(store: Store, actor: Actor, dataset_id: str, recipe: Recipe) -> Growth:
    """Give the grid of a data set more values or repeats. Written rows are kept; only missing rows are added.

    Every row keeps its key, text and state, and gets its position in the new grid. Rows whose value or repeat is no
    longer in the recipe are moved behind the grid; those of them that were never written are deleted. The missing cells
    become rows when a run gets to them (`fill`). If this is interrupted, the next `grow` or `fill` finishes it;
    repeating it changes nothing. An active run writes the new cells too.

    Raises:
        NotFound: no such data set.
        BadRecipe: the data set has no recipe; or `recipe` is invalid, has other columns, or other text settings.
    """
    recipe.check()
    with store.session() as session:
        filled, current = grid_store.lock_grid(session, dataset_id, recipe)
        _require_same_texts(current, recipe)
        recipe = replace(recipe, name=current.name)
        added = recipe.rows() - _common_rows(current, recipe)
        if recipe != current:
            changes = {"recipe": recipe.to_dict(), "filled": grid_store.REPOSITION_ALL}
            session.execute(update(Dataset).where(Dataset.id == dataset_id).values(changes))
            filled = grid_store.update_positions(session, dataset_id, recipe, grid_store.REPOSITION_ALL)
    while filled < 0:
        with store.session() as session:
            filled, recipe = grid_store.lock_grid(session, dataset_id, recipe)
            if filled < 0:
                filled = grid_store.update_positions(session, dataset_id, recipe, filled)
    with store.reading() as session:
        kept_rows = session.scalar(select(func.count()).select_from(Row).where(Row.dataset_id == dataset_id)) or 0
    for _ in range(0, min(added, grid_store.INITIAL_ROWS), grid_store.CHUNK):
        with store.session() as session:
            grid_store.fill(session, dataset_id, recipe)
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
    if [c.name for c in current.columns] != [c.name for c in recipe.columns]:
        raise BadRecipe(
            msg("A data set's columns can't change once it has rows."),
            msg("Save this as a new data set; both can be mixed later."),
        )
    changed = [name for name in TEXT_SETTINGS if getattr(current, name) != getattr(recipe, name)]
    if changed:
        raise BadRecipe(
            msg(
                "The rows of this data set were written with other settings: {changed} differs.",
                changed=", ".join(changed),
            ),
            msg("Save this as a new data set; both can be mixed later."),
        )


def _common_rows(current: Recipe, recipe: Recipe) -> int:
    """Number of rows that are in both grids."""
    count = min(current.repeats, recipe.repeats)
    for old, new in zip(current.columns, recipe.columns, strict=True):
        count *= len(set(old.values) & set(new.values))
    return count
