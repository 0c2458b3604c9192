"""Fields that explain their limit in the visitor's language.

The browser's own limits give no explanation: a pasted text longer than `max_chars` is dropped entirely, and a number
out of range turns the field red, with an English note behind an icon. `st.number_input` drops commas, so `0,15` arrives
as 15. Here every text and number is accepted and adjusted to the limit, with a message below the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import streamlit as st

from core.errors import FabulaError
from core.pricing import decimal_input
from pages.ui import state
from pages.ui.components import cards
from pages.ui.i18n import _, number

Width = int | Literal["stretch"]


def number_field(
    label: str,
    key: str,
    least: int,
    most: int,
    start: int | None = None,
    *,
    width: Width = "stretch",
    on_change: Callable[[], None] | None = None,
    **look: Any,
) -> int:
    """A field for a whole number from `least` to `most`; a number out of range becomes the nearest allowed one.

    Args:
        start: initial number; None means `least`.
        look: further arguments for `st.number_input`.
    """
    state.set_default(key, least if start is None else start)
    with st.container(gap="xsmall", width=width):
        value = st.number_input(
            label, step=1, key=key, on_change=_bounded, args=(key, least, most, on_change), **look
        )  # fmt: skip
        if state.get(_note(key)) == value:
            st.caption(
                ":material/info: "
                + _("Allowed: {least} to {most}. Using {used}.").format(
                    least=number(least), most=number(most), used=number(value)
                )
            )
    return int(value)


def text_field(label: str, key: str, longest: int, *, width: Width = "stretch", **look: Any) -> str:
    """A field for a name or a note of at most `longest` characters; longer text is truncated.

    For a text that must not be truncated (a model's name, a story), use an ordinary field with `fits` below it.

    Args:
        look: further arguments for `st.text_input`.
    """
    with st.container(gap="xsmall", width=width):
        text = st.text_input(label, key=key, on_change=_cut, args=(key, longest), **look)
        if text and state.get(_note(key)) == text:
            st.caption(
                ":material/info: "
                + _("The limit is {most} characters. The rest was cut off.").format(most=number(longest))
            )
    return str(text or "")


def fits(text: str, longest: int) -> bool:
    """True if a text has at most `longest` characters; otherwise renders a message."""
    if len(text) <= longest:
        return True
    st.caption(
        ":material/info: "
        + _("The text has {count} characters; the limit is {most}. Shorten it.").format(
            count=number(len(text)), most=number(longest)
        )
    )
    return False


def _bounded(key: str, least: int, most: int, then: Callable[[], None] | None) -> None:
    value = state.get(key)
    used = least if value is None else min(max(int(value), least), most)
    if used != value:
        state.set_value(key, used)
    state.set_value(_note(key), used if value is not None and used != value else None)
    if then is not None:
        then()


def _cut(key: str, longest: int) -> None:
    text = str(state.get(key) or "")
    if len(text) > longest:
        state.set_value(key, text[:longest])
    state.set_value(_note(key), text[:longest] if len(text) > longest else None)


def _note(key: str) -> str:
    """State key of the value that a limit has changed."""
    return f"{key}_limited"


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
    """Render the field, with a message below it if its text is invalid.

    Args:
        key: the field's state is text; set it with `put_decimal` or `default_decimal`.
        persist: keep the text while the field is not rendered.
    """
    with st.container(gap="xsmall", width=width):
        st.text_input(
            label, key=key, placeholder=placeholder, help=help, disabled=disabled,
            label_visibility="collapsed" if hidden_label else "visible", on_change=on_change or "rerun",
            persist_state="session" if persist else None,
        )  # fmt: skip
        try:
            return DecimalInput(read_decimal(key, least, most))
        except FabulaError as problem:
            cards.hint(problem)
            return DecimalInput(None, problem)


def read_decimal(key: str, least: Decimal, most: Decimal) -> Decimal | None:
    """The number in the field with this key; None if it is empty.

    Raises:
        FabulaError: its text is not a number, or it is out of range.
    """
    return decimal_input.parse(str(state.get(key) or ""), least, most)


def default_decimal(key: str, value: Decimal | float | None) -> None:
    """Set the field's initial number, unless the visitor has typed another."""
    state.set_default(key, "" if value is None else decimal_input.format_number(value))


def put_decimal(key: str, value: Decimal | float) -> None:
    """Set the field's number. Call only before the field is rendered, or from a callback."""
    state.set_value(key, decimal_input.format_number(value))
