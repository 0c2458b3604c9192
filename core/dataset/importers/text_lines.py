"""The lines of a text of any size, none longer in memory than `LONGEST_LINE`; lines can be given back. Pure."""

from __future__ import annotations

from collections import deque
from typing import TextIO

from core.dataset.importers.import_problems import LONGEST_LINE

_MOST_READ_AGAIN = 200_000_000  # characters, some seconds: a file of nothing but open quotes must not take hours


class LineTooLong(Exception):
    """Line `number` (from 1) has more than `LONGEST_LINE` characters. The next one can be read."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class RowTooLong(Exception):
    """The lines since `begin` have more than `LONGEST_LINE` characters together."""


class LineReader:
    """An iterator over lines with their ends (`\\n`, `\\r\\n`, `\\r`), which remembers where a row began.

    Raises (from `next`, which can be called again afterwards):
        LineTooLong: the line was skipped.
        RowTooLong: too much since `begin`.

    Attributes:
        number: of the line that came last, from 1, as an editor counts.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text  # opened with newline=""
        self._again: deque[str | None] = deque()  # None: a line that is too long
        self._row: list[str | None] = []
        self._row_size = 0
        self._may_read_again = _MOST_READ_AGAIN
        self.number = 0

    def __iter__(self) -> LineReader:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if line == "":
            raise StopIteration
        self.number += 1
        self._row.append(line)
        if line is None:
            raise LineTooLong(self.number)
        self._row_size += len(line)
        if self._row_size > LONGEST_LINE:
            raise RowTooLong
        return line

    def begin(self) -> int:
        """A row begins with the next line. Returns that line's number."""
        self._row, self._row_size = [], 0
        return self.number + 1

    def give_back(self, keep: int = 0) -> bool:
        """Read the lines since `begin` again, but for the first `keep`. False: too much has been read again already."""
        self._may_read_again -= self._row_size
        if self._may_read_again < 0:
            return False
        self._again.extendleft(reversed(self._row[keep:]))
        self.number -= len(self._row[keep:])
        return True

    def _read(self) -> str | None:
        """The next line; "" at the end; None where it is too long."""
        line = self._text.readline(LONGEST_LINE)
        if not _cut(line):
            return line
        while _cut(self._text.readline(LONGEST_LINE)):
            pass
        return None


def _cut(part: str) -> bool:
    """Whether `readline` stopped at its limit, not at the end of the line."""
    return len(part) == LONGEST_LINE and part[-1] not in "\r\n"
