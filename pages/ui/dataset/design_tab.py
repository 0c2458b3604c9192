"""Design: the form of a grid with an example prompt, the estimate, the Generate button and a preview; or a list of
prompts (`prompt_list_form`).
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import streamlit as st

from core.datasets import datasets, grid, recipes
from core.datasets.recipe import Recipe
from core.errors import BadRecipe
from core.generation import runs
from core.generation.run_progress import Mode
from core.model_profile import model_purpose
from core.model_profile.model_purpose import purpose_of
from core.model_profile.prompt_similarity import fixed_words
from core.providers import ModelInfo
from pages.ui import cache
from pages.ui.components import cards, models, prompt_warnings, views
from pages.ui.components.prompt_warnings import Remedy
from pages.ui.dataset import dataset_picker, preview_card, prompt_list_form, recipe_form, run_settings
from pages.ui.dataset.run_settings import RunSettings
from pages.ui.i18n import _, as_markdown, column_name, in_language, n_, pair, plain
from pages.ui.sign_in import current_actor


def show() -> None:
    """Render the whole section."""
    source = views.switch("dataset_source", _("Prompts from"), {"grid": _("Grid"), "list": _("List of prompts")})
    if source == "list":
        prompt_list_form.show()
    else:
        _grid()


def _grid() -> None:
    left, right = st.columns([3, 2], gap="medium")
    with left:
        shelf = st.container()
        recipe = recipe_form.form()
        with shelf, cards.show_errors():
            recipe_form.saved_recipes(recipe)
    with right:
        problem = _problem(recipe)
        _prompt_card(recipe, problem)
        _generate_card(recipe, problem)
        preview_card.show(recipe, possible=problem is None)


def _problem(recipe: Recipe) -> BadRecipe | None:
    """The grid's error; a missing model is handled elsewhere."""
    try:
        replace(recipe, provider=recipe.provider or "-", model=recipe.model or "-").check()
    except BadRecipe as problem:
        return problem
    return None


def _prompt_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """Render the prompt of one cell, as the model will read it."""
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Example prompt**"))
            st.button(
                _("Another example"),
                icon=":material/casino:",
                key="dataset_dice",
                on_click=recipe_form.draw_random_cell,
            )
        if problem is not None:
            st.text(recipe.template or _("The template is empty."))
            return
        if recipe.system.strip():
            st.caption(_("System text: {text}").format(text=plain(recipe.system.strip())))
        cell = recipe_form.random_cell(recipe)
        st.text(grid.render(recipe.template, cell))
        views.facts(pair(plain(column_name(name)), plain(value)) for name, value in cell.items())


def _generate_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """Render the whole card; `problem`: why the recipe cannot be run."""
    settings = RunSettings()
    with st.container(border=True):
        if problem is not None:
            cards.hint(problem)
        else:
            _size(recipe)
            if recipe.model:
                settings = run_settings.choose(recipe)
            for warning in recipe.warnings():
                st.warning(as_markdown(warning), icon=":material/info:")
            _far_prompt(recipe)
        st.button(
            n_("Generate {n} row", "Generate {n} rows", recipe.rows()),
            type="primary",
            icon=":material/play_arrow:",
            disabled=problem is not None or settings.budget.problem is not None or not recipe.model,
            key="dataset_generate",
            on_click=_generate,
            args=(recipe, settings.mode, settings.budget.value),
            width="stretch",
        )
        if not recipe.model:
            models.none_yet()


def _size(recipe: Recipe) -> None:
    total = recipe.rows()
    st.markdown(
        _("**{cells}** × {repeats} = **{rows}**").format(
            cells=n_("{n} cell", "{n} cells", total // recipe.repeats),
            repeats=n_("{n} repeat", "{n} repeats", recipe.repeats),
            rows=n_("{n} row", "{n} rows", total),
        )
    )


def _far_prompt(recipe: Recipe) -> None:
    """Warn if the template is far from the model's training prompts."""
    if not recipe.model:
        return
    writer = prompt_warnings.model_of(recipe.provider, recipe.model)
    text = f"{fixed_words(recipe.template)}\n{recipe.system}"
    prompt_warnings.far_prompt(writer, text, "dataset_model", _own_preset(writer))


def _own_preset(writer: ModelInfo) -> Remedy | None:
    """The preset that a packaged writer was trained on, one click away."""
    language = purpose_of(writer).language
    if language is None:
        return None
    preset = model_purpose.presets_of(language)[0]
    words = _("Use its grid: {preset}").format(preset=in_language(preset.names))
    return Remedy(words, ":material/grid_on:", "dataset_use_preset", recipe_form.use_preset, (preset.id,))


def _generate(recipe: Recipe, mode: Mode, budget_usd: Decimal | None) -> None:
    with cards.keep_errors():
        store = cache.store()
        dataset_id = datasets.create(store, current_actor(), recipe)
        if (saved := recipe_form.saved_version(recipe)) is not None:
            recipes.set_source_recipe(store, current_actor(), dataset_id, saved)
        runs.enqueue(store, current_actor(), dataset_id, budget_usd=budget_usd, mode=mode)
        dataset_picker.open_part(dataset_id)
