"""Problems and notes of an import, limited to a fixed number of sentences."""

from __future__ import annotations

from core.message import msg

MAX_CELL_CHARACTERS = 100_000  # characters; more than any training example needs
MAX_LINE_CHARACTERS = 4_000_000  # characters of a line, or of a multi-line row: 40 cells of maximum length
_MAX_SENTENCES = 100  # maximum number of sentences


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
