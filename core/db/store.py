"""Access to the ledger: short sessions, durable commits, translated errors."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from core.db import audit_log, spend_totals
from core.db.migrate import refuse_newer, upgrade
from core.db.storage_errors import DatabaseFile, DatabaseFileCheck, damaged, storage_fault, unreachable
from core.errors import DatabaseLost, StorageFull
from core.message import msg
from core.sanitize import storable
from core.settings import Settings

_BUSY_S = 30.0  # SQLite allows one writer at a time; commits take milliseconds, so this is rarely reached
_CONNECT_TIMEOUT_S = 5  # a PostgreSQL server that does not respond within this time counts as unreachable
_MAX_SQLITE = 60  # for short bursts, such as 25 browser sessions opening a page at once
PAGE_CONNECTIONS = 30
"""At most so many connections to PostgreSQL for a web process's pages. More would not be faster: queries take
milliseconds, Python draws one page at a time, and a 31st query waits for its turn."""
WORKER_CONNECTIONS = 20
"""The same for a worker: three for each of two runs, one for each other item, its heartbeat and its alerts."""
_IDLE = 10  # opening one takes 1.6 ms; each idle connection holds up to 2 MB of pages and two descriptors
_CHUNK = 500  # ids per statement
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FREE_SPACE = msg("Free some space, or set `FABULA_HOME` to a folder on another disk.")
_GIVE_PERMISSION = msg("Give Fabula write permission to it, or set `FABULA_HOME` to a folder that Fabula may write to.")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32 in lower case: preserves the sort order

Id = TypeVar("Id", int, str)


class Store:
    """Sessions on one database. Safe to share between threads; open one per process.

    Use `session()` to write and `reading()` to read. On SQLite, a session takes the write lock immediately, because a
    transaction that reads first and writes later can fail without a way to retry. Therefore keep sessions short, and
    never wait for the network inside one.

    Attributes:
        recheck_s: minimum seconds between checks for whether a lost file has been restored; each check reads the whole
            file.
    """

    recheck_s = 1.0

    def __init__(
        self,
        database_url: str,
        home: Path | None = None,
        *,
        busy_s: float = _BUSY_S,
        connections: int = PAGE_CONNECTIONS,
    ) -> None:
        self.url = database_url
        self.file = _file_of(database_url)
        self.home = home or (self.file.path.parent if self.file else Settings.from_env().home)
        self.engine = _create_engine(database_url, self.file, busy_s, connections)
        event.listen(self.engine, "before_cursor_execute", _storable_parameters, retval=True)
        self._lost: DatabaseLost | None = None
        self._recheck_at = 0.0
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(self.engine.execution_options(fabula_begin="BEGIN"), expire_on_commit=False)
        for sessions in (self._sessions, self._readers):
            event.listen(sessions, "after_flush", spend_totals.track_flush)
        event.listen(self._sessions, "after_flush", audit_log.track_flush)
        event.listen(self._sessions, "do_orm_execute", audit_log.track_statement)
        event.listen(self._sessions, "before_commit", audit_log.record)
        self._current: ContextVar[_ActiveSession | None] = ContextVar("fabula_session", default=None)

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        create: bool = True,
        busy_s: float = _BUSY_S,
        connections: int = PAGE_CONNECTIONS,
    ) -> Store:
        """Create the folders, migrate the schema (safe in concurrent processes), and connect.

        Args:
            settings: location of the database.
            create: whether to create a missing SQLite file; False if it existed before, because an empty one would hide
                its loss.
            busy_s: how long SQLite waits for another writer.
            connections: how many connections to PostgreSQL may be open at once.

        Raises:
            StorageFull: the folder or the database cannot be written or reached.
            FabulaError: the database was written by a newer version of Fabula.
        """
        if create:
            _create_folders(settings)
        store = cls(settings.database_url, settings.home, busy_s=busy_s, connections=connections)
        if create and store.file is not None:
            _create_file(store.file.path)
        try:
            with _translate_errors():
                if not create:
                    store.check_file()
                    check_pages(store.engine)
                upgrade(store.engine)
        except BaseException:
            store.close()
            raise
        return store

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction that is committed at the end and rolled back on any error. If nested in another session,
        it joins that one.

        Raises:
            StorageFull: the disk is full, or the database was locked for 30 seconds; nothing was written.
                `DatabaseLost` if the file was deleted or overwritten during the session.
        """
        outer = self._current.get()
        if outer is not None and outer.live:
            yield outer.session
            return
        with self._checked_file(), _translate_errors(), self._sessions.begin() as session:
            active = _ActiveSession(session)
            token = self._current.set(active)
            try:
                yield session
            finally:
                active.live = False
                self._current.reset(token)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a read-only session, which never waits for a writer. If nested in a `session()`, it joins that one.

        Raises:
            StorageFull: the database is unavailable.
        """
        outer = self._current.get()
        if outer is not None and outer.live:
            yield outer.session
            return
        self.check_file()
        with _translate_errors(), self._readers() as session:
            yield session

    def check_version(self) -> None:
        """Check that no newer version of Fabula has migrated the database since it was opened.

        Raises:
            NewerDatabase: one has. This version must not write any more.
            StorageFull: the database is unavailable.
        """
        with self.reading() as session:
            refuse_newer(session.connection())

    def check_file(self, since: DatabaseFileCheck | None = None) -> DatabaseFileCheck | None:
        """Check that the database file still exists and is intact.

        Call this before a transaction, and again with `since` after the commit; only then is the transaction durable.

        Connections to a lost file are closed, so that a restored copy is used immediately.

        Args:
            since: result of the check before the transaction.

        Returns:
            The result of this check; None if the database is not a file.

        Raises:
            DatabaseLost: the file was deleted, replaced or overwritten, possibly only temporarily. Another thread may
                since have switched to a new file, which does not contain this transaction.
        """
        if self.file is None:
            return None
        if self._lost is not None:
            self._recheck(self._lost)
        try:
            check = self.file.check()
        except DatabaseLost as exc:
            self._lost, self._recheck_at = exc, time.monotonic() + self.recheck_s
            self.close()
            raise
        if since not in (None, check):
            raise unreachable()
        return check

    def _recheck(self, lost: DatabaseLost) -> None:
        """Check a restored file completely, because SQLite would also apply the old journal to a different file."""
        if time.monotonic() < self._recheck_at:
            raise lost
        self._recheck_at = time.monotonic() + self.recheck_s
        try:
            assert self.file is not None
            self.file.check()
            with _translate_errors():
                check_pages(self.engine)
        except StorageFull:
            self.close()
            raise
        self._lost = None

    @contextmanager
    def _checked_file(self) -> Iterator[None]:
        """Check the file before and after a transaction."""
        check = self.check_file()
        yield
        self.check_file(check)

    def close(self) -> None:
        """Close all connections. Using the store again opens new ones."""
        self.engine.dispose()
        if self.file is not None:
            self.file.release()


class _ActiveSession:
    """A thread's or task's current session, which nested calls of `session` join."""

    __slots__ = ("live", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.live = True


def new_id() -> str:
    """Create an identifier of 20 characters, sortable by creation time (microseconds, then 45 random bits)."""
    number = (time.time_ns() // 1000) << 45 | secrets.randbits(45)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(95, -1, -5))


def in_chunks(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    """Split ids for `in_`, because SQLite allows 32,766 values per statement, and shorter statements hold locks only
    briefly.
    """
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def advisory_lock(session: Session, name: str, *, shared: bool = False) -> None:
    """Hold a named lock until the session ends. (On SQLite, sessions are already exclusive.)

    Args:
        shared: others may hold it too, if they also ask for a shared one.
    """
    if session.get_bind().dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        session.execute(select(lock(func.hashtext(name))))


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as exc:
        translated = storage_fault(exc)
        if translated is None:
            raise
        raise translated from exc


def _create_folders(settings: Settings) -> None:
    folders = [settings.home]
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        folders.append(Path(url.database).parent)
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageFull(
                msg(
                    "The folder {folder} cannot be created: {reason}.",
                    folder=folder,
                    reason=os.strerror(exc.errno or 0),
                ),
                _FREE_SPACE if exc.errno in _NO_SPACE else _GIVE_PERMISSION,
            ) from exc
        if not os.access(folder, os.W_OK | os.X_OK):  # also detects a read-only disk
            raise StorageFull(msg("The folder {folder} cannot be written to.", folder=folder), _GIVE_PERMISSION)


def check_pages(engine: Engine) -> None:
    """Check that a restored database is intact and belongs to Fabula.

    SQLite's checkpoint may have written a valid header over garbage, and an empty or foreign file is also intact.

    Raises:
        DatabaseLost: the database is damaged.
        sqlalchemy.exc.DBAPIError: the database does not have Fabula's tables.
    """
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            if connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
                raise damaged()
            connection.exec_driver_sql("SELECT version_num FROM alembic_version")


def _create_file(path: Path) -> None:
    """Create an empty file, which is an empty database. Connections never create one: see `_create_engine`."""
    try:
        path.touch(mode=0o600)
    except OSError:
        return  # SQLite reports the error when it opens the file


def _file_of(database_url: str) -> DatabaseFile | None:
    url = make_url(database_url)
    return DatabaseFile(Path(url.database)) if url.get_backend_name() == "sqlite" and url.database else None


def _create_engine(database_url: str, file: DatabaseFile | None, busy_s: float, connections: int) -> Engine:
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        options = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "fabula"}
        return create_engine(url, pool_pre_ping=True, connect_args=options, **_pool(connections))
    engine = create_engine(url, connect_args={"timeout": busy_s}, **_pool(_MAX_SQLITE))
    if file is not None:
        address = f"file:{quote(str(file.path.absolute()))}?mode=rw"

        def open_existing(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> None:
            """Open with `mode=rw`, because by default SQLite would recreate a deleted file as an empty one."""
            arguments[:], options["uri"] = [address], True

        event.listen(engine, "do_connect", open_existing)
    event.listen(engine, "connect", partial(_prepare_sqlite, busy_s))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _storable_parameters(
    _connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
) -> tuple[str, Any]:
    """Make all texts storable (`core.sanitize`). Otherwise a NUL character or half a surrogate pair in something that a
    person has pasted would be an error of the database, a different one for each kind.
    """
    return statement, _storable_values(parameters)


def _storable_values(values: Any) -> Any:
    """A statement's parameters (a text, a number, or tuples, lists and dicts of them); the same object if all texts
    are storable.
    """
    if type(values) is str:
        return storable(values)
    if isinstance(values, dict):
        changed = {key: new for key, value in values.items() if (new := _storable_values(value)) is not value}
        return {**values, **changed} if changed else values
    if isinstance(values, list | tuple):
        new = [_storable_values(value) for value in values]
        return type(values)(new) if any(a is not b for a, b in zip(new, values, strict=True)) else values
    return values


def _pool(most: int) -> dict[str, Any]:
    """Pool options. LIFO, so that an app with little traffic uses only a few warm connections."""
    return {"pool_size": _IDLE, "max_overflow": most - _IDLE, "pool_use_lifo": True}


def _prepare_sqlite(busy_s: float, connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we send BEGIN ourselves; see _begin_sqlite
    connection.create_function("decimal_add", 2, spend_totals.decimal_add, deterministic=True)
    for pragma in ("synchronous=FULL", f"busy_timeout={round(busy_s * 1000)}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("fabula_begin", "BEGIN IMMEDIATE"))
