"""Small shared views: the switch between the parts of a page, untrusted text, a row of facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.ui import state


def switch(key: str, label: str, parts: Mapping[str, str]) -> str:
    """The parts of a page, one shown at a time. Returns the part that is open; the first one to begin with."""
    state.first(key, next(iter(parts)))
    if state.get(key) not in parts:
        state.put(key, next(iter(parts)))
    chosen = st.segmented_control(
        label,
        list(parts),
        format_func=parts.__getitem__,
        required=True,
        label_visibility="collapsed",
        key=key,
        persist_state="session",
    )
    return str(chosen)


def either(first: bool) -> DeltaGenerator:
    """A place of its own for each of two things: the other one, of the run before, is gone at once."""
    places = [st.container() if here else st.empty() for here in (first, not first)]
    return places[0 if first else 1]


def facts(items: Iterable[str]) -> None:
    """A thin line of facts, those that are known, between dots."""
    st.caption(" · ".join(item for item in items if item))


def story_text(text: str) -> None:
    """A model's words, as text only: no links, no images, no markup; in a column that the eye can follow."""
    with st.container(width=720):
        st.text(text.strip())
