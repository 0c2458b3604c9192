"""Lines of a text of any size, each at most `MAX_LINE_CHARACTERS` long in memory, with rewind. Pure."""

from __future__ import annotations

from collections import deque
from typing import TextIO

from core.datasets.importers.import_problems import MAX_LINE_CHARACTERS

_MAX_REREAD = 200_000_000  # characters, a few seconds: limits the time for a file full of unclosed quotes


class LineTooLong(Exception):
    """Line `number` (from 1) exceeds `MAX_LINE_CHARACTERS`. The next line can be read."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class RowTooLong(Exception):
    """The lines since `begin_row` exceed `MAX_LINE_CHARACTERS` in total."""


class LineReader:
    r"""Iterates over lines including their ends (`\n`, `\r\n`, `\r`), and remembers where a row began.

    Raises (from `next`, which can be called again afterwards):
        LineTooLong: the line was skipped.
        RowTooLong: the lines since `begin_row` are too long in total.

    Attributes:
        number: number of the last line, from 1.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text  # opened with newline=""
        self._rewound: deque[str | None] = deque()  # None: an over-long line
        self._row: list[str | None] = []
        self._row_size = 0
        self._reread_left = _MAX_REREAD
        self.number = 0

    def __iter__(self) -> LineReader:
        return self

    def __next__(self) -> str:
        line = self._rewound.popleft() if self._rewound else self._read()
        if line == "":
            raise StopIteration
        self.number += 1
        self._row.append(line)
        if line is None:
            raise LineTooLong(self.number)
        self._row_size += len(line)
        if self._row_size > MAX_LINE_CHARACTERS:
            raise RowTooLong
        return line

    def begin_row(self) -> int:
        """Start a row at the next line. Returns that line's number."""
        self._row, self._row_size = [], 0
        return self.number + 1

    def rewind(self, keep: int = 0) -> bool:
        """Read the lines since `begin_row` again, except the first `keep`. False: too much has been reread already."""
        self._reread_left -= self._row_size
        if self._reread_left < 0:
            return False
        self._rewound.extendleft(reversed(self._row[keep:]))
        self.number -= len(self._row[keep:])
        return True

    def _read(self) -> str | None:
        """The next line; "" at the end; None if it is too long."""
        line = self._text.readline(MAX_LINE_CHARACTERS)
        if not _is_truncated(line):
            return line
        while _is_truncated(self._text.readline(MAX_LINE_CHARACTERS)):
            pass
        return None


def _is_truncated(line: str) -> bool:
    """True if `readline` stopped at its limit, not at a line end."""
    return len(line) == MAX_LINE_CHARACTERS and line[-1] not in "\r\n"
