"""Migrates a database to the current schema. The first process migrates; concurrent ones wait."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from core.db import previous_schema
from core.errors import FabulaError
from core.message import msg

logging.getLogger("alembic").setLevel(logging.WARNING)  # do not log every start
_FOLDER = Path(__file__).parent / "migrations"
_FIRST_REVISION = "0001_initial"
_LOCK_KEY = 0x46616275  # key of the advisory lock: "Fabu"
_WAL_TRIES = 100  # changing the journal mode needs exclusive access and ignores the busy timeout
_WAL_PAUSE_S = 0.1


def upgrade(engine: Engine) -> None:
    """Apply missing migrations. Idempotent, and safe in concurrent processes.

    Raises:
        FabulaError: the database has a migration that this version of Fabula does not have, newer or too old.
        sqlalchemy.exc.DBAPIError: the database cannot be reached or written.
    """
    if engine.dialect.name == "sqlite":
        _use_write_ahead_log(engine)
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    with engine.begin() as connection:  # on SQLite this takes the write lock, so a second process waits here
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision == ScriptDirectory.from_config(config).get_current_head():
            return
        config.attributes["connection"] = connection
        if revision in previous_schema.OLD_REVISIONS:
            _upgrade_development_version(connection, config, revision)
        try:
            command.upgrade(config, "head")
        except CommandError as exc:
            raise FabulaError(
                msg("This database was written by a newer version of Fabula."),
                msg("Update Fabula, or set `FABULA_HOME` (or `DATABASE_URL`) to another place."),
            ) from exc


def _upgrade_development_version(connection: Connection, config: Config, revision: str) -> None:
    """Bring a database from before the first release to the schema of `0001_initial`."""
    if revision != previous_schema.LAST_REVISION:
        raise FabulaError(
            msg(
                "This database was written by a development version of Fabula that is too old (schema {revision}).",
                revision=revision,
            ),
            msg("It is unchanged. Set `FABULA_HOME` (or `DATABASE_URL`) to another place to start with an empty one."),
        )
    previous_schema.rename(connection)
    command.stamp(config, _FIRST_REVISION, purge=True)


def _use_write_ahead_log(engine: Engine) -> None:
    """Switch to WAL mode, in which readers and the writer do not block each other. It is stored in the file."""
    for attempt in range(1, _WAL_TRIES + 1):
        with engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            try:
                if raw.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                    return
            except sqlite3.OperationalError as exc:
                if attempt == _WAL_TRIES or exc.sqlite_errorcode & 0xFF not in (
                    sqlite3.SQLITE_BUSY,
                    sqlite3.SQLITE_LOCKED,
                ):
                    raise OperationalError("PRAGMA journal_mode=WAL", None, exc) from exc
        time.sleep(_WAL_PAUSE_S)
