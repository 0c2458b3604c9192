"""Parsing of typed decimal numbers: commas group thousands, or the input is rejected."""

from __future__ import annotations

from decimal import Decimal

import pytest

from core.errors import FabulaError
from core.pricing.decimal_input import format_number, parse

_MOST = Decimal(10_000_000)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("  ", None),
        ("0.15", "0.15"),
        (".5", "0.5"),
        ("2.", "2"),
        ("1,000", "1000"),
        ("1，000", "1000"),
        ("1,500.25", "1500.25"),
        ("1,234,567", "1234567"),
        ("０．１５", "0.15"),
        ("1 000", "1000"),
        (" 7 ", "7"),
    ],
)
def test_a_typed_number_is_read(text: str, value: str | None) -> None:
    assert parse(text, Decimal(0), _MOST) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,15", "ambiguous"),
        ("1,5", "ambiguous"),
        ("0,150", "ambiguous"),
        ("1.500,25", "ambiguous"),
        ("1,00", "ambiguous"),
        ("0，15", "ambiguous"),
        ("12,34,567", "ambiguous"),
        ("$5", "not a number"),
        ("1_0", "not a number"),
        ("1e5", "not a number"),
        ("nan", "not a number"),
        ("Infinity", "not a number"),
        ("五", "not a number"),
        ("-1", "out of range"),
        ("100,000,000", "out of range"),
    ],
)
def test_a_number_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    with pytest.raises(FabulaError, match=says):
        parse(text, Decimal(0), _MOST)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("6.8012"), "6.8012"),
        (Decimal("1E+2"), "100"),
        (Decimal("0.0000001"), "0.0000001"),
        (1.0, "1"),
        (100, "100"),
    ],
)
def test_a_number_is_written_as_a_field_shows_it(value: Decimal | float, text: str) -> None:
    assert format_number(value) == text
