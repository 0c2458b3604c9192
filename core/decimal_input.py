"""Decimal numbers as people type them: a comma groups three digits, a point begins the decimals. Pure."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from core.errors import FabulaError
from core.message import msg

_GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_QUOTED = 40  # characters of a text that a sentence quotes
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


def typed_number(text: str) -> str:
    """A number as a person types it, ready for `Decimal`: full-width signs folded, `1,500.25` without its commas.

    A comma is read only where it groups three digits. `0,15` may mean 0.15 or be a slip, so it is not guessed.

    Raises:
        FabulaError: a comma stands elsewhere.
    """
    folded = unicodedata.normalize("NFKC", text).strip().replace(" ", "")
    if "," not in folded:
        return folded
    if not _GROUPED.fullmatch(folded):
        raise FabulaError(
            msg("“{text}” is ambiguous.", text=_quoted(text)), msg("Use a point for decimals, for example 0.15.")
        )
    return folded.replace(",", "")


def parse(text: str, least: Decimal, most: Decimal) -> Decimal | None:
    """The number in a field; None where the field is empty.

    Raises:
        FabulaError: it is not a number, can be read in two ways, or is not between `least` and `most`.
    """
    if not text.strip():
        return None
    number = typed_number(text)
    if not _NUMBER.fullmatch(number):
        raise FabulaError(
            msg("“{text}” is not a number.", text=_quoted(text)), msg("Type digits, with a point for decimals.")
        )
    value = Decimal(number)
    if not least <= value <= most:
        raise FabulaError(
            msg("“{text}” is out of range.", text=_quoted(text)),
            msg("Give a number from {least} to {most}.", least=f"{least:f}", most=f"{most:f}"),
        )
    return value


def _quoted(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


def written(value: Decimal | float) -> str:
    """The number as text for a field: no exponent, no trailing zeros."""
    text = f"{Decimal(str(value)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
