"""What is wrong with a file, and what is worth knowing about it, told in a bounded number of sentences."""

from __future__ import annotations

from core.message import msg

LONGEST_CELL = 100_000  # characters: no model learns from more at once, and a broken file must not fill a page
LONGEST_LINE = 4_000_000  # characters of a line, or of a row over several lines: 40 cells of the longest kind
_MOST = 100  # sentences; a file with a million broken lines is told in as many


class ImportProblems:
    """Collects sentences: what was left out, and what was kept but is worth knowing. Keeps the first hundred of each.

    Attributes:
        left_out: how many rows could not be used.
        cut_short: why reading ended before the file did; None when it did not.
    """

    def __init__(self) -> None:
        self.cut_short: str | None = None
        self._kept: list[str] = []
        self._notes: list[str] = []
        self._more_notes = 0
        self.left_out = 0

    def add(self, sentence: str) -> None:
        """One more row that is left out, and why."""
        self.left_out += 1
        if len(self._kept) < _MOST:
            self._kept.append(sentence)

    def note(self, sentence: str) -> None:
        """One more thing worth knowing about rows that are kept."""
        if len(self._notes) < _MOST:
            self._notes.append(sentence)
        else:
            self._more_notes += 1

    def ends_early(self, sentence: str) -> None:
        """The file goes on, but reading does not: told before everything else."""
        self.cut_short = sentence

    def told(self) -> list[str]:
        """Why rows are not there, and how many reasons there are beyond those told."""
        more = self.left_out - len(self._kept)
        ending = [] if self.cut_short is None else [self.cut_short]
        return [
            *ending,
            *self._kept,
            *([msg("And {more} more problems like these.", more=f"{more:,}")] if more else []),
        ]

    def first(self) -> str:
        """The first reason, for files of which nothing is left; "" when there is none."""
        return next(iter(self.told()), "")

    def notes(self) -> list[str]:
        """What is worth knowing, and how much more there is of it."""
        more = self._more_notes
        return [*self._notes, *([msg("And {more} more notes like these.", more=f"{more:,}")] if more else [])]
