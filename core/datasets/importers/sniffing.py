"""Detects the type of a file by content; its name is only a hint. Pure."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

from core.errors import BadFile
from core.message import Message, mark, msg

Kind = Literal["csv", "jsonl", "parquet", "workbook"]
HEAD = 1 << 16  # bytes needed to detect the type of a file

_ZIP, _OLE, _PARQUET = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"PAR1"  # OLE: Excel before 2007
_CHOOSE_TABLE = msg("Choose a table: CSV, JSONL, Parquet or an Excel workbook.")
_UNPACK = msg("Unpack it, then choose the file inside.")
_SAVE_AGAIN = msg("Save it as Parquet, CSV or JSONL, then choose that file.")
_COMPRESSED = mark("{name} is a compressed file, not a text file.")
_PICKLE = mark("{name} is a Python pickle, not a text file.")
# Signatures of other formats, with the error message and the next step.
_OTHER_FORMATS = (
    (b"%PDF", mark("{name} is a PDF, not a text file."), _CHOOSE_TABLE),
    (b"\x1f\x8b", _COMPRESSED, _UNPACK),
    (b"BZh", _COMPRESSED, _UNPACK),
    (b"\xfd7zXZ", _COMPRESSED, _UNPACK),
    (b"\x28\xb5\x2f\xfd", _COMPRESSED, _UNPACK),
    (b"7z\xbc\xaf", _COMPRESSED, _UNPACK),
    (b"Rar!", _COMPRESSED, _UNPACK),
    (b"\x04\x22\x4d\x18", _COMPRESSED, _UNPACK),  # LZ4
    (b"ARROW1", mark("{name} is an Arrow (Feather) file, not a text file."), _SAVE_AGAIN),
    (b"\xff\xff\xff\xff", mark("{name} is an Arrow file, not a text file."), _SAVE_AGAIN),
    (b"Obj\x01", mark("{name} is an Avro file, not a text file."), _SAVE_AGAIN),
    (b"\x89HDF", mark("{name} is an HDF5 file, not a text file."), _SAVE_AGAIN),
    (b"\x80\x04\x95", _PICKLE, _SAVE_AGAIN),
    (b"\x80\x05\x95", _PICKLE, _SAVE_AGAIN),
    (
        b"{\\rtf",
        mark("{name} is a Word document, not a text file."),
        msg("Save the table in it as CSV, then choose that file."),
    ),
    (
        b"version https://git-lfs",
        mark("{name} is a pointer to a file in Git LFS, not a text file."),
        msg("Download the file itself: `git lfs pull`, or the download button of its page."),
    ),
    (
        b"SQLite format 3",
        mark("{name} is a database, not a text file."),
        msg("Export the table as CSV, then choose that file."),
    ),
    (b"\x89PNG", mark("{name} is an image, not a text file."), _CHOOSE_TABLE),
    (b"\xff\xd8\xff", mark("{name} is an image, not a text file."), _CHOOSE_TABLE),
)
_TABLE_FORMATS = (
    (
        _ZIP,
        mark("{name} is an Excel workbook or a zip file, not a text file."),
        msg("Save the sheet as CSV (UTF-8), then choose that file."),
    ),
    (
        _OLE,
        mark("{name} is an old Excel workbook, not a text file."),
        msg("Save the sheet as CSV (UTF-8), then choose that file."),
    ),
    (
        _PARQUET,
        mark("{name} is a Parquet file, not a text file."),
        msg("Save it as CSV or JSONL, then choose that file."),
    ),
)
_TAR_OFFSET = 257  # offset of the signature of a tar archive
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|\?xml)", re.IGNORECASE)
_OBJECT_OR_LIST = re.compile(r"""\{\s*("|\}|$)|\[\s*([\[{"]|$)""")  # but not a cell that begins with a bracket
_EXTENSIONS: dict[str, Kind] = {
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
_MISMATCH: dict[Kind, str] = {
    "csv": msg("The file name suggests another format, but the content is a CSV table; it is read as CSV."),
    "jsonl": msg("The file name suggests another format, but the content is JSONL; it is read as JSONL."),
    "parquet": msg("The file name suggests another format, but the content is Parquet; it is read as Parquet."),
    "workbook": msg(
        "The file name suggests another format, but the content is an Excel workbook; it is read as Excel."
    ),
}


def reject_other_formats(head: bytes, name: str, *, tables: bool = False) -> None:
    """Reject files that are not text (and, with `tables`, not another table format).

    Raises:
        BadFile: it is such a file.
    """
    for signature, template, next_step in _OTHER_FORMATS if tables else (*_TABLE_FORMATS, *_OTHER_FORMATS):
        if head.startswith(signature):
            raise BadFile(Message(template, {"name": name}), next_step)
    if head[_TAR_OFFSET:].startswith(b"ustar"):
        raise BadFile(msg("{name} is a tar archive, not a text file.", name=name), _UNPACK)
    if _WEB_PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        raise BadFile(
            msg("{name} is a web page or XML, not a table.", name=name),
            msg("Save the table itself as CSV, then choose it."),
        )


def binary_kind(head: bytes) -> Kind | None:
    """The kind of a binary table. None: it is text."""
    if head.startswith((_ZIP, _OLE)):
        return "workbook"
    return "parquet" if head.startswith(_PARQUET) else None


def text_kind(beginning: str, name: str) -> Kind:
    """CSV or JSONL, by the first lines of a text.

    A line of JSONL is an object. If the name says JSONL but no line begins like an object, and the first line has
    separators, it is CSV.
    """
    lines = [line for line in beginning.lstrip("\ufeff").splitlines() if line.strip()]
    first = lines[0].lstrip() if lines else ""
    if _OBJECT_OR_LIST.match(first):
        return "jsonl"
    if _EXTENSIONS.get(PurePath(name).suffix.lower()) != "jsonl":
        return "csv"
    has_object = any(line.lstrip().startswith("{") for line in lines)
    return "csv" if not has_object and re.search(r"[,;\t]", first) else "jsonl"


def extension_mismatch(kind: Kind, name: str) -> str | None:
    """A note if the file extension does not match the content. None: it does, or is unknown."""
    expected = _EXTENSIONS.get(PurePath(name).suffix.lower())
    return _MISMATCH[kind] if expected is not None and expected != kind else None
