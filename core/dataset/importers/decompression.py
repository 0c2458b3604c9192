"""Compressed files (`.gz`, `.bz2`, `.xz`, `.zst`, and a `.zip` of one file) unpacked to disk, within bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, Literal

from core.errors import BadFile
from core.message import Message, mark, msg

Compression = Literal["gzip", "bzip2", "xz", "zip", "zstd"]
MOST_BYTES = 4_000_000_000  # unpacked; as much as of a text that is not compressed
_BLOCK = 1 << 20
_ZIP = b"PK\x03\x04"
_STARTS: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_ENDINGS = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".zip")
_MOST_NAMED = 5  # files of an archive in a sentence
# Documents that are zip files: how the name of a part of theirs begins, and what they are.
_DOCUMENTS = (
    ("word/", mark("{filename} is a Word document, not a table.")),
    ("ppt/", mark("{filename} is a PowerPoint presentation, not a table.")),
    ("Index/Document.iwa", mark("{filename} is an Apple Numbers, Pages or Keynote document, not a table.")),
    ("META-INF/container.xml", mark("{filename} is an e-book, not a table.")),
)
_WORKBOOKS = ("xl/", "content.xml")  # parts of Excel and OpenDocument
_FAULTS = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError)


def compression(file: BinaryIO) -> Compression | None:
    """How a file is compressed, by its content; None for one that is read as it is, such as a workbook."""
    file.seek(0)
    head = file.read(8)
    if head.startswith(_ZIP):
        names = _names(file)
        return None if names is None or any(name.startswith(_WORKBOOKS) for name in names) else "zip"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), None)


def name_inside(filename: str) -> str:
    """What the file inside is called: `rows.jsonl` of `rows.jsonl.gz`."""
    ending = next((ending for ending in _ENDINGS if filename.lower().endswith(ending)), "")
    return filename[: len(filename) - len(ending)] or filename


@contextmanager
def unpacked(file: BinaryIO, filename: str, how: Compression) -> Iterator[BinaryIO]:
    """The file inside, on the disk; it is gone after the block.

    Raises:
        BadFile: it is broken before any of it could be read, larger than `MOST_BYTES`, does not fit on the disk, or is
            a zip file with a password or several files.
    """
    with tempfile.TemporaryFile() as inside:
        size = 0
        try:
            with _opened(file, filename, how) as packed:
                while block := packed.read(_BLOCK):
                    size += len(block)
                    if size > MOST_BYTES:
                        raise BadFile(
                            msg(
                                "{filename} unpacks to more than {value} MB.",
                                filename=filename,
                                value=f"{MOST_BYTES // 1_000_000:,}",
                            ),
                            msg("Split it into several files."),
                        )
                    inside.write(block)
        except BadFile:
            raise
        except _FAULTS as exc:
            raise BadFile(
                msg(
                    "{filename} is a compressed file that is broken or cut off, or does not fit on the disk.",
                    filename=filename,
                ),
                msg("Download or compress it again, or unpack it and choose the file inside."),
            ) from exc
        inside.seek(0, os.SEEK_SET)
        yield inside


def _opened(file: BinaryIO, filename: str, how: Compression) -> IO[bytes] | Any:
    file.seek(0)
    if how == "zip":
        return _only_file(zipfile.ZipFile(file), filename)
    if how == "zstd":
        import pyarrow as pa  # the standard library has no zstd before 3.14

        return pa.CompressedInputStream(pa.PythonFile(_Unclosed(file), mode="r"), "zstd")
    if how == "gzip":
        return gzip.GzipFile(fileobj=file)
    return bz2.BZ2File(file) if how == "bzip2" else lzma.LZMAFile(file)


def _names(file: BinaryIO) -> list[str] | None:
    """The files in a zip file, but for what macOS adds; None: it is broken."""
    try:
        with zipfile.ZipFile(file) as archive:
            return [one.filename for one in archive.infolist() if not _is_extra(one)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None


def _is_extra(one: zipfile.ZipInfo) -> bool:
    name = one.filename.rpartition("/")[2]
    return one.is_dir() or one.filename.startswith("__MACOSX/") or name.startswith(".") or name == "Thumbs.db"


def _only_file(archive: zipfile.ZipFile, filename: str) -> IO[bytes]:
    found = [one for one in archive.infolist() if not _is_extra(one)]
    for start, what in _DOCUMENTS:
        if any(one.filename.startswith(start) for one in found):
            raise BadFile(
                Message(what, {"filename": filename}), msg("Save the table in it as CSV, then choose that file.")
            )
    if len(found) != 1:
        named = ", ".join(one.filename[:100] for one in found[:_MOST_NAMED])
        named += ", …" if len(found) > _MOST_NAMED else ""
        raise BadFile(
            msg("{filename} holds {found} files: {named}.", filename=filename, found=f"{len(found):,}", named=named)
            if found
            else msg("{filename} is an empty zip file.", filename=filename),
            msg("Unpack it, then choose one of the files inside.") if found else msg("Choose a file with rows."),
        )
    if found[0].flag_bits & 1:
        raise BadFile(
            msg("{filename} is a zip file with a password.", filename=filename),
            msg("Unpack it, then choose the file inside."),
        )
    return archive.open(found[0])


class _Unclosed(io.RawIOBase):
    """A file that pyarrow reads and closes, while the file itself stays open."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)
