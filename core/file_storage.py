"""Small files under names, in a folder: `FolderStorage`. `core.bucket_storage` keeps them in an S3 bucket instead.

A write replaces the whole file at once: a reader gets the earlier or the new content, never a part of one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from core import file_permissions
from core.errors import BadFile, StorageFull
from core.message import msg

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
MAX_NAME = 200  # characters of a name
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One version of a file. Two are equal if they are the same version of the same file.

    Attributes:
        place: the storage that it is in.
        name: its name there.
        version: changes with the content.
        modified: when it was written (UTC).
        load: reads the content. Raises StorageFull if it cannot be read.
    """

    place: str
    name: str
    version: str
    modified: datetime
    load: Callable[[], bytes] = field(compare=False, repr=False)


class FileStorage(Protocol):
    """A place for small files. All methods raise StorageFull if the place cannot be used.

    Names are relative paths of letters, digits, `_`, `-` and `.`; BadFile is raised for any other name.
    """

    @property
    def place(self) -> str:
        """The folder or the address, for display."""

    def find(self, name: str) -> StoredFile | None:
        """The file, or None if there is none."""

    def write_bytes(self, name: str, data: bytes, modified: datetime | None = None) -> None:
        """Create or replace a file. `modified` is the time that it gets; None means now."""

    def unlink(self, name: str) -> None:
        """Delete a file, if there is one."""

    def reach(self) -> None:
        """Check that the place can be read."""


def checked_name(name: str) -> str:
    """The name, if it can be used in every storage and leads nowhere else.

    Raises:
        BadFile: it cannot.
    """
    if len(name) > MAX_NAME or _NAME.fullmatch(name) is None or name.endswith(".part"):
        raise BadFile(
            msg("“{name}” can't be used as a file name.", name=name[:MAX_NAME]),
            msg("Use letters, digits, `_`, `-` and `.`."),
        )
    return name


class FolderStorage:
    """Files in a folder.

    Args:
        folder: the folder.
        shared: several hosts mount it, so it must already exist. Otherwise it is created with the first file.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._folder, self._shared = folder, shared

    @property
    def place(self) -> str:
        """See `FileStorage`."""
        return str(self._folder)

    def find(self, name: str) -> StoredFile | None:
        """See `FileStorage`."""
        path = self._path(name)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._require_folder()
            return None
        except OSError as exc:
            raise _unreadable(path, exc) from exc
        if not stat.S_ISREG(found.st_mode):
            return None
        version = f"{found.st_mtime_ns} {found.st_size}"
        return StoredFile(self.place, name, version, datetime.fromtimestamp(found.st_mtime, UTC), lambda: _read(path))

    def write_bytes(self, name: str, data: bytes, modified: datetime | None = None) -> None:
        """See `FileStorage`."""
        path = self._path(name)
        self._require_folder()
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(temporary, "xb", opener=file_permissions.private_opener) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if modified is not None:
                os.utime(temporary, (modified.timestamp(), modified.timestamp()))
            os.replace(temporary, path)
        except OSError as exc:
            with suppress(OSError):
                os.remove(temporary)
            raise _unwritable(path, exc) from exc

    def unlink(self, name: str) -> None:
        """See `FileStorage`."""
        path = self._path(name)
        self._require_folder()
        try:
            os.remove(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise _unwritable(path, exc) from exc

    def reach(self) -> None:
        """See `FileStorage`."""
        self._require_folder()
        if self._folder.is_dir() and not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            raise _unreadable(self._folder, denied) from denied

    def _path(self, name: str) -> Path:
        return self._folder / checked_name(name)

    def _require_folder(self) -> None:
        if self._shared and not self._folder.is_dir():
            raise StorageFull(
                msg("The shared folder {folder} does not exist.", folder=self._folder),
                msg("Nothing is lost. Create or mount it, or correct `FABULA_FILES_URL`, then try again."),
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _unreadable(path: Path, error: OSError) -> StorageFull:
    return StorageFull(
        msg("{path} can't be read: {reason}.", path=path, reason=error.strerror or type(error).__name__),
        msg("Nothing is lost. Give Fabula's user access to it, then try again."),
    )


def _unwritable(path: Path, error: OSError) -> StorageFull:
    full = error.errno in _FULL
    return StorageFull(
        msg("{path} could not be saved: {reason}.", path=path, reason=error.strerror or type(error).__name__),
        msg("The earlier version is unchanged. Free some space, then save again.")
        if full
        else msg("The earlier version is unchanged. Give Fabula write permission to the folder, then save again."),
    )
