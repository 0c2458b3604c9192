"""Files for what was paid for and cannot be written into the database: one JSON object a line, beside the home.

This module knows files and lines, not what is in them: `core.recovery` takes them in again. A line is durable once
`add` has returned. The files belong to their owner alone (0600): they hold prompts and texts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from core import message
from core.db.store import Store, new_id

Entry = dict[str, Any]
"""One line. `id` makes it unique, so that it is taken in once; `kind` says what it is."""

_log = logging.getLogger("fabula.rescue")


def folders(home: Path) -> list[tuple[Path, str]]:
    """Where the files of a home may be, best first: (folder, beginning of the name).

    Beside the home, because the home itself may have been deleted; then in it, for homes at the root of a volume; last
    in the folder for temporary files.
    """
    key = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return [
        (home.parent, f"{home.name}.rescue-"),
        (home, "rescue-"),
        (Path(tempfile.gettempdir()), f"fabula-{key}.rescue-"),
    ]


def files(home: Path) -> list[Path]:
    """The rescue files that there are, oldest first."""
    found: list[Path] = []
    for folder, name in folders(home):
        with suppress(OSError):
            found += sorted(path for path in folder.iterdir() if path.name.startswith(name) and path.suffix == ".jsonl")
    return found


class RescueFile:
    """One file to add lines to; it is made with the first one.

    Attributes:
        path: where it is; None: nothing was written yet.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._name = new_id()
        self.path: Path | None = None

    def add(self, entries: Sequence[Entry]) -> bool:
        """Append lines and wait until the disk has them; whether it worked."""
        if not entries:
            return True
        data = b"".join(_line(entry) for entry in entries)
        for path in self._places():
            try:
                _append(path, data)
            except OSError as exc:
                _log.warning("%s cannot be written: %s.", path, exc.strerror)
                continue
            if self.path is None:
                self.path = path
                _log.error("What was paid for is kept in %s; it is taken in at the next start.", path)
            return True
        _log.error("%d answers could be written neither into the database nor into a file.", len(entries))
        return False

    def discard(self) -> None:
        """Remove it: everything in it is in the database by now."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()
            self.path = None

    def _places(self) -> list[Path]:
        if self.path is not None:
            return [self.path]
        return [folder / f"{name}{self._name}.jsonl" for folder, name in folders(self._home)]


def write_or_keep(store: Store, work: Callable[[Session], object], entry: Entry) -> None:
    """Write what was paid for in a transaction of its own; where that fails, keep `entry` in a rescue file.

    Raises:
        Exception: what the database said. A disk that is full now may have room at the next start; so may its rights.
    """
    try:
        with store.session() as session:
            work(session)
    except Exception:
        RescueFile(store.home).add([entry])
        raise


def take(path: Path, accept: Callable[[Entry], bool]) -> int:
    """Give every line of a file to `accept`; those that it refuses, and those that are no JSON, stay in the file.

    Nobody else reads or adds lines meanwhile. The file is removed when nothing is left in it.

    Returns:
        How many lines stayed.

    Raises:
        OSError: the file cannot be read or written; it is as it was.
        Exception: what `accept` raised; the file is as it was, lines may be given again.
    """
    descriptor = _locked(path, os.O_RDWR)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            lines = [line for line in file.read().splitlines(keepends=True) if line.strip()]
        left = [line for line in lines if not _accepted(line, accept)]
        if not left:
            path.unlink()
        elif len(left) < len(lines):
            _replace(path, left)
        return len(left)
    finally:
        os.close(descriptor)


def count(path: Path) -> int:
    """Lines of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _accepted(line: bytes, accept: Callable[[Entry], bool]) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and accept(
        {k: message.loads(v) if isinstance(v, str) else v for k, v in entry.items()}
    )


def _line(entry: Entry) -> bytes:
    """JSON without a raw line separator inside, so that a line is one entry."""
    stored = {name: message.dumps(value) if isinstance(value, str) else value for name, value in entry.items()}
    return json.dumps({"id": new_id(), **stored}, default=str, separators=(",", ":")).encode() + b"\n"


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
                os.ftruncate(descriptor, end)  # no half line before the next one
            raise
    finally:
        os.close(descriptor)
    if new:
        _sync_folder(path.parent)


def _locked(path: Path, flags: int) -> int:
    """A descriptor of the file that nobody else has; the lock ends when it is closed."""
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
        os.close(descriptor)  # it was taken in while we waited: another file has its name now, or none


def _replace(path: Path, lines: Iterable[bytes]) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # made with 0600
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
    with suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
