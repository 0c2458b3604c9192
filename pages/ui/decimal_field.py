"""A field for a decimal number. `st.number_input` drops commas in the browser: `0,15` arrives as 15."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import streamlit as st

from core.errors import FabulaError
from core.pricing import decimal_input
from pages.ui import cards, state


@dataclass(frozen=True, slots=True)
class DecimalInput:
    """The content of a field: `value` is None if the field is empty, or if `problem` names an error."""

    value: Decimal | None
    problem: FabulaError | None = None


def decimal_field(
    label: str,
    key: str,
    least: Decimal,
    most: Decimal,
    *,
    placeholder: str | None = None,
    help: str | None = None,
    disabled: bool = False,
    hidden_label: bool = False,
    width: int | Literal["stretch"] = "stretch",
    persist: bool = False,
    on_change: Callable[[], None] | None = None,
) -> DecimalInput:
    """Draw the field, with a message below it if its text is invalid.

    Args:
        key: its state is text; set it with `put` or `first`.
        persist: keep the text while the field is not drawn.
    """
    with st.container(gap="xsmall", width=width):
        st.text_input(
            label, key=key, placeholder=placeholder, help=help, disabled=disabled,
            label_visibility="collapsed" if hidden_label else "visible", on_change=on_change or "rerun",
            persist_state="session" if persist else None,
        )  # fmt: skip
        try:
            return DecimalInput(read(key, least, most))
        except FabulaError as problem:
            cards.hint(problem)
            return DecimalInput(None, problem)


def read(key: str, least: Decimal, most: Decimal) -> Decimal | None:
    """The number in the field with this key; None if it is empty.

    Raises:
        FabulaError: its text is not a number, or it is out of range.
    """
    return decimal_input.parse(str(state.get(key) or ""), least, most)


def first(key: str, value: Decimal | float | None) -> None:
    """Set the field's initial number, unless the visitor has typed another."""
    state.set_default(key, "" if value is None else decimal_input.format_number(value))


def put(key: str, value: Decimal | float) -> None:
    """Set the field's number. Only before it is drawn, or in a callback."""
    state.set_value(key, decimal_input.format_number(value))
