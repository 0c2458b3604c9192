"""Saved recipes: save the form, open a version, copy, rename, delete and undo."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from core.datasets import recipes
from core.datasets.recipe import Recipe
from core.datasets.recipes import SavedRecipe
from core.db.tables import utcnow
from core.errors import NotFound
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.dataset import grid_form
from pages.ui.i18n import _, ago, n_, plain
from pages.ui.sign_in import current_actor

_LIST_HEIGHT = 300  # pixels; more of them scroll


def show(recipe: Recipe) -> None:
    """The button to save, and the list of saved recipes with their number."""
    saved = recipes.list_saved(cache.store())
    opened = next((one for one in saved if one.family == state.studio().grid.family), None)
    with st.container(horizontal=True, vertical_alignment="center"):
        _save(recipe, opened)
        shown = st.popover(
            n_("{n} saved recipe", "{n} saved recipes", len(saved)) if saved else _("Saved recipes"),
            icon=":material/bookmarks:",
            key="dataset_recipes",
            disabled=not saved,
            on_change="rerun",
        )
        deleted = state.studio().recipe_deleted
        if deleted is not None:
            st.caption(_("Deleted: {name}").format(name=plain(deleted[1])))
            st.button(
                _("Undo"),
                icon=":material/undo:",
                type="tertiary",
                key="dataset_undelete",
                on_click=_undelete,
                args=(deleted[0],),
            )
    if shown.open:
        with shown:
            if opened is not None:
                _opened(opened)
            with st.container(height=_LIST_HEIGHT if len(saved) > 3 else "content", border=False):
                for one in saved:
                    _line(one)


def unchanged(recipe: Recipe) -> str | None:
    """Id of the saved version that the form equals; None otherwise."""
    version = state.studio().grid.version
    try:
        return version if version and recipes.load(cache.store(), version) == recipe else None
    except NotFound:  # deleted in the meantime
        return None


def _save(recipe: Recipe, opened: SavedRecipe | None) -> None:
    """One button: save the next version of the open recipe, or a new recipe."""
    same = opened is not None and unchanged(recipe) == opened.id
    if same and opened is not None:
        label = _("Saved as version {n}").format(n=opened.version)
    elif opened is not None:
        label = _("Save as version {n}").format(n=opened.version + 1)
    else:
        label = _("Save this recipe")
    st.button(
        label,
        icon=":material/check:" if same else ":material/bookmark_add:",
        disabled=same,
        key="dataset_save_recipe",
        on_click=_keep,
        args=(recipe, opened.family if opened else None),
    )


def _opened(one: SavedRecipe) -> None:
    """The open recipe: its name and its versions."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        versions = recipes.versions(cache.store(), one.family)
        by_id = {version.id: version for version in versions}
        version_key, name_key = f"dataset_version_{one.family}", f"dataset_rename_{one.family}"
        version = state.studio().grid.version
        state.set_value(version_key, version if version in by_id else one.id)
        state.set_value(name_key, one.name)
        st.text_input(_("Name of the recipe"), key=name_key, on_change=_rename, args=(one.family, name_key), width=220)
        st.selectbox(
            _("Version"),
            list(by_id),
            format_func=lambda key: _version(by_id[key]),
            key=version_key,
            on_change=lambda: _open(one.family, str(state.get(version_key))),
            width=220,
        )
    st.divider()


def _version(one: SavedRecipe) -> str:
    return _("{n} · {rows} · {time}").format(
        n=one.version, rows=n_("{n} row", "{n} rows", one.rows), time=ago(one.created_at, utcnow())
    )


def _line(one: SavedRecipe) -> None:
    """One recipe of the list, with its actions."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        with st.container(gap=None, width=260):
            st.markdown(f"**{plain(one.name)}**")
            st.caption(_("version {facts}").format(facts=_version(one)))
        with st.container(horizontal=True, gap="xxsmall", width="content"):
            st.button(_("Open"), key=f"dataset_open_{one.family}", on_click=_open, args=(one.family, one.id))
            st.button(
                ":material/content_copy:",
                help=_("Copy"),
                type="tertiary",
                key=f"dataset_copy_{one.family}",
                on_click=_copy,
                args=(one,),
            )
            st.button(
                ":material/delete:",
                help=_("Delete"),
                type="tertiary",
                key=f"dataset_delete_{one.family}",
                on_click=_delete,
                args=(one,),
            )


def _keep(recipe: Recipe, family: str | None) -> None:
    """Mark this version as open, without changing the form."""
    with cards.keep_errors():
        version = recipes.save(cache.store(), current_actor(), recipe, family)
        one = next(one for one in recipes.list_saved(cache.store()) if one.id == version)
        studio = state.studio()
        studio.grid = replace(studio.grid, preset=grid_form.SAVED, family=one.family, version=version)
        studio.recipe_deleted = None
        state.set_value("dataset_preset", grid_form.SAVED)
        state.set_value("dataset_name", one.name)


def _open(family: str, version: str) -> None:
    with cards.keep_errors():
        grid_form.open_recipe(recipes.load(cache.store(), version), family=family, version=version)
        state.set_value("dataset_recipes", False)


def _copy(one: SavedRecipe) -> None:
    with cards.keep_errors():
        name = _("Copy of {name}").format(name=one.name)
        copied = recipes.copy(cache.store(), current_actor(), one.id, name)
        family = next(saved.family for saved in recipes.list_saved(cache.store()) if saved.id == copied)
        _open(family, copied)


def _rename(family: str, key: str) -> None:
    with cards.keep_errors():
        recipes.rename(cache.store(), current_actor(), family, str(state.get(key) or ""))
        if family == state.studio().grid.family:
            state.set_value("dataset_name", str(state.get(key)))


def _delete(one: SavedRecipe) -> None:
    with cards.keep_errors():
        recipes.delete(cache.store(), current_actor(), one.family)
        state.studio().recipe_deleted = (one.family, one.name)


def _undelete(family: str) -> None:
    with cards.keep_errors():
        recipes.undelete(cache.store(), current_actor(), family)
        state.studio().recipe_deleted = None
