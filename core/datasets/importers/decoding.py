"""Reads a file as text: detects its encoding, decodes it, reports invalid bytes, and reads its lines.

Files are read in blocks, possibly several times. A line in memory is at most `MAX_LINE_CHARACTERS` long.

A file without a byte order mark is UTF-16 or UTF-32 if its NUL bytes are in the typical positions; UTF-8 if all, or
nearly all, bytes are valid; else GBK; else, if bytes above 127 occur singly, Windows-1252.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TextIO

from core.datasets.importers.file_type import HEAD, reject_other_formats
from core.datasets.importers.table import BROKEN, MAX_LINE_CHARACTERS
from core.errors import BadFile
from core.message import msg

MAX_DECODE_BYTES = 200_000_000  # limit of `decode`, which keeps the whole text in memory
_ERRORS = "fabula.broken"
_BLOCK = 1 << 20
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f]")  # rare in text
# Minimum number of valid characters per invalid one to assume damage rather than another encoding. Nearly any two bytes
# are valid GBK.
_GOOD_PER_BROKEN = {"utf-8": 10, "utf-8-sig": 10, "gb18030": 50}
# UTF-32 comes before UTF-16, whose mark is a prefix of UTF-32's.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with BOM"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (b"\x84\x31\x95\x33", "gb18030", "GBK"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_WITHOUT_MARK = (
    ("utf-32-le", "UTF-32", 4),
    ("utf-32-be", "UTF-32", 4),
    ("utf-16-le", "UTF-16", 2),
    ("utf-16-be", "UTF-16", 2),
)
_MAX_BROKEN = 10_000
# Choices for the user if the guess is wrong. GB18030 is a superset of GBK and GB2312.
CHOICES = {
    "UTF-8": "utf-8-sig",
    "GBK": "gb18030",
    "UTF-16": "utf-16",
    "Big5": "big5hkscs",
    "Shift JIS": "cp932",
    "Windows-1252": "cp1252",
}

codecs.register_error(_ERRORS, lambda exc: (BROKEN, getattr(exc, "end", 0)))

_MAX_REREAD = 200_000_000  # characters, a few seconds: limits the time for a file full of unclosed quotes


@dataclass(frozen=True, slots=True)
class Encoding:
    """An encoding: Python's codec, and its common name."""

    codec: str
    label: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text, and the common name of its encoding."""

    text: str
    encoding: str


def decode(data: bytes, name: str) -> Decoded:
    r"""Decode a small file in memory. Invalid bytes become `\ufffd`.

    Raises:
        BadFile: it is empty, too large, not text, or its encoding is unknown.
    """
    if len(data) > MAX_DECODE_BYTES:
        raise BadFile(
            msg(
                "{filename} is {size} MB; the limit is {value} MB.",
                filename=name,
                size=f"{len(data) // 1_000_000:,}",
                value=MAX_DECODE_BYTES // 1_000_000,
            ),
            msg("Split it into several files."),
        )
    reject_other_formats(data[:HEAD], name)
    encoding = detect(io.BytesIO(data), name)
    return Decoded(data.decode(encoding.codec, "replace"), encoding.label)


def open_text(file: BinaryIO, encoding: Encoding) -> io.TextIOWrapper:
    """Open a file as text from its beginning. Line ends are unchanged; invalid bytes become `BROKEN`."""
    file.seek(0)
    return io.TextIOWrapper(file, encoding.codec, _ERRORS, newline="")


def detect(file: BinaryIO, name: str) -> Encoding:
    """Detect the encoding of a file. Reads it in blocks; the file position afterwards is undefined.

    Raises:
        BadFile: it is empty, not text, or its encoding is unknown.
    """
    file.seek(0)
    head = file.read(HEAD)
    if not head.strip(b" \t\r\n\0") and len(head) < HEAD:
        raise BadFile(msg("{name} is empty.", name=name), msg("Choose a file with rows."))
    for mark, codec, label in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return _verify_marked(file, Encoding(codec, label), name)
    if (by_nuls := _detect_by_nuls(head)) is not None:
        return _verify_marked(file, by_nuls, name)
    first_error = _first_error(file, "utf-8")
    if first_error is None:
        return Encoding("utf-8", "UTF-8")
    if len(_CONTROLS.findall(head)) * 20 > len(head):
        raise BadFile(
            msg("{name} is not a text file.", name=name),
            msg("Choose a table: CSV, JSONL, Parquet or an Excel workbook."),
        )
    return _detect_damaged(file, head, name, first_error)


def _detect_damaged(file: BinaryIO, head: bytes, name: str, first_error: int) -> Encoding:
    """The encoding of a text that is not valid UTF-8; byte `first_error` is the first invalid one."""
    if _is_damaged(file, "utf-8"):
        return Encoding("utf-8", "UTF-8")
    if (
        _mostly_single(head if first_error < len(head) else _read_at(file, first_error))
        and _first_error(file, "cp1252") is None
    ):
        return Encoding("cp1252", "Windows-1252")
    if _first_error(file, "gb18030") is None or _is_damaged(file, "gb18030"):
        return Encoding("gb18030", "GBK")
    line = _line_of(file, first_error)
    raise BadFile(
        msg(
            "{name} is not UTF-8, GBK or UTF-16: line {line} has a byte that is invalid in all of them.",
            name=name,
            line=f"{line:,}",
        ),
        msg("Open it in an editor and save it as UTF-8."),
    )


def _verify_marked(file: BinaryIO, encoding: Encoding, name: str) -> Encoding:
    """The encoding given by the byte order mark, if the content matches it except for damage."""
    first_error = _first_error(file, encoding.codec)
    if first_error is not None and not _is_damaged(file, encoding.codec):
        raise BadFile(
            msg(
                "{name} is marked as {encoding}, but is invalid at byte {position}.",
                name=name,
                encoding=encoding.label,
                position=f"{first_error:,}",
            ),
            msg("Save it again as UTF-8; it may have been cut off."),
        )
    return encoding


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(_BLOCK):
        yield block


def _first_error(file: BinaryIO, codec: str) -> int | None:
    """Position of the first invalid byte; None if all bytes are valid."""
    decoder, position = codecs.getincrementaldecoder(codec)("strict"), 0
    pending = 0  # bytes of an incomplete character at the end of the last block
    try:
        for block in _blocks(file):
            decoder.decode(block)
            position += len(block)
            pending = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as exc:
        return max(0, position - pending + exc.start)
    return None


def _is_damaged(file: BinaryIO, codec: str) -> bool:
    """True if nearly all non-ASCII characters are valid: the invalid ones are damage, not another encoding."""
    decoder = codecs.getincrementaldecoder(codec)(_ERRORS)
    good_per_broken = _GOOD_PER_BROKEN.get(codec, 50)
    broken = non_ascii = 0
    for block in _blocks(file):
        text = decoder.decode(block)
        broken += text.count(BROKEN)
        non_ascii += len(text) - len(text.encode("ascii", "ignore"))
        if broken > _MAX_BROKEN and broken * good_per_broken > non_ascii:
            return False  # another encoding; counting all errors would be slow
    broken += decoder.decode(b"", final=True).count(BROKEN)
    return broken * good_per_broken < non_ascii - broken


def _mostly_single(data: bytes) -> bool:
    """True if bytes above 127 mostly occur singly, like accented letters; those of Chinese occur in pairs."""
    runs = re.findall(rb"[\x80-\xff]+", data)
    return sum(len(run) == 1 for run in runs) * 10 > len(runs) * 6


def _read_at(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(HEAD)


def _line_of(file: BinaryIO, position: int) -> int:
    """The line number (from 1) of byte `position`."""
    line, offset = 1, 0
    for block in _blocks(file):
        line += block.count(b"\n", 0, max(0, position - offset))
        offset += len(block)
        if offset > position:
            break
    return line


def _detect_by_nuls(head: bytes) -> Encoding | None:
    """UTF-16 or UTF-32 without a mark: next to commas, quotes and line ends are NULs, always on the same side."""
    if head.count(0) * 20 < len(head) and _first_error(io.BytesIO(head[:-3]), "utf-8") is None:
        return None  # ordinary text with some NULs
    for codec, label, width in _WITHOUT_MARK:
        patterns = [character.encode(codec) for character in ',\n"{:']
        if sum(head[i : i + width] in patterns for i in range(0, len(head), width)) >= 2:
            return Encoding(codec, label)
    return None


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

    Args:
        text: opened with `newline=""`.
        max_reread: characters that `rewind` reads again in total.

    Attributes:
        number: number of the last line, from 1.
    """

    def __init__(self, text: TextIO, max_reread: int = _MAX_REREAD) -> None:
        self._text = text
        self._rewound: deque[str | None] = deque()  # None stands for an over-long line
        self._row: list[str | None] = []
        self._row_size = 0
        self._reread_left = max_reread
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
        """Read the lines since `begin_row` again, except the first `keep`.

        Returns False if too much has been reread already.
        """
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
