"""The system text of a data set's chat files: stored with it, so that training and every file use the same."""

from __future__ import annotations

import streamlit as st

from core.actor import LOCAL
from core.datasets import datasets
from pages.ui import cached, cards, state
from pages.ui.lang import _

_HEIGHT = 100  # px


def field(page: str, dataset_id: str) -> None:
    """The text area with the stored text; at first the recipe's system text."""
    key, stored = f"{page}_system_{dataset_id}", datasets.chat_system(cached.store(), dataset_id)
    if state.get(key) is None:
        state.set_value(key, stored)
    st.text_area(
        _("System text (optional): begins every conversation of the file"),
        height=_HEIGHT,
        key=key,
        on_change=_keep,
        args=(key, dataset_id),
        help=_("Use the same one when you call the model."),
    )


def _keep(key: str, dataset_id: str) -> None:
    with cards.keep_errors():
        datasets.set_chat_system(cached.store(), LOCAL, dataset_id, str(state.get(key) or ""))
