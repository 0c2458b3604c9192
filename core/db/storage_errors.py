"""What a database error means to a person: full, locked, gone, or a mistake of ours (then it stays as it is)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

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
_GONE = (
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
_NO_RIGHTS = (
    msg("The database does not let Fabula write: its permissions were revoked."),
    msg("Nothing saved so far is lost. Restore the database user's permissions; Fabula then continues."),
)
_NO_TABLES = (
    msg("Tables that Fabula needs are missing from the database."),
    msg("Restore a backup of the database, then restart Fabula."),
)
_CROWDED = (
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
    23: _NO_RIGHTS,
    26: _DAMAGED,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html, whole codes first, then their classes
_POSTGRES = {
    "53100": _FULL,
    "53300": _CROWDED,
    "25006": _READ_ONLY,
    "40P01": _LOCKED,
    "55P03": _LOCKED,
    "42501": _NO_RIGHTS,
    "42P01": _NO_TABLES,
    "3D000": _GONE,
    "3F000": _NO_TABLES,
    "08": _GONE,
    "28": _NO_RIGHTS,
    "53": _FULL,
    "57P": _GONE,
    "58": _GONE,
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
}
_PASSING = (_FULL, _LOCKED, _CROWDED)
"""What ends by itself or with a little room: work in hand waits for it. Everything else is a `DatabaseLost`."""


def storage_fault(error: BaseException) -> StorageFull | None:
    """The StorageFull that `error` means, or None when it is a fault of our own (bad SQL, a broken constraint)."""
    if isinstance(error, sa_exc.TimeoutError):  # the connection pool's own
        return StorageFull(*_CROWDED)
    if not isinstance(error, sa_exc.DBAPIError):
        return None
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        sentences = _sqlite(cause)
    else:
        sentences = _postgres(error, getattr(cause, "sqlstate", None))
    if sentences is None:
        return None
    return StorageFull(*sentences) if sentences in _PASSING else DatabaseLost(*sentences)


def gone() -> DatabaseLost:
    """The database file is not where it was, or another file has taken its place."""
    return DatabaseLost(*_GONE)


def old_journal(journal: Path) -> DatabaseLost:
    """Another file is in the database's place, and SQLite would read the journal of the lost file as part of it."""
    return DatabaseLost(
        msg("The database file was replaced, but the journal of the old one is still there: {path}", path=journal),
        msg(
            "Paid requests are stopped. Stop Fabula, move `{wal}` and `{shm}` out of the folder, then start it again.",
            wal=journal.name,
            shm=journal.name.removesuffix("-wal") + "-shm",
        ),
    )


def damaged() -> DatabaseLost:
    """The database file was overwritten."""
    return DatabaseLost(*_DAMAGED)


def _sqlite(cause: sqlite3.Error) -> tuple[str, str] | None:
    if "no such table" in str(cause):  # SQLite has no code of its own for this: SQLITE_ERROR
        return _NO_TABLES
    return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)


def _postgres(error: sa_exc.DBAPIError, sqlstate: str | None) -> tuple[str, str] | None:
    if sqlstate is None:  # no answer from the server at all: the connection broke, or never was
        broken = error.connection_invalidated or isinstance(error, (sa_exc.OperationalError, sa_exc.InterfaceError))
        return _GONE if broken else None
    return _POSTGRES.get(sqlstate) or _POSTGRES.get(sqlstate[:3]) or _POSTGRES.get(sqlstate[:2])
