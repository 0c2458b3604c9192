"""Values in the URL of a page, so that a reload, a bookmark or a link opens the same view."""

from __future__ import annotations

import streamlit as st


def keep(name: str, value: str | None) -> None:
    """Set a query parameter; None or "" removes it. An unchanged URL is not written."""
    if not value:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != value:
        st.query_params[name] = value
