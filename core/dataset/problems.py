"""What is wrong with a file, told in a bounded number of sentences."""

from __future__ import annotations

LONGEST_CELL = 100_000  # characters: no model learns from more at once, and a broken file must not fill a page
_MOST = 100  # sentences; a file with a million broken lines is told in as many


class Problems:
    """Collects sentences; keeps the first hundred and counts the others."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._more = 0

    def add(self, sentence: str) -> None:
        """One more thing that is wrong."""
        if len(self._kept) < _MOST:
            self._kept.append(sentence)
        else:
            self._more += 1

    def told(self) -> list[str]:
        """The sentences, and how many there are beyond."""
        return [*self._kept, f"And {self._more:,} more problems like these."] if self._more else list(self._kept)
