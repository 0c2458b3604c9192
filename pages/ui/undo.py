"""Undo of the last action on rows or prompts: a line that names it, and a button."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from pages.ui import cards, state
from pages.ui.lang import _


@dataclass(frozen=True)
class Undo:
    """The action in the visitor's language, its page, and the function that reverts it."""

    sentence: str
    act: Callable[[], object]
    page: str


def offer(icon: str, sentence: str, act: Callable[[], object], *, page: str = "dataset") -> None:
    """Show a notice, and offer undo until the next action."""
    state.notify(icon, sentence)
    state.studio().undo = Undo(sentence, act, page)


def way_back(page: str = "dataset") -> None:
    """Show the undo button on the page where the action was taken."""
    last: Undo | None = state.studio().undo
    if last is not None and last.page == page:
        st.button(
            _("Undo: {what}").format(what=last.sentence),
            icon=":material/undo:",
            type="tertiary",
            key=f"{page}_undo",
            on_click=_undo,
        )


def forget() -> None:
    """Discard the undo, because another data set was opened."""
    state.studio().undo = None


def _undo() -> None:
    studio = state.studio()
    last: Undo | None = studio.undo
    studio.undo, studio.table = None, studio.table + 1
    if last is not None:
        with cards.keep_errors():
            last.act()
            state.notify(":material/undo:", _("Undone"))
