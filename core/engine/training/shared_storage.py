"""Storage that the engine shares with the trainers of a cluster: a folder, or a bucket (`shared_bucket`).

Both keep files under paths with `/`. A file is whole or not there; only the files that a trainer appends to (`extend`)
grow. `core.engine.training.attempts` knows which files there are.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

_OLD_COPY_S = 24 * 3600.0  # a copy under way is written to all the time


class StorageUnreachable(OSError):
    """The storage does not answer; later it may. The argument is a `core.message.Message`."""


class StorageRefused(OSError):
    """The storage is full, refuses access or is not set up: waiting does not help.

    Attributes:
        what: what happened.
        next_step: what to do.
    """

    def __init__(self, what: str, next_step: str = "") -> None:
        super().__init__(what)  # one argument: it must survive being pickled
        self.what, self.next_step = what, next_step


class SharedStorage(Protocol):
    """The files. Every method raises OSError; for a bucket, StorageUnreachable or StorageRefused."""

    @property
    def place(self) -> str:
        """The folder or address, for messages."""

    @property
    def poll_s(self) -> float:
        """Seconds between two looks at files that may have changed."""

    def location(self, path: str) -> str:
        """What a job's specification and a trainer's command line contain for a path."""

    def read(self, path: str, length: int | None = None) -> bytes | None:
        """A file, or its first `length` bytes; None if there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file durably."""

    def create(self, path: str) -> None:
        """Create a file. Raises FileExistsError if there is one: of several callers, one succeeds."""

    def files(self, folder: str) -> list[str]:
        """The names of the files that are directly in a folder, in order."""

    def put(self, source: Path, path: str) -> None:
        """Copy a local file or folder to the storage, unless it is there."""

    def get(self, path: str, target: Path) -> None:
        """Copy a file of the storage to a local one, unless a copy of this size is there."""

    def share(self, source: str, target: str) -> None:
        """Copy a file that is only ever replaced within the storage."""

    def start(self, source: Path, path: str) -> None:
        """Begin a file that will be appended to with the content of a local one."""

    def extend(self, path: str, target: Path, before: Callable[[bytes], None] | None = None) -> None:
        """Append the complete lines that `target`, a copy of the file's beginning, does not have yet.

        Args:
            path: a file that is appended to. Nothing happens if there is none.
            target: a local file.
            before: is called with the new lines before they are in `target`.
        """

    def delete(self, folder: str) -> None:
        """Delete a folder, if there is one."""

    def ray_storage(self, path: str) -> Mapping[str, Any]:
        """The arguments of Ray's `RunConfig` for a folder that all nodes can write to."""


class SharedFolder:
    """A folder that is mounted at the same path everywhere; see `SharedStorage`."""

    poll_s: Final = 0.0  # files are looked at as often as those of a local trainer

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, str(root)

    def location(self, path: str) -> str:
        """See `SharedStorage`."""
        return str(self.root / path)

    def read(self, path: str, length: int | None = None) -> bytes | None:
        """See `SharedStorage`."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(-1 if length is None else length)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes) -> None:
        """See `SharedStorage`."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".part")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)

    def create(self, path: str) -> None:
        """See `SharedStorage`."""
        os.close(os.open(self.root / path, os.O_CREAT | os.O_EXCL))

    def files(self, folder: str) -> list[str]:
        """See `SharedStorage`."""
        return sorted(path.name for path in (self.root / folder).glob("*") if path.is_file())

    def put(self, source: Path, path: str) -> None:
        """See `SharedStorage`."""
        _delete_old_copies(self.root / path)
        _copy(source, self.root / path)

    def get(self, path: str, target: Path) -> None:
        """See `SharedStorage`."""
        _copy(self.root / path, target)

    def share(self, source: str, target: str) -> None:
        """See `SharedStorage`: a hard link, or a copy if that is not possible."""
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.root / source, self.root / target)
        except OSError:
            _copy(self.root / source, self.root / target)

    def start(self, source: Path, path: str) -> None:
        """See `SharedStorage`."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.root / path)

    def extend(self, path: str, target: Path, before: Callable[[bytes], None] | None = None) -> None:
        """See `SharedStorage`."""
        try:
            with (self.root / path).open("rb") as file:
                size, known = os.fstat(file.fileno()).st_size, target.stat().st_size if target.exists() else 0
                if size == known:
                    return
                file.seek(known if known < size else 0)
                lines = complete_lines(file.read())
        except FileNotFoundError:
            return
        if before is not None:
            before(lines)
        if known < size:
            append(lines, target)
        else:  # the storage has lost the end, in a power failure
            partial = target.with_name(target.name + ".part")
            partial.write_bytes(lines)
            os.replace(partial, target)

    def delete(self, folder: str) -> None:
        """See `SharedStorage`. Raises OSError if something is left, such as what a trainer wrote meanwhile."""
        shutil.rmtree(self.root / folder, ignore_errors=True)
        if (self.root / folder).exists():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self.root / folder))

    def ray_storage(self, path: str) -> Mapping[str, Any]:
        """See `SharedStorage`."""
        return {"storage_path": self.location(path)}


def complete_lines(block: bytes) -> bytes:
    """The part of a block up to its last line break."""
    return block[: block.rfind(b"\n") + 1]


def append(lines: bytes, target: Path) -> None:
    """Append lines to a local file, which is created if needed."""
    with target.open("ab") as out:
        out.write(lines)


def _delete_old_copies(target: Path) -> None:
    """Delete copies of `target` that were begun a day ago, by an engine that was killed."""
    for partial in target.parent.glob(f"{glob.escape(target.name)}.*.part"):
        if time.time() - _last_written(partial) > _OLD_COPY_S:
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def _last_written(path: Path) -> float:
    """When a file or folder, or one of its files, was last changed, in Unix seconds."""
    try:
        return max(found.stat().st_mtime for found in (path, *path.rglob("*")))
    except FileNotFoundError:  # another engine has just finished it
        return time.time()


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder atomically and durably, unless the copy is there already."""
    if target.exists() and (source.is_dir() or target.stat().st_size == source.stat().st_size):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid4().hex}.part")  # another engine may copy it as well
    try:
        if source.is_dir():
            shutil.copytree(source, partial)
        else:
            shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        if not (source.is_dir() and target.is_dir()):  # otherwise another engine was faster
            raise
