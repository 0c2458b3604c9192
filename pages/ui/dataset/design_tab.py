"""Design: the form on the left, the estimate and the button on the right."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from core.datasets import grid
from core.datasets.recipe import Recipe
from core.errors import BadRecipe
from pages.ui import cards, views
from pages.ui.dataset import generate_card, grid_form, preview_card, saved_recipes
from pages.ui.lang import _, column_name, pair, plain


def show() -> None:
    """Draw the whole part."""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        shelf = st.container()
        recipe = grid_form.recipe_form()
        with shelf, cards.show_errors():
            saved_recipes.show(recipe)
    with right:
        problem = _problem(recipe)
        _prompt_card(recipe, problem)
        generate_card.show(recipe, problem)
        preview_card.show(recipe, problem)


def _problem(recipe: Recipe) -> BadRecipe | None:
    """The grid's error; a missing model is handled elsewhere."""
    try:
        replace(recipe, provider=recipe.provider or "-", model=recipe.model or "-").check()
    except BadRecipe as problem:
        return problem
    return None


def _prompt_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """The prompt of one cell, as the model will read it."""
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Example prompt**"))
            st.button(
                _("Another example"), icon=":material/casino:", key="dataset_dice", on_click=grid_form.draw_random_cell
            )
        if problem is not None:
            st.text(recipe.template or _("The template is empty."))
            return
        if recipe.system.strip():
            st.caption(_("System text: {text}").format(text=plain(recipe.system.strip())))
        cell = grid_form.random_cell(recipe)
        st.text(grid.render(recipe.template, cell))
        views.facts(pair(plain(column_name(name)), plain(value)) for name, value in cell.items())
