"""Which data set is open: the same one in every part of the page; a first step for those who have none."""

from __future__ import annotations

import streamlit as st

from core.dataset.datasets import DatasetSummary
from pages.ui import cached, cards, state
from pages.ui.lang import _, n_


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
    """A data set in a list: its name and how large it is, but nothing that changes while it is written."""
    return _("{name} · {rows}").format(name=one.name, rows=n_("{n} row", "{n} rows", one.total))
