"""Unpacks compressed files (`.gz`, `.bz2`, `.xz`, `.zst`, and a `.zip` with one file) to disk, within limits."""

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
MAX_BYTES = 4_000_000_000  # unpacked; the same limit as for uncompressed text
_BLOCK = 1 << 20
_ZIP = b"PK\x03\x04"
_SIGNATURES: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_EXTENSIONS = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd", ".zip")
_MAX_LISTED = 5  # maximum number of files listed in a message
# Documents that are zip files: the beginning of a part's name, and the error message.
_DOCUMENTS = (
    ("word/", mark("{filename} is a Word document, not a table.")),
    ("ppt/", mark("{filename} is a PowerPoint presentation, not a table.")),
    ("Index/Document.iwa", mark("{filename} is an Apple Numbers, Pages or Keynote document, not a table.")),
    ("META-INF/container.xml", mark("{filename} is an e-book, not a table.")),
)
_WORKBOOK_PARTS = ("xl/", "content.xml")  # parts of Excel and OpenDocument
_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError)


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
    extension = next((extension for extension in _EXTENSIONS if filename.lower().endswith(extension)), "")
    return filename[: len(filename) - len(extension)] or filename


@contextmanager
def unpacked(file: BinaryIO, filename: str, method: Compression) -> Iterator[BinaryIO]:
    """The file inside, as a temporary file that is deleted after the block.

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
        except _ERRORS as exc:
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
    """The files in a zip file, without those added by macOS. None: it is broken."""
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
        names = ", ".join(info.filename[:100] for info in infos[:_MAX_LISTED])
        names += ", …" if len(infos) > _MAX_LISTED else ""
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
