"""Parses decimal numbers that users type: commas group thousands, a point starts the decimals. Pure."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from core.errors import FabulaError
from core.message import msg

_GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_MAX_QUOTED_CHARS = 40  # longest input that a message quotes, in characters
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


def typed_number(text: str) -> str:
    """Normalise typed input for `Decimal`: fold full-width characters and drop thousands separators (`1,500.25`).

    A comma is accepted only as a thousands separator. `0,15` may mean 0.15 or be a typo, so it is rejected.

    Raises:
        FabulaError: a comma is not a thousands separator.
    """
    normalized = unicodedata.normalize("NFKC", text).strip().replace(" ", "")
    if "," not in normalized:
        return normalized
    if not _GROUPED.fullmatch(normalized):
        raise FabulaError(
            msg("“{text}” is ambiguous.", text=_quoted(text)), msg("Use a point for decimals, for example 0.15.")
        )
    return normalized.replace(",", "")


def parse(text: str, least: Decimal, most: Decimal) -> Decimal | None:
    """Parse the number in a form field; None if the field is empty.

    Raises:
        FabulaError: it is not a number, is ambiguous, or is outside `least`…`most`.
    """
    if not text.strip():
        return None
    number = typed_number(text)
    if not _NUMBER.fullmatch(number):
        raise FabulaError(
            msg("“{text}” is not a number.", text=_quoted(text)), msg("Type digits, with a point for decimals.")
        )
    parsed = Decimal(number)
    if not least <= parsed <= most:
        raise FabulaError(
            msg("“{text}” is out of range.", text=_quoted(text)),
            msg("Enter a number from {least} to {most}.", least=f"{least:f}", most=f"{most:f}"),
        )
    return parsed


def _quoted(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _MAX_QUOTED_CHARS else f"{text[:_MAX_QUOTED_CHARS]}…"


def format_number(value: Decimal | float) -> str:
    """Format a number for a form field: no exponent, no trailing zeros."""
    text = f"{Decimal(str(value)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
