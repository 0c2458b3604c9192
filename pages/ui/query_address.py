"""Values in the address of a page, so that a reload, a bookmark and a link open the same."""

from __future__ import annotations

import streamlit as st


def keep(name: str, value: str | None) -> None:
    """Have the address name a value; None or "": not name it. An address that says so already is left alone."""
    if not value:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != value:
        st.query_params[name] = value
