"""Values of any kind as the text of a cell. Light: children that open one file import it too. Pure."""

from __future__ import annotations

import json

_EXACT = 2**53  # up to here floating point numbers hold every integer


def text_of(value: object) -> str:
    """A value of any kind as the text of a cell. What is missing (also NaN) is empty; lists and objects are JSON.

    Whole numbers have no point: programs that know no missing integers write 1.0 for 1.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
