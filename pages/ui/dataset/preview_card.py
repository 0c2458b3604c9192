"""A preview of three texts (does the template work, and how long are they?), and the estimate that it calibrates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import streamlit as st

from core.datasets.recipe import Recipe
from core.errors import BadRecipe
from core.generation import previewing
from core.generation.previewing import PreviewRow, RunEstimate
from pages.ui import cache, state
from pages.ui.background import BackgroundIterator
from pages.ui.components import cards, views
from pages.ui.i18n import _, as_markdown, plain
from pages.ui.sign_in import current_actor

_PREVIEW = 3  # enough to see whether the template works, few enough to wait for


@dataclass(frozen=True, slots=True)
class Preview:
    """Preview stories of `subject`, as they arrive."""

    subject: Recipe
    gathering: BackgroundIterator[previewing.PreviewRow]


def show(recipe: Recipe, problem: BadRecipe | None) -> None:
    """The whole card; `problem` says why the recipe cannot be run."""
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Preview**"))
            running = _running()
            with st.container(width="content"), views.one_of((True, False), running):
                _button(recipe, running, possible=problem is None and bool(recipe.model))
        st.fragment(run_every=cache.POLL_S if running else None)(_preview)(running)


def _button(recipe: Recipe, running: bool, *, possible: bool) -> None:
    """Write or Stop, each with its own key, so that a late click never triggers the other button."""
    if running:
        st.button(_("Stop"), icon=":material/stop:", key="dataset_preview_stop", on_click=_forget_preview)
    else:
        st.button(
            _("Write {n}").format(n=_PREVIEW), icon=":material/visibility:", key="dataset_preview",
            disabled=not possible, on_click=_preview_now, args=(recipe,),
        )  # fmt: skip


def _running() -> bool:
    shown: Preview | None = state.studio().preview
    return shown is not None and not shown.gathering.done


def _preview_now(recipe: Recipe) -> None:
    if _running():  # double click
        return
    with cards.keep_errors():
        state.studio().preview = _start_preview(recipe)


def _forget_preview() -> None:
    studio = state.studio()
    if studio.preview is not None:
        studio.preview.gathering.stop()
        studio.preview = None


def _start_preview(recipe: Recipe) -> Preview:
    client = cache.client(recipe.provider)
    seed, store, book = state.studio().grid.draw, cache.store(), cache.prices()
    actor = current_actor()  # `make` runs in a thread

    def make(stop: threading.Event) -> Iterator[previewing.PreviewRow]:
        return previewing.preview(store, actor, client, recipe, _PREVIEW, seed, book=book, stop=stop)

    return Preview(recipe, BackgroundIterator(make, expected=min(_PREVIEW, recipe.rows())))


def _preview(was_running: bool) -> None:
    shown = state.studio().preview
    if shown is None:
        st.caption(_("Preview three texts of this grid before you generate all of them. Nothing is saved."))
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
        _row(row)
    views.parameter_notes(views.rejected_parameters(shown.subject))
    if gathering.error is not None:
        cards.error_card(gathering.error)


def _row(row: previewing.PreviewRow) -> None:
    """One text with its column values, and the reason if it is unfinished."""
    views.facts(plain(value) for value in row.values.values())
    if text := row.text.strip():
        st.text(text)
    if row.reason:
        st.caption(f":orange[:material/warning: {as_markdown(row.reason)}]")


def estimate(recipe: Recipe, *, batch: bool = False) -> RunEstimate:
    """The estimate for a runnable recipe; a preview of it replaces the guess.

    Args:
        batch: at the price of a batch, which takes up to a day.
    """
    speed = cache.status().engine.tokens_per_s
    listed = (m.parallel for m in cache.models().found if (m.provider, m.id) == (recipe.provider, recipe.model))
    return previewing.estimate_run(
        recipe, cache.prices(), _previewed(recipe), speed, parallel=next(listed, None), batch=batch
    )


def _previewed(recipe: Recipe) -> list[PreviewRow]:
    preview = state.studio().preview
    if preview is None or preview.subject != recipe:
        return []
    return [row for row in preview.gathering.items if row.completion_tokens]
