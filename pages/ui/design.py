"""Design: the form on the left, what it comes to on the right, one button."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import streamlit as st

from core.actor import LOCAL
from core.dataset import datasets, grid, runs
from core.dataset.recipe import Recipe
from core.errors import BadRecipe
from pages.ui import cached, cards, grid_form, models, state, views
from pages.ui.background import Gathering
from pages.ui.estimates import estimate
from pages.ui.lang import _, about, duration, n_, plain, told, usd

_PREVIEW = 3  # enough to see whether the template works, few enough to wait for


@dataclass(frozen=True, slots=True)
class Preview:
    """Stories of `subject`, as they come."""

    subject: Recipe
    gathering: Gathering[runs.PreviewRow]


def show() -> None:
    """The whole part."""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        recipe = grid_form.recipe_form()
    with right:
        problem = _problem(recipe)
        _prompt_card(recipe, problem)
        _estimate_card(recipe, problem)
        _preview_card(recipe, problem)


def _problem(recipe: Recipe) -> BadRecipe | None:
    """What is wrong with the grid; that no model is there yet is another matter."""
    try:
        replace(recipe, provider=recipe.provider or "-", model=recipe.model or "-").check()
    except BadRecipe as problem:
        return problem
    return None


def _prompt_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """The prompt of one cell, as the model will read it."""
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Prompt of one cell**"))
            st.button(_("Another"), icon=":material/casino:", key="dataset_dice", on_click=grid_form.throw_dice)
        if problem is not None:
            st.text(recipe.template or _("The template is empty."))
            return
        cell = grid_form.random_cell(recipe)
        st.text(grid.render(recipe.template, cell))
        views.facts(f"{plain(name)}: {plain(value)}" for name, value in cell.items())


def _estimate_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """Rows, tokens, money, minutes, and the button."""
    total = recipe.rows()
    with st.container(border=True):
        if problem is not None:
            cards.error_card(problem)
        else:
            cells = total // recipe.repeats
            st.markdown(
                _("**{cells}** × {repeats} = **{rows}**").format(
                    cells=n_("{n} cell", "{n} cells", cells),
                    repeats=n_("{n} repeat", "{n} repeats", recipe.repeats),
                    rows=n_("{n} story", "{n} stories", total),
                )
            )
            if recipe.model:
                _guess(recipe)
            for warning in recipe.warnings():
                st.warning(plain(told(warning)), icon=":material/info:")
        st.button(
            n_("Generate {n} story", "Generate {n} stories", total),
            type="primary",
            icon=":material/play_arrow:",
            disabled=problem is not None or not recipe.model,
            key="dataset_generate",
            on_click=_generate,
            args=(recipe,),
            width="stretch",
        )
        if not recipe.model:
            models.none_yet()


def _guess(recipe: Recipe) -> None:
    """What the run will take, in one line."""
    guess = estimate(recipe)
    views.facts(
        (
            _("about {tokens} tokens").format(tokens=about(guess.tokens)),
            _("free on this machine") if guess.local else usd(guess.usd),
            _("time: known after a preview")
            if guess.seconds is None
            else _("about {time}").format(time=duration(guess.seconds)),
        )
    )


def _generate(recipe: Recipe) -> None:
    with cards.errors_kept():
        dataset_id = datasets.create(cached.store(), LOCAL, recipe)
        runs.enqueue(cached.store(), LOCAL, dataset_id)
        state.put("dataset_open", dataset_id)
        state.put("dataset_part", "rows")


def _preview_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """Three stories before anything is kept."""
    held = state.studio()
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Preview**"))
            running = held.preview is not None and not held.preview.gathering.done
            st.button(
                _("Stop") if running else _("Write {n}").format(n=_PREVIEW),
                icon=":material/stop:" if running else ":material/visibility:",
                disabled=not running and (problem is not None or not recipe.model),
                key="dataset_preview",
                on_click=_forget_preview if running else _preview_now,
                args=() if running else (recipe,),
            )
        st.fragment(run_every=cached.POLL_S if running else None)(_preview)(running)


def _preview_now(recipe: Recipe) -> None:
    with cards.errors_kept():
        state.studio().preview = _start_preview(recipe)


def _forget_preview() -> None:
    held = state.studio()
    if held.preview is not None:
        held.preview.gathering.stop()
        held.preview = None


def _start_preview(recipe: Recipe) -> Preview:
    client = cached.client(recipe.provider)
    seed, store, book = state.studio().grid.draw, cached.store(), cached.prices()

    def make() -> Iterator[runs.PreviewRow]:
        return runs.preview(client, recipe, _PREVIEW, seed, store=store, actor=LOCAL, book=book)

    return Preview(recipe, Gathering(make, expected=min(_PREVIEW, recipe.rows())))


def _preview(was_running: bool) -> None:
    shown = state.studio().preview
    if shown is None:
        st.caption(_("See three stories of this grid before you generate them all. Nothing is kept."))
        return
    gathering = shown.gathering
    if was_running and gathering.done:
        st.rerun()
    if not gathering.done:
        st.progress(
            len(gathering.items) / gathering.expected,
            text=_("{done} of {total} written").format(done=len(gathering.items), total=gathering.expected),
        )
    for row in gathering.items:
        views.facts(plain(value) for value in row.values.values())
        st.text((row.text or row.reason or "").strip())
    if gathering.error is not None:
        cards.error_card(gathering.error)
