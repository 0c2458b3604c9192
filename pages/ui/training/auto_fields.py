"""Number fields of the job form, each with a switch for the automatic value, which is initially on."""

from __future__ import annotations

from decimal import Decimal

import streamlit as st

from pages.ui import state
from pages.ui.components import fields
from pages.ui.components.fields import DecimalInput, number_field
from pages.ui.i18n import _

_WIDTH = 140  # px


def is_automatic(key: str) -> bool:
    """Whether the choice is left to the provider."""
    return bool(state.get(f"{key}_auto", True))


def put(key: str, value: float | None, *, decimal: bool = False) -> None:
    """Set a field's value; None means automatic. Call only before the field is rendered, or from a callback."""
    state.set_value(f"{key}_auto", value is None)
    if value is not None:
        (fields.put_decimal if decimal else state.set_value)(key, value)


def whole(
    title: str, key: str, start: int, least: int, most: int, *, help: str | None = None, default: float | None = None
) -> None:
    """Render an integer field.

    Args:
        start: its first value once it is no longer automatic.
        help: explains what the number does.
        default: what `automatic` stands for; None if unknown.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if _toggle(title, key, help, default):
            return
        if state.get(key) is not None:
            state.set_value(key, int(state.get(key)))
        else:
            state.set_default(key, start)
        number_field(title, key, least, most, width=_WIDTH, label_visibility="collapsed", persist_state="session")


def real(
    title: str, key: str, start: float, least: Decimal, most: Decimal, *, help: str | None = None,
    default: float | None = None,
) -> DecimalInput:  # fmt: skip
    """Like `whole`, for a decimal number."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if _toggle(title, key, help, default):
            return DecimalInput(None)
        if not state.get(key):
            fields.put_decimal(key, start)
        return fields.decimal_field(title, key, least, most, hidden_label=True, width=_WIDTH, persist=True)


def _toggle(title: str, key: str, help: str | None, default: float | None) -> bool:
    label = _("{title}: automatic").format(title=title)
    if default is not None:
        label = _("{title}: automatic ({value})").format(title=title, value=f"{default:,g}")
    state.set_default(f"{key}_auto", True)
    return st.toggle(label, key=f"{key}_auto", help=help, persist_state="session")
