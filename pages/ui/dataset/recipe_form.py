"""The form that defines a grid (columns with their values, template, repeats, model), and its saved recipes."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import streamlit as st

from core.datasets import presets, recipes
from core.datasets.recipe import Column, Recipe
from core.datasets.recipes import SavedRecipe
from core.db.tables import utcnow
from core.errors import NotFound
from core.ownership import Thing
from pages.ui import cache, state
from pages.ui.components import cards, models, sharing
from pages.ui.components.fields import number_field
from pages.ui.dataset import column_form
from pages.ui.i18n import _, ago, in_language, language, n_, plain
from pages.ui.sign_in import current_actor
from pages.ui.state import GridDraft

_SAVED = "saved"  # instead of a preset id: the form contains a saved recipe
_BLANK = "blank"
_EMPTY = Recipe(name="", columns=(), template="")
_TEXTS = ("template", "name", "system", "seed", "endpoint")
_RANGES: dict[str, tuple[float, float]] = {  # the limits of `Recipe.check`
    "repeats": (1, 10_000),
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "max_tokens": (1, 1_000_000),
}


def form() -> Recipe:
    """The recipe in the form; it may not be runnable yet (see `Recipe.check`)."""
    _start()
    _presets()
    with st.container(border=True):
        columns = [column_form.column(draft) for draft in state.studio().grid.columns]
        column_form.removed()
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(_("Add a column"), icon=":material/add:", key="dataset_add_column", on_click=_add_column)
            column_form.from_file()
    with st.container(border=True):
        template = st.text_area(
            _("Template: the prompt, with {column} where a value goes"),
            height=130,
            key="dataset_template",
            persist_state="session",
        )
        row, purpose = st.container(horizontal=True, vertical_alignment="bottom"), st.container()
        with row:
            model = models.picker(
                _("Written by"), "dataset_model", prefer=models.storyteller(), width=320, purpose_in=purpose
            )
            repeats = number_field(
                _("Repeats of each cell"), "dataset_repeats", 1, 10_000, width=170, persist_state="session"
            )
            more = _more()
    recipe = Recipe(
        columns=tuple(columns),
        template=template or "",
        repeats=repeats,
        provider=model.provider if model else "",
        model=model.id if model else "",
        **more,
    )
    state.studio().recipe_drawn = recipe
    return recipe


def random_cell(recipe: Recipe) -> dict[str, str]:
    """The values of one random cell; the dice draw another."""
    dice = random.Random(state.studio().grid.draw)
    return {column.name: dice.choice(column.values) for column in recipe.columns if column.values}


def draw_random_cell() -> None:
    """Show another cell."""
    studio = state.studio()
    studio.grid = replace(studio.grid, draw=studio.grid.draw + 1)


def open_recipe(recipe: Recipe, *, preset: str = _SAVED, family: str = "", version: str = "") -> None:
    """Put a recipe into the form. Call from a callback, or before the form is rendered."""
    studio = state.studio()
    draft = GridDraft.of(recipe.columns or [Column("", ())], preset, studio.grid.next_id)
    studio.grid = replace(draft, draw=studio.grid.draw, family=family, version=version)
    state.set_value("dataset_preset", preset)
    if preset == _SAVED:
        state.set_value("dataset_model", f"{recipe.provider}/{recipe.model}")
    for name in _TEXTS:
        state.set_value(f"dataset_{name}", getattr(recipe, name))
    for name, (low, high) in _RANGES.items():  # a widget rejects a number that is out of range or of another type
        state.set_value(f"dataset_{name}", type(low)(min(max(getattr(recipe, name), low), high)))


def use_preset(preset_id: str) -> None:
    """For callbacks: start from a preset as if it had been picked. The previous form can be restored."""
    state.set_value("dataset_preset", preset_id)
    _change_start()


def _start() -> None:
    if not state.studio().grid.columns and not state.studio().grid.preset:
        _take_preset(presets.get(language=language()).id)


def _presets() -> None:
    names = {preset.id: in_language(preset.names) for preset in presets.load(language())} | {_BLANK: _("Empty grid")}
    if state.studio().grid.preset == _SAVED:
        names[_SAVED] = _("Saved recipe")
    state.set_default("dataset_preset", state.studio().grid.preset)
    st.pills(
        _("Start from"),
        list(names),
        format_func=names.__getitem__,
        required=True,
        wrap=True,
        key="dataset_preset",
        on_change=_change_start,
        persist_state="session",
    )
    if state.studio().recipe_before is not None:
        st.button(
            _("Restore the previous grid"),
            icon=":material/undo:",
            type="tertiary",
            key="dataset_back",
            on_click=_restore_previous,
        )


def _change_start() -> None:
    """Replace the contents of the form with another preset. Changes can be restored."""
    studio = state.studio()
    current: Recipe | None = studio.recipe_drawn
    start = next((preset.recipe for preset in presets.load() if preset.id == studio.grid.preset), None)
    untouched = current is None or not (current.template.strip() or any(column.values for column in current.columns))
    if current is not None and start is not None:
        untouched = untouched or current == replace(start, provider=current.provider, model=current.model)
    studio.recipe_before = None if untouched else (current, studio.grid)
    _take_preset(str(state.get("dataset_preset")))


def _restore_previous() -> None:
    studio = state.studio()
    if studio.recipe_before is None:
        return
    (recipe, grid), studio.recipe_before = studio.recipe_before, None
    open_recipe(recipe, preset=grid.preset, family=grid.family, version=grid.version)


def _take_preset(preset_id: str) -> None:
    """Fill the form from a preset. The empty preset sets all defaults of `Recipe` and clears the previous form."""
    chosen = next((preset.recipe for preset in presets.load() if preset.id == preset_id), _EMPTY)
    open_recipe(chosen, preset=preset_id)


def _more() -> dict[str, Any]:
    """Less frequently used fields of the recipe, by name. They are rendered only while the popover is open: for a
    closed one, the browser would keep the values and send them back even after a preset has changed them.
    """
    state.set_default("dataset_endpoint", "auto")
    more = st.popover(_("More"), icon=":material/tune:", key="dataset_more", on_change="rerun")
    if more.open:
        with more:
            _more_fields()
    return {
        "name": str(state.get("dataset_name") or ""),
        "system": str(state.get("dataset_system") or ""),
        "temperature": float(state.get("dataset_temperature")),
        "top_p": float(state.get("dataset_top_p")),
        "max_tokens": int(state.get("dataset_max_tokens")),
        "seed": state.get("dataset_seed"),
        "endpoint": state.get("dataset_endpoint"),
    }


def _more_fields() -> None:
    formats = {"auto": _("Automatic"), "chat": _("Chat"), "completion": _("Completion")}
    st.text_input(_("Name of the data set"), key="dataset_name", persist_state="session")
    st.text_area(_("System text"), key="dataset_system", persist_state="session")
    st.slider(_("Temperature"), 0.0, 2.0, step=0.05, key="dataset_temperature", persist_state="session")
    st.slider(_("Top p"), 0.0, 1.0, step=0.05, key="dataset_top_p", persist_state="session")
    number_field(_("Max tokens per text"), "dataset_max_tokens", 1, 1_000_000, persist_state="session")
    seed = _("Seed (empty: random each time)")
    st.number_input(seed, value=None, step=1, key="dataset_seed", persist_state="session")
    st.segmented_control(
        _("API format"), list(formats), format_func=formats.__getitem__, required=True, key="dataset_endpoint",
        persist_state="session",
    )  # fmt: skip


def _add_column() -> None:
    studio = state.studio()
    studio.grid = studio.grid.with_column()


# --- saved recipes ----------------------------------------------------------------------------------------------------

_LIST_HEIGHT = 300  # pixels; more of them scroll


def saved_recipes(recipe: Recipe) -> None:
    """Render the save button, and the list of saved recipes with their number."""
    saved = recipes.list_saved(cache.store(), current_actor())
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
                _("Undo"), icon=":material/undo:", type="tertiary", key="dataset_undelete", on_click=_undelete,
                args=(deleted[0],),
            )  # fmt: skip
    if shown.open:
        with shown:
            if opened is not None:
                _opened(opened)
            with st.container(height=_LIST_HEIGHT if len(saved) > 3 else "content", border=False):
                for one in saved:
                    _line(one)


def saved_version(recipe: Recipe) -> str | None:
    """Id of the saved version that the form equals; None otherwise."""
    version = state.studio().grid.version
    try:
        return version if version and recipes.load(cache.store(), version) == recipe else None
    except NotFound:  # deleted in the meantime
        return None


def _save(recipe: Recipe, opened: SavedRecipe | None) -> None:
    """Render one button that saves the next version of the open recipe, or a new recipe."""
    same = opened is not None and saved_version(recipe) == opened.id
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
    """Render the open recipe: its name and its versions."""
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
    sharing.choice(Thing("recipe", one.family), one)  # a popover cannot be in another one
    st.divider()


def _version(one: SavedRecipe) -> str:
    return _("{n} · {rows} · {time}").format(
        n=one.version, rows=n_("{n} row", "{n} rows", one.rows), time=ago(one.created_at, utcnow())
    )


def _line(one: SavedRecipe) -> None:
    """Render one recipe of the list, with its actions."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        with st.container(gap=None, width=260):
            st.markdown(f"**{plain(one.name)}**")
            st.caption(_("version {facts}").format(facts=_version(one)))
        with st.container(horizontal=True, gap="xxsmall", width="content"):
            st.button(_("Open"), key=f"dataset_open_{one.family}", on_click=_open, args=(one.family, one.id))
            st.button(
                ":material/content_copy:", help=_("Copy"), type="tertiary", key=f"dataset_copy_{one.family}",
                on_click=_copy, args=(one,),
            )  # fmt: skip
            st.button(
                ":material/delete:", help=_("Delete"), type="tertiary", key=f"dataset_delete_{one.family}",
                on_click=_delete, args=(one,),
            )  # fmt: skip


def _keep(recipe: Recipe, family: str | None) -> None:
    """Mark this version as open, without changing the form."""
    with cards.keep_errors():
        version = recipes.save(cache.store(), current_actor(), recipe, family)
        one = next(one for one in recipes.list_saved(cache.store(), current_actor()) if one.id == version)
        studio = state.studio()
        studio.grid = replace(studio.grid, preset=_SAVED, family=one.family, version=version)
        studio.recipe_deleted = None
        state.set_value("dataset_preset", _SAVED)
        state.set_value("dataset_name", one.name)


def _open(family: str, version: str) -> None:
    with cards.keep_errors():
        open_recipe(recipes.load(cache.store(), version), family=family, version=version)
        state.set_value("dataset_recipes", False)


def _copy(one: SavedRecipe) -> None:
    with cards.keep_errors():
        name = _("Copy of {name}").format(name=one.name)
        copied = recipes.copy(cache.store(), current_actor(), one.id, name)
        family = next(
            saved.family for saved in recipes.list_saved(cache.store(), current_actor()) if saved.id == copied
        )
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
