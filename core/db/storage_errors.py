"""Translates problems with the database's storage to `StorageFull` or `DatabaseLost`.

`storage_fault` translates database errors; errors caused by a bug are not translated. `DatabaseFile` detects that the
SQLite file was deleted, replaced or overwritten while it is open: SQLite itself keeps writing to it without an error,
and those commits are lost when the process ends.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import exc as sa_exc

from core.errors import DatabaseLost, StorageFull
from core.message import msg

_FULL = (
    msg("The disk that holds Fabula's database is full."),
    msg("Nothing saved so far is lost. Free some space, then continue."),
)
_LOCKED = (
    msg("The database is busy: another program has locked it."),
    msg("Nothing saved so far is lost. Close the other program, or try again in a minute."),
)
_READ_ONLY = (
    msg("The database cannot be written: it is read-only."),
    msg("Give Fabula write permission to its home folder (`FABULA_HOME`), then try again."),
)
_UNREACHABLE = (
    msg("The database cannot be reached."),
    msg("Paid requests are stopped. Check that the database and its folder exist (`FABULA_HOME`, `DATABASE_URL`)."),
)
_UNUSABLE = (
    msg("The database file cannot be opened, read or written."),
    msg(
        "Paid requests are stopped. Check that Fabula may write to its home folder (`FABULA_HOME`), and that its disk "
        "is not read-only."
    ),
)
_DAMAGED = (
    msg("The database file is damaged or is not a database."),
    msg(
        "Paid requests are stopped. Restore a backup, or move the file away and restart: "
        "Fabula then starts an empty one."
    ),
)
_NO_PERMISSION = (
    msg("The database does not let Fabula write: its permissions were revoked."),
    msg("Nothing saved so far is lost. Restore the database user's permissions; Fabula then continues."),
)
_NO_TABLES = (
    msg("Tables that Fabula needs are missing from the database."),
    msg("Restore a backup of the database, then restart Fabula."),
)
_NO_FREE_CONNECTION = (
    msg("The database has no free connection: there are too many requests at once."),
    msg("Nothing saved so far is lost. Try again in a minute."),
)

# https://www.sqlite.org/rescode.html, primary result codes
_SQLITE = {
    3: _READ_ONLY,
    5: _LOCKED,
    6: _LOCKED,
    8: _READ_ONLY,
    10: _UNUSABLE,
    11: _DAMAGED,
    13: _FULL,
    14: _UNUSABLE,
    23: _NO_PERMISSION,
    26: _DAMAGED,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html; complete codes take precedence over classes
_POSTGRES = {
    "53100": _FULL,
    "53300": _NO_FREE_CONNECTION,
    "25006": _READ_ONLY,
    "40P01": _LOCKED,
    "55P03": _LOCKED,
    "42501": _NO_PERMISSION,
    "42P01": _NO_TABLES,
    "3D000": _UNREACHABLE,
    "3F000": _NO_TABLES,
    "08": _UNREACHABLE,
    "28": _NO_PERMISSION,
    "53": _FULL,
    "57P": _UNREACHABLE,
    "58": _UNREACHABLE,
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
}
_TEMPORARY = (_FULL, _LOCKED, _NO_FREE_CONNECTION)
"""Errors that running jobs retry until they are resolved. All others become `DatabaseLost`."""


def storage_fault(error: BaseException) -> StorageFull | None:
    """Return the `StorageFull` for a database error; None if the error is caused by a bug (bad SQL, a violated
    constraint).
    """
    if isinstance(error, sa_exc.TimeoutError):  # raised by the connection pool
        return StorageFull(*_NO_FREE_CONNECTION)
    if not isinstance(error, sa_exc.DBAPIError):
        return None
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        sentences = _sqlite(cause)
    else:
        sentences = _postgres(error, getattr(cause, "sqlstate", None))
    if sentences is None:
        return None
    return StorageFull(*sentences) if sentences in _TEMPORARY else DatabaseLost(*sentences)


def unreachable() -> DatabaseLost:
    """The error for a database file that was deleted or replaced."""
    return DatabaseLost(*_UNREACHABLE)


def _leftover_journal(journal: Path) -> DatabaseLost:
    """The error for a replaced file next to the old file's journal, which SQLite would apply to it."""
    return DatabaseLost(
        msg("The database file was replaced, but the journal of the old one is still there: {path}", path=journal),
        msg(
            "Paid requests are stopped. Stop Fabula, move `{wal}` and `{shm}` out of the folder, then start it again.",
            wal=journal.name,
            shm=journal.name.removesuffix("-wal") + "-shm",
        ),
    )


def damaged() -> DatabaseLost:
    """The error for an overwritten database file."""
    return DatabaseLost(*_DAMAGED)


def _sqlite(cause: sqlite3.Error) -> tuple[str, str] | None:
    if "no such table" in str(cause):  # SQLite reports this as the generic SQLITE_ERROR
        return _NO_TABLES
    return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)


def _postgres(error: sa_exc.DBAPIError, sqlstate: str | None) -> tuple[str, str] | None:
    if sqlstate is None:  # no response from the server: the connection broke or was never established
        broken = error.connection_invalidated or isinstance(error, (sa_exc.OperationalError, sa_exc.InterfaceError))
        return _UNREACHABLE if broken else None
    return _POSTGRES.get(sqlstate) or _POSTGRES.get(sqlstate[:3]) or _POSTGRES.get(sqlstate[:2])


