"""Saved recipes: every change is a new version, a copy starts a new, independent series, and deleting can be undone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets.dataset_rows import require_dataset
from core.datasets.recipe import Recipe
from core.db import tables
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import utcnow
from core.errors import BadRecipe, NotFound
from core.message import msg
from core.ownership import edits, first_sharing, readable, reads
from core.sanitize import storable

_MAX_NAME = 200  # characters, the size of the column
_LIST_COLUMNS = (  # the fields of SavedRecipe, in order
    tables.RecipeVersion.id,
    tables.RecipeVersion.family,
    tables.RecipeVersion.version,
    tables.RecipeVersion.name,
    tables.RecipeVersion.recipe["rows"].as_integer(),
    tables.RecipeVersion.copied_from,
    tables.RecipeVersion.created_at,
    tables.RecipeVersion.created_by,
    tables.RecipeVersion.owner_id,
    tables.RecipeVersion.sharing,
)


@dataclass(frozen=True, slots=True)
class SavedRecipe:
    """One version of a saved recipe.

    Attributes:
        id: id of this version.
        family: id shared by all versions of a series.
        version: number of this version, from 1.
        name: name of the series, and of data sets made from it.
        rows: number of rows in its grid.
        copied_from: id of the version that the family was copied from, or None.
        owner_id, sharing: whose family it is; see `core.ownership`.
    """

    id: str
    family: str
    version: int
    name: str
    rows: int
    copied_from: str | None
    created_at: datetime
    created_by: str
    owner_id: str
    sharing: str


@requires("editor")
@edits(recipe="family")
def save(store: Store, actor: Actor, recipe: Recipe, family: str | None = None) -> str:
    """Save a recipe, valid or not. Returns the id of its version.

    With `family` it becomes the next version of that family, unless only the name differs: then the family is renamed.
    Without `family` it starts a new one, unless the newest version of a family of the same person is equal, including
    its name: so saving twice creates one version.

    Raises:
        BadRecipe: it has no name.
        NotFound: there is no such family.
    """
    recipe = replace(recipe, name=_clean_name(recipe.name))
    with store.session() as session:
        advisory_lock(session, f"recipes {family or recipe.name}")
        if family is None:
            same_name = _newest_versions(tables.RecipeVersion).where(
                tables.RecipeVersion.name == recipe.name, tables.RecipeVersion.owner_id == actor.id
            )
            existing = next((row for row in session.scalars(same_name) if _recipe(row) == recipe), None)
            return existing.id if existing is not None else _add(session, actor, recipe, new_id(), 1, None)
        newest = _newest_version(session, family)
        if newest.name != recipe.name:
            _update_family(session, family, name=recipe.name)
        if replace(_recipe(newest), name=recipe.name) == recipe:
            return newest.id
        access = {"owner_id": newest.owner_id, "sharing": newest.sharing}
        return _add(session, actor, recipe, family, newest.version + 1, newest.copied_from, **access)


@requires("editor")
@reads(recipe_version="recipe_id")
def copy(store: Store, actor: Actor, recipe_id: str, name: str) -> str:
    """Start a new, independent series of versions from this one. Returns the new id.

    Raises:
        BadRecipe: no name.
        NotFound: there is no such recipe.
    """
    with store.session() as session:
        original = _row(session, recipe_id)
        copied = replace(_recipe(original), name=_clean_name(name))
        access = first_sharing(private=original.sharing == "private")
        return _add(session, actor, copied, new_id(), 1, original.id, **access)


@requires("editor")
@edits(recipe="family")
def rename(store: Store, actor: Actor, family: str, name: str) -> None:
    """Rename a family. This creates no new version, because the generated texts stay the same.

    Raises:
        BadRecipe: no name.
        NotFound: there is no such family.
    """
    with store.session() as session:
        _newest_version(session, family)
        _update_family(session, family, name=_clean_name(name))


@requires("editor")
@edits(recipe="family")
def delete(store: Store, actor: Actor, family: str) -> None:
    """Remove a family from the list; `undelete` restores it. Data sets made from it keep their own copy.

    Raises:
        NotFound: there is no such family.
    """
    with store.session() as session:
        _newest_version(session, family)
        _update_family(session, family, deleted_at=utcnow())


@requires("editor")
@edits(recipe="family")
def undelete(store: Store, actor: Actor, family: str) -> None:
    """Undo `delete`. Safe to repeat.

    Raises:
        NotFound: there is no such family.
    """
    with store.session() as session:
        if not session.scalar(select(func.count()).where(tables.RecipeVersion.family == family)):
            raise NotFound(msg("This recipe no longer exists."), msg("Choose another one."))
        _update_family(session, family, deleted_at=None)


def list_saved(store: Store, reader: Actor | None = None) -> list[SavedRecipe]:
    """The newest version of every family that `reader` may read, most recently changed first. None: of all families."""
    query = _newest_versions(*_LIST_COLUMNS).where(readable(reader, tables.RecipeVersion))
    with store.reading() as session:
        return [SavedRecipe(*row) for row in session.execute(query)]


def versions(store: Store, family: str) -> list[SavedRecipe]:
    """All versions of a family, newest first; empty if the family does not exist."""
    query = select(*_LIST_COLUMNS).where(
        tables.RecipeVersion.family == family, tables.RecipeVersion.deleted_at.is_(None)
    )
    with store.reading() as session:
        return [SavedRecipe(*row) for row in session.execute(query.order_by(tables.RecipeVersion.version.desc())).all()]


def load(store: Store, recipe_id: str) -> Recipe:
    """The recipe as saved, with the current name of its family.

    Raises:
        NotFound: there is no such recipe.
    """
    with store.reading() as session:
        return _recipe(_row(session, recipe_id))


@requires("editor")
@edits(dataset="dataset_id")
@reads(recipe_version="recipe_id")
def set_source_recipe(store: Store, actor: Actor, dataset_id: str, recipe_id: str) -> None:
    """Record which saved recipe a data set was made from. It is private if the recipe is.

    Raises:
        NotFound: there is no such data set or recipe.
    """
    with store.session() as session:
        recipe, dataset = _row(session, recipe_id), require_dataset(session, dataset_id)
        dataset.recipe_id = recipe_id
        if recipe.sharing == "private":
            dataset.sharing = "private"


def _clean_name(name: str) -> str:
    cleaned = storable(" ".join(name.split()))[:_MAX_NAME]
    if not cleaned:
        raise BadRecipe(msg("The recipe has no name."), msg("Give it a name so that you can find it."))
    return cleaned


def _add(
    session: Session, actor: Actor, recipe: Recipe, family: str, version: int, copied_from: str | None, **access: str
) -> str:
    row = tables.RecipeVersion(
        id=new_id(),
        family=family,
        version=version,
        name=recipe.name,
        recipe=recipe.to_dict(),
        copied_from=copied_from,
        created_by=actor.id,
        **access,
    )
    session.add(row)
    return row.id


def _update_family(session: Session, family: str, **values: object) -> None:
    session.execute(update(tables.RecipeVersion).where(tables.RecipeVersion.family == family).values(**values))


def _row(session: Session, recipe_id: str) -> tables.RecipeVersion:
    row = session.get(tables.RecipeVersion, recipe_id)
    if row is None or row.deleted_at is not None:
        raise NotFound(msg("This recipe no longer exists."), msg("Choose another one."))
    return row


def _newest_version(session: Session, family: str) -> tables.RecipeVersion:
    query = select(tables.RecipeVersion).where(
        tables.RecipeVersion.family == family, tables.RecipeVersion.deleted_at.is_(None)
    )
    newest = session.scalar(query.order_by(tables.RecipeVersion.version.desc()).limit(1))
    if newest is None:
        raise NotFound(msg("This recipe no longer exists."), msg("Choose another one."))
    return newest


def writers(session: Session) -> set[tuple[str, str]]:
    """Provider and model of every saved recipe, in its newest version."""
    saved = session.scalars(_newest_versions(tables.RecipeVersion.recipe))
    found = {(str(one.get("provider") or ""), str(one.get("model") or "")) for one in saved}
    return {(provider, model) for provider, model in found if model}


def _newest_versions(*columns: Any) -> Select[Any]:
    """Select `columns` of the newest version of every family, most recently changed first."""
    latest = select(tables.RecipeVersion.family, func.max(tables.RecipeVersion.version).label("version"))
    newest = latest.where(tables.RecipeVersion.deleted_at.is_(None)).group_by(tables.RecipeVersion.family).subquery()
    is_newest = (tables.RecipeVersion.family == newest.c.family) & (tables.RecipeVersion.version == newest.c.version)
    return (
        select(*columns)
        .join(newest, is_newest)
        .order_by(tables.RecipeVersion.created_at.desc(), tables.RecipeVersion.id.desc())
    )


def _recipe(row: tables.RecipeVersion) -> Recipe:
    return replace(Recipe.from_dict(row.recipe), name=row.name)
