"""Extend a grid: more repeats or new values. Only missing rows are written."""

from __future__ import annotations

from decimal import Decimal

import streamlit as st

from core.actor import LOCAL
from core.datasets import datasets, grid_store
from core.datasets.datasets import DatasetSummary
from core.datasets.recipe import Recipe, parse_values
from core.errors import FabulaError
from core.generation import runs
from core.pricing.budget import MAX_USD
from pages.ui import cached, cards, decimal_field, estimates, state
from pages.ui.dataset.row_actions import CENT
from pages.ui.lang import _, n_, usd
from pages.ui.limited_fields import number_field

_MORE = 2  # proposed number of repeats
_BUDGET = "dataset_top_up_budget"
_OPEN = "dataset_top_up"


def show(summary: DatasetSummary, mode: runs.Mode) -> None:
    """The popover of a data set with a recipe; `mode`: how its rows are written."""
    popover = st.popover(_("Write more"), icon=":material/add:", key=_OPEN, on_change="rerun")
    recipe = datasets.recipe(cached.store(), summary.id) if popover.open else None
    if recipe is not None:  # drawn while it is open: the panel around it is drawn every second
        with popover:
            _form(summary.id, recipe, mode)


def _form(dataset_id: str, recipe: Recipe, mode: runs.Mode) -> None:
    st.markdown(f"**{_('More rows for each cell')}**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        more = number_field(_("More repeats"), "dataset_more_repeats", 1, 1_000, _MORE, width=140)
        _button(dataset_id, recipe, grid_store.more_repeats(recipe, more), "repeats", mode)
    st.divider()
    st.markdown(f"**{_('More values')}**")
    values_by_column = {column.name: column.values for column in recipe.columns}
    column = str(st.selectbox(_("Column"), list(values_by_column), key="dataset_more_column"))
    text = st.text_area(
        _("New values"),
        placeholder=_("one per line, or separated by commas"),
        height=90,
        key="dataset_more_values",
    )
    values = parse_values(str(text), values_by_column[column])
    try:
        grown = grid_store.with_values(recipe, column, values) if values else None
    except FabulaError as error:
        grown = None
        cards.hint(error)
    _button(dataset_id, recipe, grown, "values", mode)
    if _priced(recipe):
        decimal_field.decimal_field(_("Spending limit (US dollars)"), _BUDGET, CENT, MAX_USD, placeholder=_("no limit"))


def _button(dataset_id: str, recipe: Recipe, grown: Recipe | None, key: str, mode: runs.Mode) -> None:
    """The button with the number of rows, and next to it their expected cost."""
    added = grown.rows() - recipe.rows() if grown is not None else 0
    st.button(
        n_("Write {n} more", "Write {n} more", added) if added else _("Write the new rows"),
        icon=":material/add:",
        key=f"dataset_more_{key}_go",
        disabled=added <= 0,
        on_click=_grow,
        args=(dataset_id, grown, mode),
    )
    if grown is not None and added > 0:
        cost = _cost(recipe, grown)
        if cost != 0:
            st.caption(_("about {cost}").format(cost=usd(cost)))


def _cost(recipe: Recipe, grown: Recipe) -> Decimal | None:
    """The expected cost of the added rows."""
    with_them, without = estimates.estimate(grown).usd, estimates.estimate(recipe).usd
    return None if with_them is None or without is None else max(with_them - without, Decimal(0))


def _priced(recipe: Recipe) -> bool:
    """Whether this model costs money, so that a limit is useful."""
    return estimates.estimate(recipe).usd not in (None, Decimal(0))


def _grow(dataset_id: str, grown: Recipe | None, mode: runs.Mode) -> None:
    if grown is None:
        return
    with cards.keep_errors():
        budget = decimal_field.read(_BUDGET, CENT, MAX_USD)
        growth = grid_store.grow(cached.store(), LOCAL, dataset_id, grown)
        runs.enqueue(cached.store(), LOCAL, dataset_id, budget_usd=budget, retry_failed=False, mode=mode)
        state.set_value("dataset_more_values", "")
        state.set_value(_OPEN, False)  # the rows appear under this name
        sentence = n_(
            "{n} row added; existing rows are kept", "{n} rows added; existing rows are kept", growth.new_rows
        )
        state.notify(":material/add:", sentence)
