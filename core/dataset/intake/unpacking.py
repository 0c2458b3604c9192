"""Compressed files (`.gz`, `.bz2`, `.xz`) unpacked onto the disk, in blocks and within bounds."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal

from core.errors import BadFile

Compression = Literal["gzip", "bzip2", "xz"]
MOST_BYTES = 4_000_000_000  # unpacked; as much as of a text that is not compressed
_BLOCK = 1 << 20
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ"
_STARTS: dict[bytes, Compression] = {_GZIP: "gzip", _BZIP2: "bzip2", _XZ: "xz"}
_ENDINGS = (".gz", ".gzip", ".bz2", ".xz")


def compression(head: bytes) -> Compression | None:
    """How a file is compressed, by its first bytes; None for one that cannot be unpacked here."""
    return next((name for start, name in _STARTS.items() if head.startswith(start)), None)


def name_inside(filename: str) -> str:
    """What the file inside is called: `rows.jsonl` of `rows.jsonl.gz`."""
    ending = next((ending for ending in _ENDINGS if filename.lower().endswith(ending)), "")
    return filename[: len(filename) - len(ending)] or filename


@contextmanager
def unpacked(file: BinaryIO, filename: str) -> Iterator[BinaryIO]:
    """The file inside, on the disk; it is gone after the block.

    Raises:
        BadFile: it is broken before any of it could be read, larger than `MOST_BYTES`, or does not fit on the disk.
    """
    with tempfile.TemporaryFile() as inside:
        size = 0
        try:
            with _opened(file) as packed:
                while block := packed.read(_BLOCK):
                    size += len(block)
                    if size > MOST_BYTES:
                        raise BadFile(
                            f"{filename} unpacks to more than {MOST_BYTES // 1_000_000:,} MB.",
                            "Split it into several files.",
                        )
                    inside.write(block)
        except BadFile:
            raise
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError, ValueError) as exc:
            raise BadFile(
                f"{filename} is a compressed file that is broken or cut off, or does not fit on the disk.",
                "Download or compress it again, or unpack it and choose the file inside.",
            ) from exc
        inside.seek(0, os.SEEK_SET)
        yield inside


def _opened(file: BinaryIO) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file)
    return bz2.BZ2File(file) if head.startswith(_BZIP2) else lzma.LZMAFile(file)
