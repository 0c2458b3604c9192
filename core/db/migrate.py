"""Migrates a database to the current schema. The first process migrates; concurrent ones wait.

A database from the last development version (revision 0020) is upgraded too: the first release's schema differs from it
only in names, so `_rename` renames tables, columns and indexes. That part can be removed once no such database exists
any more; earlier revisions are refused.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from core.errors import FabulaError, NewerDatabase
from core.message import msg

logging.getLogger("alembic").setLevel(logging.WARNING)  # do not log on every start
_FOLDER = Path(__file__).parent / "migrations"
_FIRST_REVISION = "0001_initial"
_LOCK_KEY = 0x46616275  # key of the advisory lock: "Fabu" in ASCII
_WAL_TRIES = 100  # attempts: changing the journal mode needs exclusive access and ignores the busy timeout
_WAL_PAUSE_S = 0.1

_LAST_OLD_REVISION = "0020"
OLD_REVISIONS = frozenset(f"{number:04d}" for number in range(1, 21))
"""Revisions of the migrations that `0001_initial` replaced."""

_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "answers": {"right": "correct"},
    "batches": {
        "status": "remote_status",
        "input_file": "input_file_id",
        "output_file": "output_file_id",
        "error_file": "error_file_id",
    },
    "comparison_answers": {"comparison_id": "before_after_id"},
    "datasets": {"filled": "fill_cursor", "parts": "mix_sources", "chat_system": "system_message"},
    "own_prices": {"what": "kind"},
    "rescued_entries": {"at": "created_at"},
    "rows": {"state_before": "previous_state"},
    "speed_measurements": {"at": "measured_at"},
    "spend": {"at": "created_at"},
    "spend_totals": {"at_most_usd": "max_usd"},
    "stories": {"at": "created_at", "asked_model": "requested_model"},
    "training_events": {"at": "created_at"},
    "training_jobs": {"stop_requested": "requested_action"},
    "votes": {"at": "created_at", "order": "story_ids", "winner": "winner_id"},
    "workers": {"beat_at": "heartbeat_at"},
}
"""Old table → old name → new name (revision 0020)."""
_TABLES = {
    "answers": "evaluation_answers",
    "comparisons": "before_after",
    "comparison_answers": "before_after_answers",
    "own_prices": "custom_prices",
    "recipes": "recipe_versions",
    "workers": "worker_heartbeats",
}
_INDEXES = {
    "ix_comparisons_state": "ix_before_after_state ON before_after (state)",
    "ix_recipes_family": "ix_recipe_versions_family ON recipe_versions (family)",
    "ix_speed_measurements_at": "ix_speed_measurements_measured_at ON speed_measurements (measured_at)",
    "ix_spend_at": "ix_spend_created_at ON spend (created_at)",
    "ix_stories_at": "ix_stories_created_at ON stories (created_at)",
    "rows_by_place": "ix_rows_position ON rows (dataset_id, position)",
    "rows_by_state": "ix_rows_state ON rows (dataset_id, state, updated_at)",
}


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Which migrations a database has.

    Attributes:
        current: its last migration; None: it is empty.
        newest: the last migration of this version of Fabula.
        known: whether this version has the database's migration, or can upgrade it. False: a newer version wrote it.
    """

    current: str | None
    newest: str
    known: bool

    @property
    def up_to_date(self) -> bool:
        """Whether no migration is missing."""
        return self.current == self.newest


def schema_state(engine: Engine) -> SchemaState:
    """Read which migrations a database has; changes nothing.

    Raises:
        sqlalchemy.exc.DBAPIError: the database cannot be read.
    """
    with engine.connect() as connection:
        return known_state(MigrationContext.configure(connection).get_current_revision())


def known_state(revision: str | None) -> SchemaState:
    """What this version of Fabula knows about a database with this last migration."""
    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision for script in scripts.walk_revisions()} | {None, _LAST_OLD_REVISION}
    return SchemaState(revision, str(scripts.get_current_head()), revision in known)


def upgrade(engine: Engine) -> None:
    """Apply missing migrations. Idempotent, and safe in concurrent processes.

    Raises:
        FabulaError: the database has a migration that this version of Fabula does not have, because it is newer or too
            old.
        sqlalchemy.exc.DBAPIError: the database cannot be reached or written.
    """
    if engine.dialect.name == "sqlite":
        _use_write_ahead_log(engine)
    config = _config()
    with engine.begin() as connection:  # on SQLite this takes the write lock, so a second process waits here
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision == ScriptDirectory.from_config(config).get_current_head():
            return
        config.attributes["connection"] = connection
        if revision in OLD_REVISIONS:
            _upgrade_development_version(connection, config, revision)
        try:
            command.upgrade(config, "head")
        except CommandError as exc:
            raise _newer() from exc


def refuse_newer(connection: Connection) -> None:
    """Check a database that this process opened earlier: another version may have migrated it since.

    Raises:
        NewerDatabase: it has.
    """
    if connection.scalar(text("SELECT version_num FROM alembic_version")) != _head():
        raise _newer()


@cache
def _head() -> str | None:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return ScriptDirectory.from_config(config).get_current_head()


def _newer() -> NewerDatabase:
    return NewerDatabase(
        msg("This database was written by a newer version of Fabula."),
        msg("Update Fabula, or set `FABULA_HOME` (or `DATABASE_URL`) to another place."),
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def _upgrade_development_version(connection: Connection, config: Config, revision: str) -> None:
    """Upgrade a database that is older than the first release to the schema of `0001_initial`."""
    if revision != _LAST_OLD_REVISION:
        raise FabulaError(
            msg(
                "This database was written by a development version of Fabula that is too old (schema {revision}).",
                revision=revision,
            ),
            msg("It is unchanged. Set `FABULA_HOME` (or `DATABASE_URL`) to another place to start with an empty one."),
        )
    _rename(connection)
    command.stamp(config, _FIRST_REVISION, purge=True)


def _use_write_ahead_log(engine: Engine) -> None:
    """Switch to WAL mode, in which readers and the writer do not block each other. The mode is stored in the file."""
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


def _rename(connection: Connection) -> None:
    """Apply the new names in the caller's transaction. No data is changed or copied."""
    for table, columns in _COLUMNS.items():
        for old, new in columns.items():
            connection.exec_driver_sql(f'ALTER TABLE {table} RENAME COLUMN "{old}" TO {new}')
    for old, new in _TABLES.items():
        connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")
    for old, new in _INDEXES.items():  # SQLite cannot rename an index
        connection.exec_driver_sql(f"DROP INDEX {old}")
        connection.exec_driver_sql(f"CREATE INDEX {new}")
