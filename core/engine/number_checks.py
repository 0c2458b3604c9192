"""Validates numbers from requests and forms, with error messages for the user. Pure.

The engine checks requests with these functions, and the studio's form checks the same numbers before it sends them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from core.message import msg

_MAX_SHOWN = 40  # characters shown of a refused value


class InvalidValue(ValueError):
    """A parameter has a value that is not allowed.

    Attributes:
        name: name of the parameter.
        message: what is allowed, and what was given.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name, self.message = name, message


def whole_number(values: Mapping[str, object], name: str, low: int, high: int) -> int | None:
    """Return the integer called `name`; None if it is missing or null.

    Raises:
        InvalidValue: it is not an integer from `low` to `high`.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = msg(
            "'{name}' must be a whole number from {low} to {high}; it is {actual}.",
            name=name,
            low=low,
            high=high,
            actual=abbreviated(value),
        )
        raise InvalidValue(name, message)
    return value


def real_number(values: Mapping[str, object], name: str, low: float, high: float) -> float | None:
    """Return the number called `name`; None if it is missing or null.

    Raises:
        InvalidValue: it is not a finite number from `low` to `high`.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _not_between(name, low, high, value)
    if not low <= value <= high:
        raise _not_between(name, low, high, value)
    return float(value)


def _not_between(name: str, low: float, high: float, value: object) -> InvalidValue:
    message = msg(
        "'{name}' must be a number from {low} to {high}; it is {actual}.",
        name=name,
        low=f"{low:g}",
        high=f"{high:g}",
        actual=abbreviated(value),
    )
    return InvalidValue(name, message)


def abbreviated(value: object) -> str:
    """Format a value as JSON for messages; long values are truncated."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
