"""What a file is, by its content; its name is only a hint. Pure."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

from core.errors import BadFile

Kind = Literal["csv", "jsonl", "parquet", "workbook"]
HEAD = 1 << 16  # bytes that are enough to tell what a file is

_ZIP, _OLE, _PARQUET = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"PAR1"  # OLE: Excel before 2007
_SAVE_IT = "Choose a table: CSV, JSONL, Parquet or an Excel workbook."
# What files of other kinds begin with, and what to do about them.
_OTHERS = (
    (b"%PDF", "a PDF", _SAVE_IT),
    (b"\x1f\x8b", "a compressed file", "Unpack it, then choose the file inside."),
    (b"BZh", "a compressed file", "Unpack it, then choose the file inside."),
    (b"\xfd7zXZ", "a compressed file", "Unpack it, then choose the file inside."),
    (b"\x28\xb5\x2f\xfd", "a compressed file", "Unpack it, then choose the file inside."),
    (b"7z\xbc\xaf", "a compressed file", "Unpack it, then choose the file inside."),
    (b"SQLite format 3", "a database", "Export the table as CSV, then choose that file."),
    (b"\x89PNG", "a picture", _SAVE_IT),
    (b"\xff\xd8\xff", "a picture", _SAVE_IT),
)
_TABLES = (
    (_ZIP, "an Excel workbook or a zip file", "Save the sheet as CSV (UTF-8), then choose that file."),
    (_OLE, "an old Excel workbook", "Save the sheet as CSV (UTF-8), then choose that file."),
    (_PARQUET, "a Parquet file", "Save it as CSV or JSONL, then choose that file."),
)
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|\?xml)", re.IGNORECASE)
_OBJECT_OR_LIST = re.compile(r"""\{\s*("|\}|$)|\[\s*([\[{"]|$)""")  # and no cell that begins with a bracket
_ENDINGS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "workbook",
    ".xlsm": "workbook",
    ".xlsb": "workbook",
    ".xls": "workbook",
    ".ods": "workbook",
}
_OTHERWISE: dict[Kind, str] = {
    "csv": "The file name suggests another format, but the content is a CSV table; it is read as CSV.",
    "jsonl": "The file name suggests another format, but the content is JSONL; it is read as JSONL.",
    "parquet": "The file name suggests another format, but the content is Parquet; it is read as Parquet.",
    "workbook": "The file name suggests another format, but the content is an Excel workbook; it is read as Excel.",
}


def refuse_others(head: bytes, name: str, *, tables: bool = False) -> None:
    """Say what a file is that is no text (nor, with `tables`, another kind of table).

    Raises:
        BadFile: it is such a file.
    """
    for start, kind, what_to_do in _OTHERS if tables else (*_TABLES, *_OTHERS):
        if head.startswith(start):
            raise BadFile(f"{name} is {kind}, not a text file.", what_to_do)
    if _WEB_PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        raise BadFile(f"{name} is a web page or XML, not a table.", "Save the table itself as CSV, then choose it.")


def binary_kind(head: bytes) -> Kind | None:
    """The kind of a table that is no text; None where it is text."""
    if head.startswith((_ZIP, _OLE)):
        return "workbook"
    return "parquet" if head.startswith(_PARQUET) else None


def text_kind(beginning: str, name: str) -> Kind:
    """CSV or JSONL, by the first lines of a text.

    A line of JSONL is an object. Where a name says JSONL and no line begins like an object, a first line with commas
    makes it CSV.
    """
    lines = [line for line in beginning.lstrip("\ufeff").splitlines() if line.strip()]
    first = lines[0].lstrip() if lines else ""
    if _OBJECT_OR_LIST.match(first):
        return "jsonl"
    if _ENDINGS.get(PurePath(name).suffix.lower()) != "jsonl":
        return "csv"
    some_object = any(line.lstrip().startswith("{") for line in lines)
    return "csv" if not some_object and re.search(r"[,;\t]", first) else "jsonl"


def otherwise(kind: Kind, name: str) -> str | None:
    """A sentence for a file whose name says another kind than its content; None where they agree or it says nothing."""
    said = _ENDINGS.get(PurePath(name).suffix.lower())
    return _OTHERWISE[kind] if said is not None and said != kind else None
