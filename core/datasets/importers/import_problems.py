"""Problems and notes of an import, limited to a fixed number of sentences, each with its position in the file."""

from __future__ import annotations

from typing import Literal

from core.message import Message, msg

MAX_CELL_CHARACTERS = 100_000  # characters; more than any training example needs
MAX_LINE_CHARACTERS = 4_000_000  # characters of a line, or of a multi-line row: 40 cells of maximum length
_MAX_SENTENCES = 100  # maximum number of sentences

RowUnit = Literal["Line", "Row", "Entry"]
"""What positions count: lines of a text, rows of a spreadsheet, or entries of a JSON document.

A JSON array may have all its entries on one line, so the position of an entry is its number and its line.
"""


class ImportProblems:
    """Collects sentences: problems (rows left out) and notes (rows kept, but changed). Keeps the first hundred of each.

    Attributes:
        left_out: number of rows that could not be used.
        cut_short: why reading ended before the end of the file; None if it did not.
    """

    def __init__(self) -> None:
        self.cut_short: str | None = None
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._more_notes = 0
        self.left_out = 0

    def add(self, sentence: str) -> None:
        """Add the reason for a row that is left out."""
        self.left_out += 1
        if len(self._problems) < _MAX_SENTENCES:
            self._problems.append(sentence)

    def note(self, sentence: str) -> None:
        """Add a note about rows that are kept."""
        if len(self._notes) < _MAX_SENTENCES:
            self._notes.append(sentence)
        else:
            self._more_notes += 1

    def end_early(self, sentence: str) -> None:
        """Record that reading ended before the end of the file; listed first."""
        self.cut_short = sentence

    def problems(self) -> list[str]:
        """All reasons, followed by the number of those not listed."""
        more = self.left_out - len(self._problems)
        first = [] if self.cut_short is None else [self.cut_short]
        return [
            *first,
            *self._problems,
            *([msg("And {more} more problems like these.", more=f"{more:,}")] if more else []),
        ]

    def first(self) -> str:
        """The first reason, for files without usable rows; "" if there is none."""
        return next(iter(self.problems()), "")

    def notes(self) -> list[str]:
        """All notes, followed by the number of those not listed."""
        more = self._more_notes
        return [*self._notes, *([msg("And {more} more notes like these.", more=f"{more:,}")] if more else [])]


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
