"""Values in the address of a page, so that a reload, a bookmark and a link open the same."""

from __future__ import annotations

import streamlit as st


def keep(name: str, value: str | None) -> None:
    """Put a value into the address; None or "" removes it. An unchanged address is not written."""
    if not value:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != value:
        st.query_params[name] = value
