"""Detects a file's type by content (its name is only a hint), and unpacks compressed files within limits.

Compressed files (`.gz`, `.bz2`, `.xz`, `.zst`, and a `.zip` with one file) are unpacked to disk.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, Any, BinaryIO, Literal

from core.errors import BadFile
from core.message import Message, listed, mark, msg

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
Compression = Literal["gzip", "bzip2", "xz", "zip", "zstd"]
MAX_BYTES = 4_000_000_000  # unpacked; the same limit as for uncompressed text
_BLOCK = 1 << 20
_SIGNATURES: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_COMPRESSED_EXTENSIONS = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".zip")
_MAX_LISTED = 5  # maximum number of files listed in a message
# Documents that are zip files: the beginning of a part's name, and the error message.
_DOCUMENTS = (
    ("word/", mark("{filename} is a Word document, not a table.")),
    ("ppt/", mark("{filename} is a PowerPoint presentation, not a table.")),
    ("Index/Document.iwa", mark("{filename} is an Apple Numbers, Pages or Keynote document, not a table.")),
    ("META-INF/container.xml", mark("{filename} is an e-book, not a table.")),
)
_WORKBOOK_PARTS = ("xl/", "content.xml")  # parts of Excel and OpenDocument
_UNPACKING_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError)


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
    """The kind of a binary table; None if it is text."""
    if head.startswith((_ZIP, _OLE)):
        return "workbook"
    return "parquet" if head.startswith(_PARQUET) else None


def text_kind(beginning: str, name: str) -> Kind:
    """CSV or JSONL, by the first lines of a text.

    A line of JSONL is an object. If the file is named like JSONL, but no line begins like an object and the first line
    has separators, it is CSV.
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
    """A note if the file extension does not match the content. None if it does, or is unknown."""
    expected = _EXTENSIONS.get(PurePath(name).suffix.lower())
    return _MISMATCH[kind] if expected is not None and expected != kind else None


def compression(file: BinaryIO) -> Compression | None:
    """The compression of a file, by content.

    None if not compressed, or if it is a zip-based document such as a workbook.
    """
    file.seek(0)
    head = file.read(8)
    if head.startswith(_ZIP):
        names = _file_names(file)
        return None if names is None or any(name.startswith(_WORKBOOK_PARTS) for name in names) else "zip"
    return next((name for start, name in _SIGNATURES.items() if head.startswith(start)), None)


def inner_name(filename: str) -> str:
    """The name of the file inside: `rows.jsonl` for `rows.jsonl.gz`."""
    extension = next((extension for extension in _COMPRESSED_EXTENSIONS if filename.lower().endswith(extension)), "")
    return filename[: len(filename) - len(extension)] or filename


@contextmanager
def unpacked(file: BinaryIO, filename: str, method: Compression) -> Iterator[BinaryIO]:
    """The unpacked file, as a temporary file that is deleted after the block.

    Raises:
        BadFile: it is broken at its beginning, larger than `MAX_BYTES` when unpacked, does not fit on the disk, or is a
            zip file with a password or with several files.
    """
    with tempfile.TemporaryFile() as output:
        size = 0
        try:
            with _open_packed(file, filename, method) as packed:
                while block := packed.read(_BLOCK):
                    size += len(block)
                    if size > MAX_BYTES:
                        raise BadFile(
                            msg(
                                "{filename} unpacks to more than {value} MB.",
                                filename=filename,
                                value=f"{MAX_BYTES // 1_000_000:,}",
                            ),
                            msg("Split it into several files."),
                        )
                    output.write(block)
        except BadFile:
            raise
        except _UNPACKING_ERRORS as exc:
            raise BadFile(
                msg(
                    "{filename} is a compressed file that is broken or cut off, or does not fit on the disk.",
                    filename=filename,
                ),
                msg("Download or compress it again, or unpack it and choose the file inside."),
            ) from exc
        output.seek(0, os.SEEK_SET)
        yield output


def _open_packed(file: BinaryIO, filename: str, method: Compression) -> IO[bytes] | Any:
    file.seek(0)
    if method == "zip":
        return _only_file(zipfile.ZipFile(file), filename)
    if method == "zstd":
        import pyarrow as pa  # the standard library has no zstd before 3.14

        return pa.CompressedInputStream(pa.PythonFile(_NonClosing(file), mode="r"), "zstd")
    if method == "gzip":
        return gzip.GzipFile(fileobj=file)
    return bz2.BZ2File(file) if method == "bzip2" else lzma.LZMAFile(file)


def _file_names(file: BinaryIO) -> list[str] | None:
    """The files in a zip file, without those added by macOS; None if it is broken."""
    try:
        with zipfile.ZipFile(file) as archive:
            return [info.filename for info in archive.infolist() if not _is_extra(info)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None


def _is_extra(info: zipfile.ZipInfo) -> bool:
    name = info.filename.rpartition("/")[2]
    return info.is_dir() or info.filename.startswith("__MACOSX/") or name.startswith(".") or name == "Thumbs.db"


def _only_file(archive: zipfile.ZipFile, filename: str) -> IO[bytes]:
    infos = [info for info in archive.infolist() if not _is_extra(info)]
    for prefix, template in _DOCUMENTS:
        if any(info.filename.startswith(prefix) for info in infos):
            raise BadFile(
                Message(template, {"filename": filename}), msg("Save the table in it as CSV, then choose that file.")
            )
    if len(infos) != 1:
        more = ["…"] if len(infos) > _MAX_LISTED else []
        names = listed([*(info.filename[:100] for info in infos[:_MAX_LISTED]), *more])
        raise BadFile(
            msg("{filename} contains {count} files: {names}.", filename=filename, count=f"{len(infos):,}", names=names)
            if infos
            else msg("{filename} is an empty zip file.", filename=filename),
            msg("Unpack it, then choose one of the files inside.") if infos else msg("Choose a file with rows."),
        )
    if infos[0].flag_bits & 1:
        raise BadFile(
            msg("{filename} is a zip file with a password.", filename=filename),
            msg("Unpack it, then choose the file inside."),
        )
    return archive.open(infos[0])


class _NonClosing(io.RawIOBase):
    """A file that pyarrow reads and closes, while the underlying file stays open."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)
