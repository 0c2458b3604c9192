"""Tab and data set in the URL, so that a reload, a bookmark or a link opens the same view."""

from __future__ import annotations

import streamlit as st

from pages.ui import query_address, state

_PART, _OPEN = "part", "set"
_OF_ONE = ("rows", "quality", "use")  # parts that show one data set


def follow() -> None:
    """Open the view in the URL, unless this visitor has already chosen. Call before anything is drawn."""
    for name, key in ((_PART, "dataset_part"), (_OPEN, "dataset_open")):
        if name in st.query_params:
            state.set_default(key, st.query_params[name])


def keep(part: str) -> None:
    """Write the open view into the URL."""
    query_address.keep(_PART, part if part != "design" else None)
    query_address.keep(_OPEN, state.get("dataset_open") if part in _OF_ONE else None)
