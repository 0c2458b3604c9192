"""Where a row is in its file, in words: by its line, by its row in a table, or by its number among the entries of a
JSON document. Pure."""

from __future__ import annotations

from typing import Literal

from core.message import Message, msg

Place = Literal["Line", "Row", "Entry"]
"""How people count the rows of a file: by its lines, as a spreadsheet does, or as the entries of a JSON document.

A JSON array may have all its entries on one line, so an entry is named by its number and its line.
"""


def position(place: Place, line: int, entry: int = 0, *, conversation: bool = False) -> Message:
    """The position of one row, to stand before what is wrong with it.

    Args:
        place: how the rows of the file are counted.
        line: where the row begins, from 1; for `Row` the number of the row.
        entry: for `Entry` the row's number in the file, from 1; for `Line` its number on the line, 0 for the first one.
        conversation: call an entry a conversation.
    """
    if place == "Row":
        return msg("Row {row}", row=f"{line:,}")
    if place == "Line":
        if entry:
            return msg("Entry {entry} of line {line}", entry=f"{entry:,}", line=f"{line:,}")
        return msg("Line {line}", line=f"{line:,}")
    if conversation:
        return msg("Conversation {entry} (line {line})", entry=f"{entry:,}", line=f"{line:,}")
    return msg("Entry {entry} (line {line})", entry=f"{entry:,}", line=f"{line:,}")


def located(where: str, fault: str) -> Message:
    """What is wrong, behind its position."""
    return msg("{where}: {fault}", where=where, fault=fault)
