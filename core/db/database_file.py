"""Whether the SQLite file is still the one that was opened. SQLite itself goes on writing into a deleted file, and
into one whose first pages were overwritten, without an error: what it commits then is lost with the process."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core.db import storage_errors
from core.errors import DatabaseLost

_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html, section 1.3
_FIXED = slice(0, 24)  # magic, page size, file format and payload fractions: none of them changes with a commit
_Identity = tuple[int, int]  # device, inode

# Closing any descriptor of a file drops all POSIX locks that this process has on it, also SQLite's own
# (https://www.sqlite.org/howtocorrupt.html, section 2.2). So there is one for each file, shared by all stores, and it
# is closed when the last of them has closed its connections.
_shared: dict[_Identity, list[int]] = {}  # identity → [descriptor, users]
_lock = threading.Lock()


class Seen(NamedTuple):
    """Which file a check found. Two that are equal: the file was never lost in between."""

    identity: _Identity
    losses: int


@dataclass(slots=True)
class _Loss:
    """A file that was lost. It is one of the users of its descriptor: its inode is not given to another file.

    `journal` is an open descriptor of the write-ahead log that it left; None: there was none.
    """

    identity: _Identity
    overwritten: bool
    journal: int | None


_losses: dict[Path, _Loss] = {}  # until a file is there again
_current: dict[Path, _Identity] = {}  # the file that the stores of this process use, or used last


class DatabaseFile:
    """The file of one store. A check is one stat and one read of 24 bytes, some 5 µs. Safe between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: _Identity | None = None
        self._header = b""
        self._lost = 0

    def check(self) -> Seen:
        """See that the path still names the file that was there at the first check, and that it is a database.

        Raises:
            DatabaseLost: it was deleted, replaced, truncated or overwritten; or another file is there now, beside the
                write-ahead log of the lost one, which SQLite would read as if it belonged to the new file.
        """
        with _lock:
            identity = self._identity or self._adopt()
            if not self._names(identity):
                self._lose(identity, overwritten=False)
                raise storage_errors.gone()
            if not self._is_whole(identity):
                self._lose(identity, overwritten=True)
                raise storage_errors.damaged()
            return Seen(identity, self._lost)

    def forget(self) -> None:
        """Take the file that is there at the next check. All connections of the store must be closed."""
        with _lock:
            if self._identity is None:
                return
            _release(self._identity)
            self._identity, self._header = None, b""

    def _names(self, identity: _Identity) -> bool:
        with suppress(DatabaseLost):
            return self._found() == identity
        return False

    def _is_whole(self, identity: _Identity) -> bool:
        header = os.pread(_shared[identity][0], 24, 0)[_FIXED]
        if not self._header and header:
            self._header = header
        return header == self._header and (not header or header.startswith(_MAGIC))

    def _adopt(self) -> _Identity:
        identity = self._found()
        loss = _losses.get(self.path)
        if loss is not None and self._journal_is_left(loss, identity):
            raise storage_errors.old_journal(self._journal)
        if identity not in _shared:
            try:
                _shared[identity] = [os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), 0]
            except OSError as exc:
                raise storage_errors.gone() from exc
        _shared[identity][1] += 1
        self._identity = _current[self.path] = identity
        if loss is not None:
            del _losses[self.path]
            _release(loss.identity)
            if loss.journal is not None:
                os.close(loss.journal)
        return identity

    def _lose(self, identity: _Identity, *, overwritten: bool) -> None:
        self._lost += 1
        if self.path in _losses or _current[self.path] != identity:  # another store of this process was first
            return
        journal = None
        with suppress(OSError):
            journal = os.open(self._journal, os.O_RDONLY | os.O_CLOEXEC)
        _shared[identity][1] += 1
        _losses[self.path] = _Loss(identity, overwritten, journal)

    def _journal_is_left(self, loss: _Loss, identity: _Identity) -> bool:
        """Whether the lost file's write-ahead log is beside another file. A file that was moved back needs its log."""
        if loss.journal is None or (identity == loss.identity and not loss.overwritten):
            return False
        with suppress(OSError):
            return os.path.samestat(os.fstat(loss.journal), self._journal.stat())
        return False

    @property
    def _journal(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")  # https://www.sqlite.org/tempfiles.html, section 2.2

    def _found(self) -> _Identity:
        try:
            status = self.path.stat()
        except OSError as exc:
            raise storage_errors.gone() from exc
        return status.st_dev, status.st_ino


def _release(identity: _Identity) -> None:
    shared = _shared[identity]
    shared[1] -= 1
    if not shared[1]:
        os.close(_shared.pop(identity)[0])
