"""The way back from what was last done to rows or prompts: a line that says what it was, and one button."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from pages.ui import cards, state
from pages.ui.lang import _


@dataclass(frozen=True)
class Undo:
    """What was done, in the visitor's language, on which page, and what takes it back."""

    sentence: str
    act: Callable[[], object]
    page: str


def offer(icon: str, sentence: str, act: Callable[[], object], *, page: str = "dataset") -> None:
    """Say what has been done, and keep the way back until the next thing is done."""
    state.notify(icon, sentence)
    state.studio().undo = Undo(sentence, act, page)


def way_back(page: str = "dataset") -> None:
    """The way back, while there is one, on the page where it was done."""
    last: Undo | None = state.studio().undo
    if last is not None and last.page == page:
        st.button(
            _("Undo: {what}").format(what=last.sentence),
            icon=":material/undo:",
            type="tertiary",
            key=f"{page}_undo",
            on_click=_take_back,
        )


def forget() -> None:
    """No way back any more: another data set is open."""
    state.studio().undo = None


def _take_back() -> None:
    held = state.studio()
    last: Undo | None = held.undo
    held.undo, held.table = None, held.table + 1
    if last is not None:
        with cards.keep_errors():
            last.act()
            state.notify(":material/undo:", _("Undone"))
