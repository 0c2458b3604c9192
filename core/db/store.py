"""The one way to the ledger: short sessions, durable commits, and errors in sentences."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from core.db import spend_totals
from core.db.database_file import DatabaseFile, Seen
from core.db.migrate import upgrade
from core.db.storage_errors import damaged, gone, storage_fault
from core.errors import DatabaseLost, StorageFull
from core.message import msg
from core.settings import Settings

_BUSY_MS = 30_000  # SQLite lets one writer in at a time; commits take milliseconds, so half a minute is "never"
_CONNECT_S = 5  # a Postgres that does not answer by then is told as gone
_LOOK_AGAIN_S = 1.0  # after a file was lost: whether it is back is asked this seldom, and takes a look at every page
_MOST_CONNECTIONS = 60  # short bursts, for example 25 sessions that open a page at once
_IDLE_POSTGRES = 20  # connections kept open: worker threads and page polls together stay below it
_IDLE_SQLITE = 10  # opening one takes 1.6 ms; each one that is kept holds up to 2 MB of pages and two descriptors
_CHUNK = 500  # ids in one statement
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FREE_SPACE = msg("Free some space, or set `FABULA_HOME` to a folder on another disk.")
_GIVE_PERMISSION = msg("Give Fabula write permission to it, or set `FABULA_HOME` to a folder that Fabula may write to.")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: sorts as it counts

Id = TypeVar("Id", int, str)


class Store:
    """Sessions on one database. Safe to share between threads; open one per process.

    `session()` is for changing things, `reading()` for looking. On SQLite a session takes the write lock at once:
    a transaction that reads first and writes later could otherwise fail for good half-way. So keep sessions short,
    and never wait for a network inside one.
    """

    def __init__(self, database_url: str, home: Path | None = None) -> None:
        self.url = database_url
        self.file = _file_of(database_url)
        self.home = home or (self.file.path.parent if self.file else Settings.from_env().home)
        self.engine = _create_engine(database_url, self.file)
        self._lost: DatabaseLost | None = None
        self._look_at = 0.0
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(self.engine.execution_options(fabula_begin="BEGIN"), expire_on_commit=False)
        for sessions in (self._sessions, self._readers):
            event.listen(sessions, "after_flush", spend_totals.follow)
        self._current: ContextVar[_Open | None] = ContextVar("fabula_session", default=None)

    @classmethod
    def open(cls, settings: Settings, *, create: bool = True) -> Store:
        """Create the folders, bring the schema up to date (any number of processes may do so at once), and connect.

        Args:
            settings: where the database is.
            create: make the SQLite file where there is none. False: it was there before, and an empty one in its place
                would hide that it is gone.

        Raises:
            StorageFull: the folder or the database cannot be written or reached.
            FabulaError: the database was written by a newer Fabula.
        """
        if create:
            _create_folders(settings)
        store = cls(settings.database_url, settings.home)
        if create and store.file is not None:
            _create_file(store.file.path)
        try:
            with _told_in_sentences():
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
        """A transaction: committed at the end, rolled back on any error. Inside another one it joins it.

        Raises:
            StorageFull: disk full, database locked for half a minute, or gone; nothing of this session was kept.
                `DatabaseLost` also where the file was deleted or overwritten during the session.
        """
        outer = self._current.get()
        if outer is not None and outer.live:
            yield outer.session
            return
        with self._kept(), _told_in_sentences(), self._sessions.begin() as session:
            entry = _Open(session)
            token = self._current.set(entry)
            try:
                yield session
            finally:
                entry.live = False
                self._current.reset(token)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session to look with: never waits for a writer and keeps nothing. Inside a `session()` it joins that.

        Raises:
            StorageFull: the database is gone.
        """
        outer = self._current.get()
        if outer is not None and outer.live:
            yield outer.session
            return
        self.check_file()
        with _told_in_sentences(), self._readers() as session:
            yield session

    def check_file(self, since: Seen | None = None) -> Seen | None:
        """See that the database file is still there; call it before a transaction, and with `since` after its commit:
        only then is it durable.

        Connections to a file that is gone are closed, so that a copy that is put back is used at once.

        Args:
            since: what the check before the transaction returned.

        Returns:
            Which file is there; None where the database is no file.

        Raises:
            DatabaseLost: it was deleted, replaced or overwritten, maybe for a while only: another thread may have
                found another file in its place since then, which has nothing of this transaction.
        """
        if self.file is None:
            return None
        if self._lost is not None:
            self._look_again(self._lost)
        try:
            seen = self.file.check()
        except DatabaseLost as exc:
            self._lost, self._look_at = exc, time.monotonic() + _LOOK_AGAIN_S
            self.close()
            raise
        if since not in (None, seen):
            raise gone()
        return seen

    def _look_again(self, lost: DatabaseLost) -> None:
        """A file that has come back must be whole: SQLite would also read the old journal over a foreign file."""
        if time.monotonic() < self._look_at:
            raise lost
        self._look_at = time.monotonic() + _LOOK_AGAIN_S
        try:
            assert self.file is not None
            self.file.check()
            with _told_in_sentences():
                check_pages(self.engine)
        except StorageFull:
            self.close()
            raise
        self._lost = None

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What is committed inside goes into the file that has its name, before and afterwards."""
        seen = self.check_file()
        yield
        self.check_file(seen)

    def close(self) -> None:
        """Give all connections back. The store may be used again: it opens new ones."""
        self.engine.dispose()
        if self.file is not None:
            self.file.forget()


class _Open:
    """The session that this thread (or task) is in, so that functions which open one compose."""

    __slots__ = ("live", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.live = True


def new_id() -> str:
    """A fresh identifier: 20 characters, sorts by time of making (microseconds, then 45 random bits)."""
    number = (time.time_ns() // 1000) << 45 | secrets.randbits(45)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(95, -1, -5))


def in_chunks(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    """Ids for `in_`, a few hundred at a time: SQLite takes 32,766 values in a statement, and it stays short."""
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def advisory_lock(session: Session, name: str) -> None:
    """Let no other session that holds `name` in until this one ends. (On SQLite a session is alone in any case.)"""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))


@contextmanager
def _told_in_sentences() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as exc:
        fault = storage_fault(exc)
        if fault is None:
            raise
        raise fault from exc


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
        if not os.access(folder, os.W_OK | os.X_OK):  # also where it lies on a read-only disk
            raise StorageFull(msg("The folder {folder} cannot be written to.", folder=folder), _GIVE_PERMISSION)


def check_pages(engine: Engine) -> None:
    """See that a database that comes back after it was lost is a whole one, and Fabula's.

    SQLite's checkpoint may have put a new header over garbage; an empty file, or another program's, is whole as well.

    Raises:
        DatabaseLost: it is damaged.
        sqlalchemy.exc.DBAPIError: it has no tables of Fabula's.
    """
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            if connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
                raise damaged()
            connection.exec_driver_sql("SELECT version_num FROM alembic_version")


def _create_file(path: Path) -> None:
    """An empty file is an empty database. Connections themselves never make one: see `_create_engine`."""
    try:
        path.touch(mode=0o600)
    except OSError:
        return  # SQLite says it in its own words, when it opens the file


def _file_of(database_url: str) -> DatabaseFile | None:
    url = make_url(database_url)
    return DatabaseFile(Path(url.database)) if url.get_backend_name() == "sqlite" and url.database else None


def _create_engine(database_url: str, file: DatabaseFile | None) -> Engine:
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        timeout = {"connect_timeout": _CONNECT_S}
        return create_engine(url, pool_pre_ping=True, connect_args=timeout, **_pool(_IDLE_POSTGRES))
    engine = create_engine(url, connect_args={"timeout": _BUSY_MS / 1000}, **_pool(_IDLE_SQLITE))
    if file is not None:
        address = f"file:{quote(str(file.path.absolute()))}?mode=rw"

        def open_existing(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> None:
            """SQLite would make an empty file where a deleted one was."""
            arguments[:], options["uri"] = [address], True

        event.listen(engine, "do_connect", open_existing)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _pool(idle: int) -> dict[str, Any]:
    """The newest idle connection is used first, so that a quiet studio reads with few warm ones."""
    return {"pool_size": idle, "max_overflow": _MOST_CONNECTIONS - idle, "pool_use_lifo": True}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    connection.create_function("decimal_add", 2, spend_totals.decimal_add, deterministic=True)
    for pragma in ("synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("fabula_begin", "BEGIN IMMEDIATE"))
