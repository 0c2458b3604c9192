"""Bytes of a file as text: which encoding, and what is wrong with the bytes. Pure."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from core.errors import BadFile

MOST_BYTES = 200_000_000  # a file is read whole; 200 MB are 200,000 long stories
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f")  # a text has almost none of these bytes
_SAMPLE = 4096  # bytes that are enough to tell text from other things
# What files of other kinds begin with, and what to do about them.
_OTHERS = (
    (b"PK\x03\x04", "an Excel workbook or a zip file", "Save the sheet as CSV (UTF-8), then choose that file."),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "Save the sheet as CSV (UTF-8), then choose that file."),
    (b"%PDF", "a PDF", "Choose a CSV or JSONL file."),
    (b"\x1f\x8b", "a compressed file", "Unpack it, then choose the file inside."),
    (b"PAR1", "a Parquet file", "Save it as CSV or JSONL, then choose that file."),
    (b"SQLite format 3", "a database", "Export the table as CSV, then choose that file."),
    (b"\x89PNG", "a picture", "Choose a CSV or JSONL file."),
)
# UTF-32 before UTF-16: its mark begins with the same two bytes.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with BOM"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text, and the encoding that it was in, as people call it."""

    text: str
    encoding: str


def decode(data: bytes, name: str) -> Decoded:
    """The text of a file: UTF-8, UTF-16 or UTF-32 (with or without a mark), else GBK.

    Raises:
        BadFile: it is empty, too large, no text, or in none of these encodings.
    """
    if not data.strip(b" \t\r\n\0"):
        raise BadFile(f"{name} is empty.", "Choose a file with rows.")
    if len(data) > MOST_BYTES:
        raise BadFile(
            f"{name} has {len(data) // 1_000_000:,} MB; {MOST_BYTES // 1_000_000} MB can be read.",
            "Split it into several files.",
        )
    for start, kind, what_to_do in _OTHERS:
        if data.startswith(start):
            raise BadFile(f"{name} is {kind}, not a text file.", what_to_do)
    for mark, codec, called in _MARKS:
        if data.startswith(mark):
            return Decoded(_strictly(data, codec, called, name), called)
    if (codec16 := _bare_utf16(data)) is not None:
        return Decoded(_strictly(data, codec16, "UTF-16", name), "UTF-16")
    try:
        return Decoded(data.decode("utf-8"), "UTF-8")
    except UnicodeDecodeError as exc:
        if sum(byte in _CONTROLS for byte in data[:_SAMPLE]) * 20 > len(data[:_SAMPLE]):
            raise BadFile(f"{name} is not a text file.", "Choose a CSV or JSONL file.") from exc
        return _gbk(data, name, exc)


def _gbk(data: bytes, name: str, no_utf8: UnicodeDecodeError) -> Decoded:
    """GB18030 holds GBK and GB2312 whole, so one codec reads all three."""
    try:
        return Decoded(data.decode("gb18030"), "GBK")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, no_utf8.start) + 1
        raise BadFile(
            f"{name} is neither UTF-8 nor GBK nor UTF-16: line {line:,} has a byte that fits none of them.",
            "Open it in an editor and save it as UTF-8.",
        ) from exc


def _strictly(data: bytes, codec: str, called: str, name: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError as exc:
        raise BadFile(
            f"{name} says that it is {called}, but is broken at byte {exc.start:,}.",
            "Save it anew as UTF-8; it may have been cut off.",
        ) from exc


def _bare_utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: commas, quotes and line ends leave a NUL at every second place beside them."""
    head = data[:_SAMPLE]
    pairs = [head[i : i + 2] for i in range(0, len(head) - 1, 2)]
    little = sum(pair in (b",\0", b"\n\0", b'"\0', b"{\0", b":\0") for pair in pairs)
    big = sum(pair in (b"\0,", b"\0\n", b'\0"', b"\0{", b"\0:") for pair in pairs)
    if max(little, big) < 2 or head.count(0) * 20 < len(head):
        return None
    return "utf-16-le" if little >= big else "utf-16-be"
