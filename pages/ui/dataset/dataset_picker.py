"""Which data set is open: the same one in every part of the page; a first step for those who have none."""

from __future__ import annotations

import streamlit as st

from core.dataset.datasets import DatasetSummary
from pages.ui import cached, cards, state
from pages.ui.lang import _


def pick() -> DatasetSummary | None:
    """The data set that is open; None, and what to do about it on screen, when there is none at all."""
    found = cached.dataset_list()
    if not found:
        with cards.empty(_("No data set yet. Design a grid, or load the sample stories."), icon=":material/grid_view:"):
            st.button(
                _("Load the sample stories"),
                type="primary",
                icon=":material/download:",
                key="dataset_first",
                on_click=state.put,
                args=("dataset_part", "bring"),
            )
        return None
    by_id = {one.id: one for one in found}
    if state.get("dataset_open") not in by_id:
        state.put("dataset_open", found[0].id)
    chosen = st.selectbox(
        _("Data set"),
        list(by_id),
        format_func=lambda key: label(by_id[key]),
        key="dataset_open",
        width=520,
        persist_state="session",
    )
    return by_id[str(chosen)]


def label(one: DatasetSummary) -> str:
    """What a data set is called in a list: its name, and since when it is there where another one has the same.

    A widget knows an option by these words alone. Two that are the same are one to it (it opens the last of them), and
    words that change, like a count of rows, are an option that is gone (it opens the first).
    """
    alike = sum(other.name == one.name for other in cached.dataset_list())
    return one.name if alike < 2 else f"{one.name} · {one.created_at:%Y-%m-%d %H:%M:%S.%f}"
