"""Bytes of a file as text: which encoding, and what is wrong with the bytes. Files are read in blocks, more than once.

A file without a mark is taken for UTF-16 or UTF-32 when its NUL bytes lie as theirs do; for UTF-8 when all its bytes
fit, or nearly all; else for GBK; else, where bytes above 127 stand alone, for Windows-1252.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from core.dataset.importers.sniffing import HEAD, reject_other_formats
from core.errors import BadFile
from core.message import msg

MOST_AT_ONCE = 200_000_000  # bytes that `decode` takes, which holds the whole text
BROKEN = "\udcff"  # stands where bytes fit no character: no text that was decoded has it otherwise
_ERRORS = "fabula.broken"
_BLOCK = 1 << 20
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f]")  # a text has almost none of these bytes
# One broken character in as many good ones is a scratch, not another encoding. Nearly any two bytes are GBK.
_GOOD_PER_BROKEN = {"utf-8": 10, "utf-8-sig": 10, "gb18030": 50}
# UTF-32 before UTF-16: its mark begins with the same two bytes.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with BOM"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (b"\x84\x31\x95\x33", "gb18030", "GBK"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_BARE = (("utf-32-le", "UTF-32", 4), ("utf-32-be", "UTF-32", 4), ("utf-16-le", "UTF-16", 2), ("utf-16-be", "UTF-16", 2))
_MOST_BROKEN = 10_000
# What a person can choose when the guess is wrong. GB18030 holds GBK and GB2312 whole: one codec reads all three.
CHOICES = {
    "UTF-8": "utf-8-sig",
    "GBK": "gb18030",
    "UTF-16": "utf-16",
    "Big5": "big5hkscs",
    "Shift JIS": "cp932",
    "Windows-1252": "cp1252",
}

codecs.register_error(_ERRORS, lambda exc: (BROKEN, getattr(exc, "end", 0)))


@dataclass(frozen=True, slots=True)
class Encoding:
    """How to read a file: Python's codec, and the name that people know."""

    codec: str
    called: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text, and the encoding that it was in, as people call it."""

    text: str
    encoding: str


def decode(data: bytes, name: str) -> Decoded:
    """The text of a small file, whole. Bytes that fit no character become `\\ufffd`.

    Raises:
        BadFile: it is empty, too large, no text, or in no known encoding.
    """
    if len(data) > MOST_AT_ONCE:
        raise BadFile(
            msg(
                "{name} has {data} MB; {value} MB can be read.",
                name=name,
                data=f"{len(data) // 1_000_000:,}",
                value=MOST_AT_ONCE // 1_000_000,
            ),
            msg("Split it into several files."),
        )
    reject_other_formats(data[:HEAD], name)
    encoding = detect(io.BytesIO(data), name)
    return Decoded(data.decode(encoding.codec, "replace"), encoding.called)


def text_of(file: BinaryIO, encoding: Encoding) -> io.TextIOWrapper:
    """The text of a file from its beginning, line ends as they are, `BROKEN` where bytes fit no character."""
    file.seek(0)
    return io.TextIOWrapper(file, encoding.codec, _ERRORS, newline="")


def detect(file: BinaryIO, name: str) -> Encoding:
    """Which encoding a file is in. Reads it in blocks; leaves it somewhere.

    Raises:
        BadFile: it is empty, no text, or in no known encoding.
    """
    file.seek(0)
    head = file.read(HEAD)
    if not head.strip(b" \t\r\n\0") and len(head) < HEAD:
        raise BadFile(msg("{name} is empty.", name=name), msg("Choose a file with rows."))
    for mark, codec, called in _MARKS:
        if head.startswith(mark):
            return _as_marked(file, Encoding(codec, called), name)
    if (bare := _bare(head)) is not None:
        return _as_marked(file, bare, name)
    first = _first_error(file, "utf-8")
    if first is None:
        return Encoding("utf-8", "UTF-8")
    if len(_CONTROLS.findall(head)) * 20 > len(head):
        raise BadFile(
            msg("{name} is not a text file.", name=name),
            msg("Choose a table: CSV, JSONL, Parquet or an Excel workbook."),
        )
    return _without_mark(file, head, name, first)


def _without_mark(file: BinaryIO, head: bytes, name: str, first: int) -> Encoding:
    """The encoding of a text that is not quite UTF-8; byte `first` is the one that does not fit."""
    if _scratched(file, "utf-8"):
        return Encoding("utf-8", "UTF-8")
    if _mostly_alone(head if first < len(head) else _around(file, first)) and _first_error(file, "cp1252") is None:
        return Encoding("cp1252", "Windows-1252")
    if _first_error(file, "gb18030") is None or _scratched(file, "gb18030"):
        return Encoding("gb18030", "GBK")
    line = _line_of(file, first)
    raise BadFile(
        msg(
            "{name} is neither UTF-8 nor GBK nor UTF-16: line {line} has a byte that fits none of them.",
            name=name,
            line=f"{line:,}",
        ),
        msg("Open it in an editor and save it as UTF-8."),
    )


def _as_marked(file: BinaryIO, encoding: Encoding, name: str) -> Encoding:
    """The encoding that the file says it is in, if that is true but for a scratch."""
    first = _first_error(file, encoding.codec)
    if first is not None and not _scratched(file, encoding.codec):
        raise BadFile(
            msg(
                "{name} says that it is {called}, but is broken at byte {first}.",
                name=name,
                called=encoding.called,
                first=f"{first:,}",
            ),
            msg("Save it again as UTF-8; it may have been cut off."),
        )
    return encoding


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(_BLOCK):
        yield block


def _first_error(file: BinaryIO, codec: str) -> int | None:
    """Where the first byte lies that fits no character; None: all fit."""
    decoder, at = codecs.getincrementaldecoder(codec)("strict"), 0
    waiting = 0  # bytes of a character that the last block began
    try:
        for block in _blocks(file):
            decoder.decode(block)
            at += len(block)
            waiting = len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as exc:
        return max(0, at - waiting + exc.start)
    return None


def _scratched(file: BinaryIO, codec: str) -> bool:
    """Whether nearly all characters beyond ASCII are whole, so that what is broken is damage, not another encoding."""
    decoder = codecs.getincrementaldecoder(codec)(_ERRORS)
    good_per_broken = _GOOD_PER_BROKEN.get(codec, 50)
    broken = beyond = 0
    for block in _blocks(file):
        text = decoder.decode(block)
        broken += text.count(BROKEN)
        beyond += len(text) - len(text.encode("ascii", "ignore"))
        if broken > _MOST_BROKEN and broken * good_per_broken > beyond:
            return False  # another encoding, and telling each of its characters is slow
    broken += decoder.decode(b"", final=True).count(BROKEN)
    return broken * good_per_broken < beyond - broken


def _mostly_alone(part: bytes) -> bool:
    """Whether bytes above 127 stand alone, as the accents of European words do; Chinese ones come in pairs."""
    runs = re.findall(rb"[\x80-\xff]+", part)
    return sum(len(run) == 1 for run in runs) * 10 > len(runs) * 6


def _around(file: BinaryIO, place: int) -> bytes:
    file.seek(place)
    return file.read(HEAD)


def _line_of(file: BinaryIO, place: int) -> int:
    """The number of the line that byte `place` is on, from 1."""
    line, at = 1, 0
    for block in _blocks(file):
        line += block.count(b"\n", 0, max(0, place - at))
        at += len(block)
        if at > place:
            break
    return line


def _bare(head: bytes) -> Encoding | None:
    """UTF-16 or UTF-32 without a mark: commas, quotes and line ends have NULs beside them, always on the same side."""
    if head.count(0) * 20 < len(head) and _first_error(io.BytesIO(head[:-3]), "utf-8") is None:
        return None  # some NULs in an ordinary text
    for codec, called, width in _BARE:
        marks = [mark.encode(codec) for mark in ',\n"{:']
        if sum(head[i : i + width] in marks for i in range(0, len(head), width)) >= 2:
            return Encoding(codec, called)
    return None
