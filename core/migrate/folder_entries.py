"""The files in a folder of downloads, and those in its ZIP files, as if they were all in folders."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from core.errors import BadFile, BadRequest, Misconfigured, NotThere, Refused
from core.message import msg

MAX_ENTRIES = 200_000
# ZIP files may unpack to the larger of these two, and never to more than the third: a small file can hold petabytes
_ALWAYS_BYTES, _MOST_RATIO, _MOST_BYTES = 2_000_000_000, 100, 200_000_000_000
_BLOCK = 1 << 20
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. `name`: its path inside the folder, with `/`; a ZIP file is a folder of that name.

    Attributes:
        inside: its path inside the ZIP file `path`; "" if it is not in one.
        modified: Unix seconds; None if unknown.
    """

    name: str
    path: Path
    inside: str
    size: int
    modified: float | None

    @property
    def base_name(self) -> str:
        """The last part of its name."""
        return PurePosixPath(self.name).name

    @property
    def folder(self) -> str:
        """The folder that it is in; "" at the top."""
        parent = str(PurePosixPath(self.name).parent)
        return "" if parent == "." else parent

    def read(self, limit: int) -> bytes:
        """Its first `limit` bytes.

        Raises:
            BadRequest, NotThere, Refused: it cannot be read.
        """
        with self._opened() as file:
            return file.read(limit)

    def copy(self, write: Callable[[bytes], object]) -> None:
        """Pass its bytes to `write`, block by block.

        Raises:
            BadRequest, NotThere, Refused: it cannot be read.
        """
        with self._opened() as file:
            while block := file.read(_BLOCK):
                write(block)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            if not self.inside:
                with self.path.open("rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(self.path) as source, source.open(self.inside) as member:
                    yield member
        except FileNotFoundError as exc:
            raise NotThere(msg("{file} is not there any more.", file=self.name)) from exc
        except PermissionError as exc:
            raise Refused(
                msg("{file} can't be read: permission denied.", file=self.name),
                msg("Give the user that runs Fabula permission to read it, then archive again."),
            ) from exc
        except (*_BROKEN, KeyError) as exc:
            raise BadRequest(msg("{file} is damaged and can't be read.", file=self.name)) from exc


def list_entries(root: Path) -> list[Entry]:
    """All files in a folder, or in one ZIP file, by name. Hidden files and links are left out.

    Raises:
        Misconfigured: there is no such folder, it can't be read, has too many files, or its ZIP files unpack to too
            many bytes.
    """
    if not root.exists():
        raise Misconfigured(
            msg("There is no folder {path}.", path=root), msg("What is archived is safe. Put the folder back there.")
        )
    try:
        entries = _zip_entries(root, "") if root.is_file() else _folder_entries(root)
        found = list(islice(entries, MAX_ENTRIES + 1))
        if len(found) > MAX_ENTRIES:
            raise _too_many(root)
        _check_unpacked(root, found)
    except PermissionError as exc:
        raise Misconfigured(
            msg("{file} can't be read: permission denied.", file=exc.filename or root),
            msg("Give the user that runs Fabula permission to read it."),
        ) from exc
    except BadFile as exc:
        raise Misconfigured(exc.what, exc.next_step) from exc
    return sorted(found, key=lambda one: one.name)


def _folder_entries(root: Path) -> Iterator[Entry]:
    seen = 0
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(one for one in subfolders if not one.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            seen += 1
            if seen > MAX_ENTRIES:
                raise _too_many(root)
            relative = path.relative_to(root).as_posix()
            if name.lower().endswith(".zip") and zipfile.is_zipfile(path):
                yield from _zip_entries(path, f"{relative}/")
            else:
                about = path.stat()
                yield Entry(relative, path, "", about.st_size, about.st_mtime)


def _zip_entries(path: Path, prefix: str) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as source:
            members = source.infolist()
    except _BROKEN as exc:
        raise BadFile(msg("{path} is no ZIP file.", path=path.name), msg("Choose a folder or a ZIP file.")) from exc
    if len(members) > MAX_ENTRIES:
        raise _too_many(path)
    modified = path.stat().st_mtime
    for member in members:
        parts = PurePosixPath(member.filename).parts
        if not member.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts):
            yield Entry(f"{prefix}{member.filename}", path, member.filename, member.file_size, modified)


def _check_unpacked(root: Path, entries: Sequence[Entry]) -> None:
    """Check the sizes that ZIP files name for their contents; no more than that is ever read of them.

    Raises:
        BadFile: they are too large.
    """
    packed = {one.path for one in entries if one.inside}
    unpacked = sum(one.size for one in entries if one.inside)
    limit = min(_MOST_BYTES, max(_ALWAYS_BYTES, _MOST_RATIO * sum(path.stat().st_size for path in packed)))
    if unpacked > limit:
        raise BadFile(
            msg(
                "The ZIP files in {path} unpack to {n} GB. Fabula unpacks at most {limit} GB of them.",
                path=root.name,
                n=f"{unpacked / 1e9:,.0f}",
                limit=f"{limit / 1e9:,.0f}",
            ),
            msg("If you trust them, unpack them yourself and choose the folder."),
        )


def _too_many(path: Path) -> BadFile:
    return BadFile(
        msg("{path} has more than {n} files.", path=path, n=f"{MAX_ENTRIES:,}"), msg("Split it into several folders.")
    )


def _raise(error: OSError) -> None:
    raise error
