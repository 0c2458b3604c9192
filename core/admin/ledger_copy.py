"""Copies the ledger: SQLite with its backup API while workers write, PostgreSQL with `pg_dump` and `pg_restore`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, func, inspect, make_url, select, table
from sqlalchemy.exc import DBAPIError

from core.admin import AdminError
from core.admin.archive import DatabaseKind
from core.db import migrate

COUNTED = ("datasets", "rows", "runs", "training_jobs", "stories", "spend")
"""Tables whose rows a backup counts, so that a restored database can be compared with it."""
_QUEUES = "dbos"
"""PostgreSQL schema of the queues. They are not copied: workers fill them again from the ledger."""
_ERROR_CHARS = 400


def kind(database_url: str) -> DatabaseKind:
    """The kind of database at a URL."""
    return "sqlite" if make_url(database_url).get_backend_name() == "sqlite" else "postgresql"


def sqlite_file(database_url: str) -> Path:
    """The file of a SQLite ledger."""
    return Path(make_url(database_url).database or "")


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a consistent snapshot of a SQLite database. In WAL mode, writers are not blocked.

    Raises:
        AdminError: there is no such database, or it cannot be read or written.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reading,
            closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
    except sqlite3.Error as exc:
        raise AdminError(
            f"The database {source} cannot be copied: {exc}.", "Check that it exists and is intact."
        ) from exc


def dump_postgres(database_url: str, target: Path) -> tuple[str, dict[str, int]]:
    """Dump a consistent snapshot of a PostgreSQL ledger.

    Returns:
        Its last migration, and the number of rows in each main table.

    Raises:
        AdminError: `pg_dump` is missing or failed.
        AdminError: the database cannot be reached.
    """
    pg_dump = program("pg_dump")
    engine = create_engine(database_url, isolation_level="REPEATABLE READ")
    try:
        with engine.connect() as connection:  # the dump and the counts see the same snapshot
            snapshot = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
            described = describe(connection)
            options = ("--format=custom", f"--exclude-schema={_QUEUES}", f"--snapshot={snapshot}", f"--file={target}")
            _run(pg_dump, database_url, *options, next_step="Nothing was written. Fix this cause, then try again.")
            return described
    except DBAPIError as exc:
        raise _unreachable() from exc
    finally:
        engine.dispose()


def restore_postgres(database_url: str, dump: Path) -> None:
    """Restore a dump into an empty PostgreSQL database, in one transaction.

    Raises:
        AdminError: `pg_restore` is missing or failed; the database is unchanged.
    """
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", str(dump))
    next_step = "The database is unchanged. Fix this cause, empty the home folder, then restore the backup again."
    _run(program("pg_restore"), database_url, *options, next_step=next_step)


def describe_sqlite(path: Path) -> tuple[str, dict[str, int]]:
    """The last migration of a SQLite ledger, and the number of rows in each main table.

    Raises:
        AdminError: the file is not a Fabula database.
    """
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            return describe(connection)
    except DBAPIError as exc:
        raise AdminError(f"{path} is not a database of Fabula.", "Check `FABULA_HOME` and `DATABASE_URL`.") from exc
    finally:
        engine.dispose()


def describe(connection: Connection) -> tuple[str, dict[str, int]]:
    """The last migration of a ledger, and the number of rows in each main table."""
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
    counts = {name: connection.scalar(select(func.count()).select_from(table(name))) or 0 for name in COUNTED}
    return str(revision), counts


def revision(database_url: str) -> str | None:
    """The last migration of a ledger; None if the database is empty or does not exist.

    Raises:
        AdminError: it cannot be reached or read.
    """
    if kind(database_url) == "sqlite" and not sqlite_file(database_url).exists():
        return None
    engine = create_engine(database_url)
    try:
        return migrate.schema_state(engine).current
    except DBAPIError as exc:
        raise AdminError(
            f"The database cannot be read: {exc.orig}.", "Check `DATABASE_URL`, or restore a backup."
        ) from exc
    finally:
        engine.dispose()


def is_empty(engine: Engine) -> bool:
    """Whether a PostgreSQL database has no tables in its default schema.

    Raises:
        AdminError: it cannot be reached.
    """
    try:
        return not inspect(engine).get_table_names()
    except DBAPIError as exc:
        raise _unreachable() from exc


def program(name: str) -> str:
    """The path of a PostgreSQL client program.

    Raises:
        AdminError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise AdminError(
            f"The program {name} is not installed, and Fabula needs it to copy a PostgreSQL database.",
            "Install PostgreSQL's client programs (Debian: postgresql-client), of the server's version or newer.",
        )
    return found


def _run(executable: str, database_url: str, *options: str, next_step: str) -> None:
    """Run a PostgreSQL client program. The password is passed in the environment, where `ps` does not show it.

    Raises:
        AdminError: it failed; contains the start of its error output and `next_step`.
    """
    url = make_url(database_url).set(drivername="postgresql")
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    address = url.set(password=None).render_as_string(hide_password=False)
    done = subprocess.run(
        [executable, f"--dbname={address}", *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AdminError(f"{Path(executable).name} failed: {done.stderr.strip()[:_ERROR_CHARS]}", next_step)


def _unreachable() -> AdminError:
    return AdminError("The PostgreSQL database cannot be reached or read.", "Check `DATABASE_URL` and the server.")
