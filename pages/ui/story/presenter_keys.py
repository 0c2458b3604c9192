"""Keyboard, full screen and large type of presenter mode: a component without visible output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

_PARTS = Path(__file__).with_name("components")
_presenter: Any = st.components.v2.component(
    "fabula_presenter",
    css=(_PARTS / "presenter.css").read_text(encoding="utf-8"),
    js=(_PARTS / "presenter.js").read_text(encoding="utf-8"),
    isolate_styles=False,  # its font sizes apply to the page while it is mounted
)


def listen() -> None:
    """Bind keys to the buttons that do the same; enter full screen if a click has just allowed it."""
    _presenter(key="presenter_keys")
