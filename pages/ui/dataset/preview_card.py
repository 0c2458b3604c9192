"""The preview of a run: three texts, which show whether the prompts work and make the estimate more accurate."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import streamlit as st

from core.datasets.importers.prompt_list import ListedPrompt
from core.datasets.recipe import Recipe
from core.generation import previewing
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


def show(recipe: Recipe, prompts: Sequence[ListedPrompt] = (), *, possible: bool) -> None:
    """Render the whole card; `possible`: whether the recipe can be run. `prompts`: those of a list."""
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Preview**"))
            if (shown := state.studio().preview) is not None and bool(shown.subject.listed) != bool(recipe.listed):
                _forget_preview()  # it is of a grid, and this is a list, or the other way round
            running = _running()
            with st.container(width="content"), views.one_of((True, False), running):
                _preview_button(recipe, prompts, running, possible=possible and bool(recipe.model))
        st.fragment(run_every=cache.POLL_S if running else None)(_preview_texts)(running)


def _preview_button(recipe: Recipe, prompts: Sequence[ListedPrompt], running: bool, *, possible: bool) -> None:
    """Write or Stop, each with its own key, so that a late click never triggers the other button."""
    if running:
        st.button(_("Stop"), icon=":material/stop:", key="dataset_preview_stop", on_click=_forget_preview)
    else:
        st.button(
            _("Write {n}").format(n=_PREVIEW), icon=":material/visibility:", key="dataset_preview",
            disabled=not possible, on_click=_preview_now, args=(recipe, prompts),
        )  # fmt: skip


def _running() -> bool:
    shown: Preview | None = state.studio().preview
    return shown is not None and not shown.gathering.done


def _preview_now(recipe: Recipe, prompts: Sequence[ListedPrompt]) -> None:
    if _running():  # double click
        return
    with cards.keep_errors():
        state.studio().preview = _start_preview(recipe, prompts)


def _forget_preview() -> None:
    studio = state.studio()
    if studio.preview is not None:
        studio.preview.gathering.stop()
        studio.preview = None


def _start_preview(recipe: Recipe, prompts: Sequence[ListedPrompt]) -> Preview:
    client = cache.client(recipe.provider)
    seed, store, book = state.studio().grid.draw, cache.store(), cache.prices()
    actor = current_actor()  # `make` runs in a thread

    def make(stop: threading.Event) -> Iterator[previewing.PreviewRow]:
        return previewing.preview(store, actor, client, recipe, _PREVIEW, seed, prompts=prompts, book=book, stop=stop)

    return Preview(recipe, BackgroundIterator(make, expected=min(_PREVIEW, len(prompts) or recipe.rows())))


def _preview_texts(was_running: bool) -> None:
    shown = state.studio().preview
    if shown is None:
        st.caption(_("Preview three texts before you generate all of them. Nothing is saved."))
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
        _preview_row(row)
    views.parameter_notes(views.rejected_parameters(shown.subject))
    if gathering.error is not None:
        cards.error_card(gathering.error, "dataset_preview_ask_budget")


def _preview_row(row: previewing.PreviewRow) -> None:
    """Render one text with its column values, and the reason if it is unfinished."""
    views.facts(plain(views.shortened(value)) for value in row.values.values())
    if text := row.text.strip():
        st.text(text)
    if row.reason:
        st.caption(f":orange[:material/warning: {as_markdown(row.reason)}]")
