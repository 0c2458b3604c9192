"""The form that sets a grid: columns with their values as chips, template, repeats, model."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import streamlit as st

from core.dataset import presets
from core.dataset.recipe import Column, Recipe
from pages.ui import models, state
from pages.ui.lang import _, in_language
from pages.ui.state import ColumnDraft, GridDraft

_BLANK = "blank"
_SEPARATORS = re.compile(r"[,，、;；\n\t]+")


def recipe_form() -> Recipe:
    """The recipe as the form holds it now; it may not be runnable yet (`Recipe.check` says)."""
    _start()
    _presets()
    with st.container(border=True):
        columns = [_column(draft) for draft in state.studio().grid.columns]
        st.button(
            _("Add a column"), icon=":material/add:", type="tertiary", key="dataset_add_column", on_click=_add_column
        )
    with st.container(border=True):
        template = st.text_area(
            _("Template: what the model is asked, with {column} where a value goes"),
            height=130,
            key="dataset_template",
            persist_state="session",
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            model = models.picker(_("Written by"), "dataset_model", prefer="storyteller", width=320)
            repeats = st.number_input(
                _("Repeats of each cell"), 1, 10_000, step=1, width=170, key="dataset_repeats", persist_state="session"
            )
            with st.popover(_("More"), icon=":material/tune:"):
                more = _more()
    return Recipe(
        name=str(more["name"] or ""),
        columns=tuple(columns),
        template=template or "",
        system=str(more["system"] or ""),
        repeats=int(repeats),
        provider=model.provider if model else "",
        model=model.id if model else "",
        temperature=float(more["temperature"]),
        top_p=float(more["top_p"]),
        max_tokens=int(more["max_tokens"]),
        seed=int(more["seed"]) if more["seed"] is not None else None,
    )


def random_cell(recipe: Recipe) -> dict[str, str]:
    """The values of one cell, drawn anew each time the dice are thrown."""
    dice = random.Random(state.studio().grid.draw)
    return {column.name: dice.choice(column.values) for column in recipe.columns if column.values}


def throw_dice() -> None:
    """Show another cell."""
    held = state.studio()
    held.grid = replace(held.grid, draw=held.grid.draw + 1)


def _start() -> None:
    if not state.studio().grid.columns and not state.studio().grid.preset:
        _apply(presets.load()[0].id)


def _presets() -> None:
    names = {preset.id: in_language(preset.names) for preset in presets.load()} | {_BLANK: _("Empty grid")}
    state.first("dataset_preset", state.studio().grid.preset)
    st.pills(
        _("Start from"),
        list(names),
        format_func=names.__getitem__,
        required=True,
        wrap=True,
        key="dataset_preset",
        on_change=lambda: _apply(str(state.get("dataset_preset"))),
        persist_state="session",
    )


def _apply(preset_id: str) -> None:
    """Put a preset into the form."""
    held, first_id = state.studio(), state.studio().grid.next_id
    chosen = next((preset.recipe for preset in presets.load() if preset.id == preset_id), None)
    if chosen is None:
        held.grid = GridDraft.of([("", ())], preset_id, first_id)
        state.put("dataset_template", "")
        return
    held.grid = GridDraft.of([(column.name, column.values) for column in chosen.columns], preset_id, first_id)
    for key, value in {
        "template": chosen.template,
        "name": chosen.name,
        "system": chosen.system,
        "repeats": chosen.repeats,
        "temperature": chosen.temperature,
        "top_p": chosen.top_p,
        "max_tokens": chosen.max_tokens,
        "seed": chosen.seed,
    }.items():
        state.put(f"dataset_{key}", value)


def _column(draft: ColumnDraft) -> Column:
    """One column: its name, its values as chips (a chip that is off is left out), a field for more values."""
    name_key, values_key, add_key = (f"dataset_{part}_{draft.id}" for part in ("name", "values", "add"))
    state.first(name_key, draft.name)
    state.first(values_key, list(draft.values))
    left, right = st.columns([4, 9])
    with left, st.container(horizontal=True, vertical_alignment="bottom", gap="xxsmall"):
        name = st.text_input(_("Column"), key=name_key, placeholder=_("Name"), persist_state="session")
        st.button(
            ":material/delete:",
            type="tertiary",
            help=_("Remove this column"),
            key=f"dataset_remove_{draft.id}",
            on_click=_remove_column,
            args=(draft.id,),
        )
    with right:
        values = st.pills(
            _("Values"), draft.values, selection_mode="multi", key=values_key, persist_state="session", wrap=True
        )
        st.text_input(
            _("Add values"),
            key=add_key,
            placeholder=_("Add values, with commas between them"),
            label_visibility="collapsed",
            on_change=_add_values,
            args=(draft.id,),
        )
    kept = set(values or ())
    return Column(name=(name or "").strip(), values=tuple(value for value in draft.values if value in kept))


def _more() -> dict[str, object]:
    """What is needed sometimes."""
    return {
        "name": st.text_input(_("Name of the data set"), key="dataset_name", persist_state="session"),
        "system": st.text_area(_("System text"), key="dataset_system", persist_state="session"),
        "temperature": st.slider(
            _("Temperature"), 0.0, 2.0, step=0.05, key="dataset_temperature", persist_state="session"
        ),
        "top_p": st.slider(_("Top p"), 0.0, 1.0, step=0.05, key="dataset_top_p", persist_state="session"),
        "max_tokens": st.number_input(
            _("Most tokens in one story"), 1, 32_768, step=1, key="dataset_max_tokens", persist_state="session"
        ),
        "seed": st.number_input(
            _("Seed (empty: a new one each time)"), value=None, step=1, key="dataset_seed", persist_state="session"
        ),
    }


def _add_column() -> None:
    held = state.studio()
    held.grid = held.grid.with_column()


def _remove_column(column_id: int) -> None:
    held = state.studio()
    held.grid = held.grid.without(column_id)


def _add_values(column_id: int) -> None:
    """Take what was typed as new values, switched on."""
    typed = [value.strip() for value in _SEPARATORS.split(state.get(f"dataset_add_{column_id}") or "")]
    held, values_key = state.studio(), f"dataset_values_{column_id}"
    draft = next(column for column in held.grid.columns if column.id == column_id)
    new = [value for value in dict.fromkeys(typed) if value and value not in draft.values]
    held.grid = held.grid.with_values(column_id, (*draft.values, *new))
    chosen = set(state.get(values_key) or ()) | set(typed)
    state.put(values_key, [value for value in (*draft.values, *new) if value in chosen])
    state.put(f"dataset_add_{column_id}", "")
