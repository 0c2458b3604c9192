"""The position of a row in its file, in words: its line, its table row, or its number among JSON entries. Pure."""

from __future__ import annotations

from typing import Literal

from core.message import Message, msg

RowUnit = Literal["Line", "Row", "Entry"]
"""What positions count: lines of a text, rows of a spreadsheet, or entries of a JSON document.

A JSON array may have all its entries on one line, so the position of an entry is its number and its line.
"""


def position(unit: RowUnit, line: int, entry: int = 0, *, conversation: bool = False) -> Message:
    """The position of a row, as a prefix for a problem.

    Args:
        unit: what is counted.
        line: the line where the row begins, from 1; for `Row` the row number.
        entry: for `Entry` its number in the file, from 1; for `Line` its number on the line, 0 for the first one.
        conversation: call an entry a conversation.
    """
    if unit == "Row":
        return msg("Row {row}", row=f"{line:,}")
    if unit == "Line":
        if entry:
            return msg("Entry {entry} of line {line}", entry=f"{entry:,}", line=f"{line:,}")
        return msg("Line {line}", line=f"{line:,}")
    if conversation:
        return msg("Conversation {entry} (line {line})", entry=f"{entry:,}", line=f"{line:,}")
    return msg("Entry {entry} (line {line})", entry=f"{entry:,}", line=f"{line:,}")


def with_position(where: str, fault: str) -> Message:
    """A problem prefixed with its position."""
    return msg("{where}: {fault}", where=where, fault=fault)
