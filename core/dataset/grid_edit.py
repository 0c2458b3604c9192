"""A grid that grows: more repeats, more values. What is bought stays; only what is missing is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select, update

from core.actor import Actor
from core.dataset import grid_store
from core.dataset.recipe import Recipe, distinct
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import BadRecipe
from core.message import msg

SHAPING = ("template", "system", "provider", "model", "temperature", "top_p", "max_tokens", "seed", "endpoint")


@dataclass(frozen=True, slots=True)
class Growth:
    """What a grown grid has that it did not have before, and how many rows of the ledger it has kept."""

    new_rows: int
    kept_rows: int


def grow(store: Store, actor: Actor, dataset_id: str, recipe: Recipe) -> Growth:
    """Let the grid of a data set have more values or repeats; what is bought stays, only what is missing is added.

    Every row keeps its key, text and state, and gets its place in the new grid. Rows whose value (or repeat) `recipe`
    has no more stand after the grid with all they have; those of them that were still to be written hold nothing, and
    go. The missing cells become rows as a run comes to them (`fill`). Cut short at any moment, it is finished by the
    next `grow` or `fill`; done twice, it changes nothing. A run that is under way writes the new cells too.

    Raises:
        NotFound: no such data set.
        BadRecipe: it did not grow from a recipe; `recipe` cannot be run, has other columns, or writes other texts.
    """
    recipe.check()
    with store.session() as session:
        filled, held = grid_store.locked(session, dataset_id, recipe)
        _must_continue(held, recipe)
        recipe = replace(recipe, name=held.name)
        added = recipe.rows() - _common_rows(held, recipe)
        if recipe != held:
            kept = {"recipe": recipe.to_dict(), "filled": grid_store.FROM_THE_FIRST_ROW}
            session.execute(update(Dataset).where(Dataset.id == dataset_id).values(kept))
            filled = grid_store.update_positions(session, dataset_id, recipe, grid_store.FROM_THE_FIRST_ROW)
    while filled < 0:
        with store.session() as session:
            filled, recipe = grid_store.locked(session, dataset_id, recipe)
            if filled < 0:
                filled = grid_store.update_positions(session, dataset_id, recipe, filled)
    with store.reading() as session:
        kept_rows = session.scalar(select(func.count()).select_from(Row).where(Row.dataset_id == dataset_id)) or 0
    for _ in range(0, min(added, grid_store.AT_ONCE), grid_store.CHUNK):
        with store.session() as session:
            grid_store.fill(session, dataset_id, recipe)
    return Growth(new_rows=added, kept_rows=kept_rows)


def more_repeats(recipe: Recipe, k: int) -> Recipe:
    """The recipe with `k` more repeats of every cell; check it before use."""
    return replace(recipe, repeats=recipe.repeats + k)


def with_value(recipe: Recipe, column: str, values: Sequence[str]) -> Recipe:
    """The recipe with more values in one column, after those it has; one that is there already is not added again.

    Raises:
        BadRecipe: there is no such column, or no new value.
    """
    old = next((c for c in recipe.columns if c.name == column), None)
    if old is None:
        raise BadRecipe(
            msg("There is no column {column}.", column=repr(column)), msg("Choose one of the data set's columns.")
        )
    new = [value for value in distinct(values, old.values) if value not in old.values]
    if not new:
        raise BadRecipe(
            msg("There is no new value to add."), msg("Enter a value that {column} does not have yet.", column=column)
        )
    grown = replace(old, values=(*old.values, *new))
    return replace(recipe, columns=tuple(grown if c is old else c for c in recipe.columns))


def _must_continue(held: Recipe, recipe: Recipe) -> None:
    """Raise BadRecipe unless `recipe` writes the same texts as `held`, only more or fewer of them."""
    if [c.name for c in held.columns] != [c.name for c in recipe.columns]:
        raise BadRecipe(
            msg("A data set's columns can't change once it has rows."),
            msg("Save this as a new data set; both can be mixed later."),
        )
    changed = [name for name in SHAPING if getattr(held, name) != getattr(recipe, name)]
    if changed:
        raise BadRecipe(
            msg(
                "The rows of this data set were written in another way: {changed} differs.", changed=", ".join(changed)
            ),
            msg("Save this as a new data set; both can be mixed later."),
        )


def _common_rows(held: Recipe, recipe: Recipe) -> int:
    """How many rows are in both grids."""
    count = min(held.repeats, recipe.repeats)
    for old, new in zip(held.columns, recipe.columns, strict=True):
        count *= len(set(old.values) & set(new.values))
    return count
