"""The visitor's device."""

from __future__ import annotations

import streamlit as st


def is_phone() -> bool:
    """Whether the browser is a phone's: its user agent contains "Mobi", as MDN recommends."""
    headers = st.context.headers
    return headers.get("Sec-Ch-Ua-Mobile") == "?1" or "Mobi" in headers.get("User-Agent", "")
