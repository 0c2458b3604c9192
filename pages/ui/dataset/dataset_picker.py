"""The data set that is open, the same in every part of the page and in its address; a first step if there is none."""

from __future__ import annotations

import streamlit as st

from core.datasets.datasets import DatasetSummary
from pages.ui import cached, cards, state
from pages.ui.lang import _

_PART, _OPEN = "part", "set"  # in the address
_OF_ONE = ("rows", "quality", "use")  # parts that show one data set


def pick() -> DatasetSummary | None:
    """The open data set; None if there is none, with a next step on the page."""
    found = cached.dataset_list()
    if not found:
        with cards.empty(_("No data set yet. Design a grid, or load the sample stories."), icon=":material/grid_view:"):
            st.button(
                _("Load the sample stories"),
                type="primary",
                icon=":material/download:",
                key="dataset_first",
                on_click=state.set_value,
                args=("dataset_part", "bring"),
            )
        return None
    by_id = {one.id: one for one in found}
    if state.get("dataset_open") not in by_id:
        state.set_value("dataset_open", found[0].id)
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
    """What a data set is called in a list: its name; with its time where an older one has the same name.

    A selectbox identifies an option by its label, and selects the first option if that label no longer exists. So a
    label never depends on data sets that are added later, even with the same name.
    """
    same = [other for other in cached.dataset_list() if other.name == one.name]
    first = min(same, key=lambda other: (other.created_at, other.id), default=one)
    return one.name if first.id == one.id else f"{one.name} · {one.created_at:%Y-%m-%d %H:%M:%S.%f}"


def follow_address() -> None:
    """Open the view in the URL, unless this visitor has already chosen. Call before anything is drawn."""
    for name, key in ((_PART, "dataset_part"), (_OPEN, "dataset_open")):
        if name in st.query_params:
            state.set_default(key, st.query_params[name])


def keep_in_address(part: str) -> None:
    """Write the open view into the URL."""
    state.keep_in_address(_PART, part if part != "design" else None)
    state.keep_in_address(_OPEN, state.get("dataset_open") if part in _OF_ONE else None)
