"""Rescue files hold paid results that could not be written to the database: one JSON object per line.

This module handles files and lines, not their content; `core.jobs.recovery` restores the entries. A line is durable
once `add` has returned. The files are readable only by their owner (0600), because they contain prompts and texts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from core import message
from core.db.store import Store, new_id

Entry = dict[str, Any]
"""One line. `id` is unique, so that an entry is restored only once; `kind` is the type of the entry."""

_log = logging.getLogger("fabula.rescue")


def folders(home: Path) -> list[tuple[Path, str]]:
    """Possible places for rescue files, best first: (folder, prefix of the file name).

    First next to the home directory, because that itself may have been deleted; then inside it, for a home directory at
    the root of a volume; last in the folder for temporary files.
    """
    key = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return [
        (home.parent, f"{home.name}.rescue-"),
        (home, "rescue-"),
        (Path(tempfile.gettempdir()), f"fabula-{key}.rescue-"),
    ]


def files(home: Path) -> list[Path]:
    """The existing rescue files, oldest first."""
    found: list[Path] = []
    for folder, name in folders(home):
        with suppress(OSError):
            found += sorted(path for path in folder.iterdir() if path.name.startswith(name) and path.suffix == ".jsonl")
    return found


class RescueFile:
    """A rescue file for appending; it is created with the first line.

    Attributes:
        path: path of the file; None if nothing has been written yet.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._name = new_id()
        self.path: Path | None = None

    def add(self, entries: Sequence[Entry]) -> bool:
        """Append entries and sync them to disk; return whether that succeeded."""
        if not entries:
            return True
        data = b"".join(_line(entry) for entry in entries)
        for path in self._candidate_paths():
            try:
                _append(path, data)
            except OSError as exc:
                _log.warning("%s cannot be written: %s.", path, exc.strerror)
                continue
            if self.path is None:
                self.path = path
                _log.error("Paid results are saved in %s and restored at the next start.", path)
            return True
        _log.error("%d results could be written neither to the database nor to a rescue file.", len(entries))
        return False

    def discard(self) -> None:
        """Delete the file; call this once its entries are in the database."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()
            self.path = None

    def _candidate_paths(self) -> list[Path]:
        if self.path is not None:
            return [self.path]
        return [folder / f"{name}{self._name}.jsonl" for folder, name in folders(self._home)]


def write_or_rescue(store: Store, write: Callable[[Session], object], entry: Entry) -> None:
    """Write a paid result in its own transaction; if that fails, add `entry` to a rescue file.

    Raises:
        Exception: the error from `write`, even if the entry was saved and may be restored at the next start, for
            example after a full disk.
    """
    try:
        with store.session() as session:
            write(session)
    except Exception:
        RescueFile(store.home).add([entry])
        raise


def consume(path: Path, accept: Callable[[Entry], bool]) -> int:
    """Pass every line of a file to `accept` and remove the accepted ones; rejected and malformed lines remain.

    The file is locked during this, and deleted when it is empty.

    Returns:
        The number of remaining lines.

    Raises:
        OSError: the file cannot be read or written; it is left unchanged.
        Exception: an error from `accept`; the file is left unchanged, so lines may be passed again.
    """
    descriptor = _locked(path, os.O_RDWR)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            lines = [line for line in file.read().splitlines(keepends=True) if line.strip()]
        remaining = [line for line in lines if not _is_accepted(line, accept)]
        if not remaining:
            path.unlink()
        elif len(remaining) < len(lines):
            _replace(path, remaining)
        return len(remaining)
    finally:
        os.close(descriptor)


def count(path: Path) -> int:
    """Number of lines in a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _is_accepted(line: bytes, accept: Callable[[Entry], bool]) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and accept(_map_texts(entry, message.loads))


def _line(entry: Entry) -> bytes:
    """An entry as one line of JSON, with line breaks escaped."""
    stored = _map_texts({"id": new_id(), **entry}, message.dumps)
    return json.dumps(stored, default=str, separators=(",", ":")).encode() + b"\n"


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Apply `change` to every text in `value`, also in nested dicts and lists, as a message may be anywhere."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map_texts(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(one, change) for one in value]
    return value


def _append(path: Path, data: bytes) -> None:
    new = not path.exists()
    descriptor = _locked(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, end)  # remove the partial line
            raise
    finally:
        os.close(descriptor)
    if new:
        _sync_folder(path.parent)


def _locked(path: Path, flags: int) -> int:
    """Open and lock a file; closing the descriptor releases the lock."""
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was restored in the meantime, so the path refers to another file or none


def _replace(path: Path, lines: Iterable[bytes]) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # created with mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not supported by every file system
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
