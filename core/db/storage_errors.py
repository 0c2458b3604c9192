"""Translates database errors to `StorageFull` or `DatabaseLost`. Errors caused by a bug are not translated."""

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
"""Errors that running jobs wait out. All others become `DatabaseLost`."""


def storage_fault(error: BaseException) -> StorageFull | None:
    """The `StorageFull` for a database error; None if it is caused by a bug (bad SQL, a violated constraint)."""
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


def leftover_journal(journal: Path) -> DatabaseLost:
    """The error for a replaced file next to the old file's journal, which SQLite would apply to the new file."""
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
    if "no such table" in str(cause):  # SQLite reports it as the generic SQLITE_ERROR
        return _NO_TABLES
    return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)


def _postgres(error: sa_exc.DBAPIError, sqlstate: str | None) -> tuple[str, str] | None:
    if sqlstate is None:  # no response from the server: the connection broke or was never made
        broken = error.connection_invalidated or isinstance(error, (sa_exc.OperationalError, sa_exc.InterfaceError))
        return _UNREACHABLE if broken else None
    return _POSTGRES.get(sqlstate) or _POSTGRES.get(sqlstate[:3]) or _POSTGRES.get(sqlstate[:2])
