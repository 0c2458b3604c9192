"""Converts values to cell text. Lightweight, because reader processes import it too. Pure."""

from __future__ import annotations

import json

_MAX_EXACT = 2**53  # up to here floating point represents every integer


def cell_text(value: object) -> str:
    """A value of any type as cell text. Missing values (also NaN) are empty; lists and objects become JSON.

    Whole numbers have no decimal point: programs without nullable integers write 1.0 for 1.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
