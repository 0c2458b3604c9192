"""Saved recipes: every change is a version, a copy begins its own family, nothing that is deleted is gone for good."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.dataset.generation.response_classification import storable
from core.dataset.recipe import Recipe
from core.db import tables
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Dataset, utcnow
from core.errors import BadRecipe, NotFound
from core.message import msg

_LONGEST_NAME = 200  # characters, as the table has it
_SHOWN = (  # what a list shows: the fields of SavedRecipe, in their order
    tables.RecipeVersion.id,
    tables.RecipeVersion.family,
    tables.RecipeVersion.version,
    tables.RecipeVersion.name,
    tables.RecipeVersion.recipe["rows"].as_integer(),
    tables.RecipeVersion.copied_from,
    tables.RecipeVersion.created_at,
    tables.RecipeVersion.created_by,
)


@dataclass(frozen=True, slots=True)
class SavedRecipe:
    """One version of a saved recipe.

    Attributes:
        id: of this version; family: what all its versions share; version: from 1.
        name: of the family, and of the data sets that begin with it.
        rows: how many rows its grid has.
        copied_from: id of the version that the family began as a copy of, or None.
    """

    id: str
    family: str
    version: int
    name: str
    rows: int
    copied_from: str | None
    created_at: datetime
    created_by: str


def save(store: Store, actor: Actor, recipe: Recipe, family: str | None = None) -> str:
    """Keep a recipe, runnable yet or not; the id of its version.

    With a `family` it becomes that family's next version, or is the newest one when nothing but the name differs (the
    family then takes the new name). Without one it begins a family, unless a recipe just like it, name and all, is the
    newest of some family: saving twice saves once.

    Raises:
        BadRecipe: it has no name.
        NotFound: there is no such family (any more).
    """
    recipe = replace(recipe, name=_name(recipe.name))
    with store.session() as session:
        advisory_lock(session, f"recipes {family or recipe.name}")
        if family is None:
            namesakes = _newest(tables.RecipeVersion).where(tables.RecipeVersion.name == recipe.name)
            same = next((row for row in session.scalars(namesakes) if _recipe(row) == recipe), None)
            return same.id if same is not None else _add(session, actor, recipe, new_id(), 1, None)
        newest = _newest_of(session, family)
        if newest.name != recipe.name:
            _set(session, family, name=recipe.name)
        if replace(_recipe(newest), name=recipe.name) == recipe:
            return newest.id
        return _add(session, actor, recipe, family, newest.version + 1, newest.copied_from)


def copy(store: Store, actor: Actor, recipe_id: str, name: str) -> str:
    """A family of its own that begins with this version; the new id.

    Raises:
        BadRecipe: no name.
        NotFound: no such recipe (any more).
    """
    with store.session() as session:
        original = _row(session, recipe_id)
        return _add(session, actor, replace(_recipe(original), name=_name(name)), new_id(), 1, original.id)


def rename(store: Store, actor: Actor, family: str, name: str) -> None:
    """Call the family something else. That is no new version: what is written stays the same.

    Raises:
        BadRecipe: no name.
        NotFound: no such family (any more).
    """
    with store.session() as session:
        _newest_of(session, family)
        _set(session, family, name=_name(name))


def delete(store: Store, actor: Actor, family: str) -> None:
    """Take a family off the list; `undelete` puts it back. Data sets that began with it keep their own copy.

    Raises:
        NotFound: no such family (any more).
    """
    with store.session() as session:
        _newest_of(session, family)
        _set(session, family, deleted_at=utcnow())


def undelete(store: Store, actor: Actor, family: str) -> None:
    """Undo `delete`. Twice does no harm.

    Raises:
        NotFound: there never was such a family.
    """
    with store.session() as session:
        if not session.scalar(select(func.count()).where(tables.RecipeVersion.family == family)):
            raise NotFound(msg("This recipe no longer exists."), msg("Choose another one."))
        _set(session, family, deleted_at=None)


def list_saved(store: Store) -> list[SavedRecipe]:
    """The newest version of every family, the one that was changed last first."""
    with store.reading() as session:
        return [SavedRecipe(*row) for row in session.execute(_newest(*_SHOWN))]


def versions(store: Store, family: str) -> list[SavedRecipe]:
    """All versions of one family, the newest first; none when it is not there (any more)."""
    query = select(*_SHOWN).where(tables.RecipeVersion.family == family, tables.RecipeVersion.deleted_at.is_(None))
    with store.reading() as session:
        return [SavedRecipe(*row) for row in session.execute(query.order_by(tables.RecipeVersion.version.desc())).all()]


def load(store: Store, recipe_id: str) -> Recipe:
    """The recipe as it was saved, with the name that its family has now.

    Raises:
        NotFound: no such recipe (any more).
    """
    with store.reading() as session:
        return _recipe(_row(session, recipe_id))


def mark(store: Store, actor: Actor, dataset_id: str, recipe_id: str) -> None:
    """Remember which saved recipe a data set began with.

    Raises:
        NotFound: no such data set or recipe (any more).
    """
    with store.session() as session:
        _row(session, recipe_id)
        dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        dataset.recipe_id = recipe_id


def _name(name: str) -> str:
    named = storable(" ".join(name.split()))[:_LONGEST_NAME]
    if not named:
        raise BadRecipe(msg("The recipe has no name."), msg("Give it a name so that you can find it."))
    return named


def _add(session: Session, actor: Actor, recipe: Recipe, family: str, version: int, copied_from: str | None) -> str:
    row = tables.RecipeVersion(
        id=new_id(),
        family=family,
        version=version,
        name=recipe.name,
        recipe=recipe.to_dict(),
        copied_from=copied_from,
        created_by=actor.id,
    )
    session.add(row)
    return row.id


def _set(session: Session, family: str, **values: object) -> None:
    session.execute(update(tables.RecipeVersion).where(tables.RecipeVersion.family == family).values(**values))


def _row(session: Session, recipe_id: str) -> tables.RecipeVersion:
    row = session.get(tables.RecipeVersion, recipe_id)
    if row is None or row.deleted_at is not None:
        raise NotFound(msg("This recipe no longer exists."), msg("Choose another one."))
    return row


def _newest_of(session: Session, family: str) -> tables.RecipeVersion:
    mine = select(tables.RecipeVersion).where(
        tables.RecipeVersion.family == family, tables.RecipeVersion.deleted_at.is_(None)
    )
    newest = session.scalar(mine.order_by(tables.RecipeVersion.version.desc()).limit(1))
    if newest is None:
        raise NotFound(msg("This recipe no longer exists."), msg("Choose another one."))
    return newest


def _newest(*what: Any) -> Select[Any]:
    """`what` of the newest version of every family, the one that was changed last first."""
    last = select(tables.RecipeVersion.family, func.max(tables.RecipeVersion.version).label("version"))
    newest = last.where(tables.RecipeVersion.deleted_at.is_(None)).group_by(tables.RecipeVersion.family).subquery()
    same = (tables.RecipeVersion.family == newest.c.family) & (tables.RecipeVersion.version == newest.c.version)
    return (
        select(*what)
        .join(newest, same)
        .order_by(tables.RecipeVersion.created_at.desc(), tables.RecipeVersion.id.desc())
    )


def _recipe(row: tables.RecipeVersion) -> Recipe:
    return replace(Recipe.from_dict(row.recipe), name=row.name)