# --- the SQLite file --------------------------------------------------------------------------------------------------

_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html, section 1.3
_HEADER_BYTES = 24
_JOURNAL_MODE = slice(18, 20)  # changes when a copy that is not in WAL mode is opened
_Identity = tuple[int, int]  # device, inode

# Closing any descriptor of a file releases all POSIX locks of this process on it, including SQLite's own
# (https://www.sqlite.org/howtocorrupt.html, section 2.2). All stores therefore share one descriptor per file, which is
# closed after the last of them has closed its connections.
_shared: dict[_Identity, list[int]] = {}  # identity → [descriptor, users]
_lock = threading.Lock()


class DatabaseFileCheck(NamedTuple):
    """Result of a check. If two results are equal, the file was not lost between them."""

    identity: _Identity
    losses: int


@dataclass(slots=True)
class _LostFile:
    """A file that was lost. It keeps the shared descriptor in use, so that the inode is not reused.

    `journal` is an open descriptor of the write-ahead log that it left behind; None if there was none.
    """

    identity: _Identity
    overwritten: bool
    journal: int | None


_losses: dict[Path, _LostFile] = {}  # entries are removed once a file exists again
_current: dict[Path, _Identity] = {}  # the file that this process's stores use or last used


class DatabaseFile:
    """One store's database file. A check consists of one stat and one read of 24 bytes, about 5 µs. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: _Identity | None = None
        self._header = b""
        self._losses_seen = 0

    def check(self) -> DatabaseFileCheck:
        """Check that the path still refers to the file of the first check, and that it is intact.

        Raises:
            DatabaseLost: the file was deleted, replaced, truncated or overwritten, or the old file's write-ahead log
                still exists next to a new file, to which SQLite would apply it.
        """
        identity = self._identity
        if identity is not None and self._is_unchanged(identity):
            return DatabaseFileCheck(identity, self._losses_seen)
        with _lock:
            identity = self._identity or self._register()
            if not self._is_at_path(identity):
                self._record_loss(identity, overwritten=False)
                raise unreachable()
            if not self._is_intact(identity):
                self._record_loss(identity, overwritten=True)
                raise damaged()
            return DatabaseFileCheck(identity, self._losses_seen)

    def release(self) -> None:
        """Release the file; the next check accepts the file that exists then. The store must have no connections."""
        with _lock:
            if self._identity is None:
                return
            _release(self._identity)
            self._identity, self._header = None, b""

    def _is_unchanged(self, identity: _Identity) -> bool:
        """Whether nothing has happened to the file, without the lock; if False, that has to be checked with it.

        Another thread may close the shared descriptor meanwhile. While holding the lock, no thread should wait for
        the file system: reads of many threads would queue up behind each other.
        """
        with suppress(KeyError, OSError):
            if self._header and self._is_at_path(identity):
                return _fixed(os.pread(_shared[identity][0], _HEADER_BYTES, 0)) == self._header
        return False

    def _is_at_path(self, identity: _Identity) -> bool:
        with suppress(DatabaseLost):
            return self._stat_identity() == identity
        return False

    def _is_intact(self, identity: _Identity) -> bool:
        header = _fixed(os.pread(_shared[identity][0], _HEADER_BYTES, 0))
        if not self._header and header:
            self._header = header
        return header == self._header and (not header or header.startswith(_MAGIC))

    def _register(self) -> _Identity:
        identity = self._stat_identity()
        loss = _losses.get(self.path)
        if loss is not None and self._has_leftover_journal(loss, identity):
            raise _leftover_journal(self._journal)
        if identity not in _shared:
            try:
                _shared[identity] = [os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), 0]
            except OSError as exc:
                raise unreachable() from exc
        _shared[identity][1] += 1
        self._identity = _current[self.path] = identity
        if loss is not None:
            del _losses[self.path]
            _release(loss.identity)
            if loss.journal is not None:
                os.close(loss.journal)
        return identity

    def _record_loss(self, identity: _Identity, *, overwritten: bool) -> None:
        self._losses_seen += 1
        # another store in this process has already recorded the loss
        if self.path in _losses or _current[self.path] != identity:
            return
        journal = None
        with suppress(OSError):
            journal = os.open(self._journal, os.O_RDONLY | os.O_CLOEXEC)
        _shared[identity][1] += 1
        _losses[self.path] = _LostFile(identity, overwritten, journal)

    def _has_leftover_journal(self, loss: _LostFile, identity: _Identity) -> bool:
        """Whether the lost file's write-ahead log is next to a different file. If the same file was moved back, it
        needs that log.
        """
        if loss.journal is None or (identity == loss.identity and not loss.overwritten):
            return False
        with suppress(OSError):
            return os.path.samestat(os.fstat(loss.journal), self._journal.stat())
        return False

    @property
    def _journal(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")  # https://www.sqlite.org/tempfiles.html, section 2.2

    def _stat_identity(self) -> _Identity:
        try:
            status = self.path.stat()
        except OSError as exc:
            raise unreachable() from exc
        return status.st_dev, status.st_ino


def _fixed(header: bytes) -> bytes:
    """The part of a file's header that no commit changes: magic, page size, reserved space, payload fractions."""
    return header[: _JOURNAL_MODE.start] + header[_JOURNAL_MODE.stop :]


def _release(identity: _Identity) -> None:
    shared = _shared[identity]
    shared[1] -= 1
    if not shared[1]:
        os.close(_shared.pop(identity)[0])
