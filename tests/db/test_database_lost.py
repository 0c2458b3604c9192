"""A lost database stops paid requests, and paid results are restored: real workers, real databases."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import ProgrammingError

from core.db import rescue_files
from core.db.store import Store
from core.settings import Settings
from tests.support import postgres_server
from tests.support.fault_server import FaultServer, text
from tests.support.running_worker import (
    CEILING,
    ROWS,
    assert_bought_once,
    rows_done,
    running_worker,
    start_run,
    stopped_and_broken,
)
from tests.support.waiting import WAIT_LIMIT_S, until


@pytest.fixture
def provider() -> Iterator[FaultServer]:
    with FaultServer(default=lambda prompt: text(f"A story of {prompt}.")) as running:
        yield running


# --- SQLite --------------------------------------------------------------------------------------------------------


def delete(database: Path) -> None:
    database.unlink()


def delete_home(database: Path) -> None:
    shutil.rmtree(database.parent)


def replace(database: Path) -> None:
    """Replace it with another database."""
    with closing(sqlite3.connect(database.with_suffix(".new"))) as other:
        other.execute("CREATE TABLE others (x)")
    database.with_suffix(".new").rename(database)


def overwrite(database: Path) -> None:
    """64 KiB of another program's data, in the same file."""
    with database.open("r+b") as file:
        file.write(b"\xa5" * 65_536)


def overwrite_with_zeros(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(bytes(65_536))


def truncate(database: Path) -> None:
    os.truncate(database, 0)


@pytest.mark.parametrize(
    "lose", [delete, delete_home, replace, overwrite, overwrite_with_zeros, truncate], ids=lambda lose: lose.__name__
)
def test_a_worker_whose_database_file_is_gone_stops_buying_and_loses_no_answer(
    settings: Settings, provider: FaultServer, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    store = Store.open(settings)
    database, copy = settings.home / "fabula.db", tmp_path / "copy.db"
    run_id = start_run(store)
    asked_before = 0

    def break_it() -> None:
        nonlocal asked_before
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        store.close()
        lose(database)
        asked_before = len(provider.prompts())

    with running_worker(settings, provider, tmp_path) as running:
        until(lambda: rows_done(store, run_id) >= 50, "fifty rows")
        stopped_and_broken(running, break_it)
        until(lambda: running.told() >= 3, "the worker looked for its database again, and again in vain")
        assert running.process.poll() is None
        asked = len(provider.prompts())
        assert asked - asked_before <= 2 * CEILING
        assert asked < ROWS
        running.stop()
        assert len(provider.prompts()) == asked  # no further ones in the meantime
    (file,) = rescue_files.files(settings.home)
    assert file.stat().st_mode & 0o777 == 0o600
    assert all(json.loads(line)["kind"] == "row" for line in file.read_text().splitlines())
    for old in settings.home.glob("fabula.db*"):
        old.unlink()
    settings.home.mkdir(exist_ok=True)
    shutil.copy(copy, database)
    with running_worker(settings, provider, tmp_path) as running:
        until(lambda: rows_done(store, run_id) == ROWS, "all rows after the copy was put back", 2 * WAIT_LIMIT_S)
        running.stop()
    assert_bought_once(store, provider, run_id, settings.home)
    store.close()


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    """A server that may be stopped, because no other test uses it."""
    try:
        with postgres_server.running() as url:
            yield url
    except postgres_server.PostgresAbsent as exc:
        pytest.skip(f"PostgreSQL tests skipped: {exc}")


def as_admin(url: str, *statements: str) -> None:
    admin = create_engine(Settings.from_env({"DATABASE_URL": url}).database_url, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        admin.dispose()


def run_tool(program: str, url: str, *arguments: str | Path) -> None:
    """`pg_dump` or `pg_restore`."""
    found = [str(postgres_server.binaries() / program), "-d", url, *map(str, arguments)]
    subprocess.run(found, check=True, stdout=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"})


class DroppedDatabase:
    """The database is dropped, and restored from a dump."""

    def __init__(self, server: str, url: str, tmp_path: Path) -> None:
        self.server, self.url, self.dump = server, url, tmp_path / "dump"
        self.name = url.partition("?")[0].rpartition("/")[2]

    def lose(self) -> None:
        run_tool("pg_dump", self.url, "-Fc", "-f", self.dump)
        as_admin(self.server, f"DROP DATABASE {self.name} WITH (FORCE)")

    def give_back(self) -> None:
        as_admin(self.server, f"CREATE DATABASE {self.name}")
        run_tool("pg_restore", self.url, self.dump)


class StoppedServer:
    """The server is stopped, and started."""

    def __init__(self, server: str, url: str, tmp_path: Path) -> None:
        self.home = Path(url.partition("host=")[2])

    def lose(self) -> None:
        postgres_server.stop(self.home)

    def give_back(self) -> None:
        postgres_server.start(self.home)


class Revoked:
    """Revoke write permission from the worker's user, then restore it."""

    def __init__(self, server: str, url: str, tmp_path: Path) -> None:
        self.url = url
        self.may("GRANT", "TO")

    def may(self, verb: str, to: str) -> None:
        as_admin(self.url, f"{verb} INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public {to} writer")

    def lose(self) -> None:
        self.may("REVOKE", "FROM")

    def give_back(self) -> None:
        self.may("GRANT", "TO")


def writer(server: str, url: str) -> str:
    """URL for a user who owns nothing but has all permissions that a worker needs."""
    name = url.partition("?")[0].rpartition("/")[2]
    with suppress(ProgrammingError):  # the role exists from another test
        as_admin(server, "CREATE ROLE writer LOGIN")
    as_admin(
        url,
        f"GRANT CREATE ON DATABASE {name} TO writer",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer",
        "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO writer",
    )
    return url.replace("fabula@", "writer@")


@pytest.mark.parametrize("fault", [DroppedDatabase, StoppedServer, Revoked], ids=lambda fault: fault.__name__.lower())
def test_a_worker_whose_postgres_is_gone_stops_buying_and_loses_no_answer(
    own_server: str, provider: FaultServer, tmp_path: Path, home: Path, fault: Any
) -> None:
    url = postgres_server.new_database(own_server)
    settings = Settings.from_env({"DATABASE_URL": url, "FABULA_HOME": str(home)})
    store = Store.open(settings)
    run_id = start_run(store)
    asked_before = 0
    user = writer(own_server, url) if fault is Revoked else url
    trouble = fault(own_server, url, tmp_path)

    def break_it() -> None:
        nonlocal asked_before
        store.close()
        trouble.lose()
        asked_before = len(provider.prompts())

    with running_worker(settings, provider, tmp_path, user) as running:
        until(lambda: rows_done(store, run_id) >= 50, "fifty rows")
        stopped_and_broken(running, break_it)
        until(lambda: rescue_files.files(home), "responses in flight are in a rescue file")
        until(lambda: provider.flying == 0 and running.told(), "the worker reports the loss")
        asked = len(provider.prompts())
        assert asked - asked_before <= 2 * CEILING
        assert asked < ROWS
        trouble.give_back()
        until(lambda: rows_done(store, run_id) == ROWS, "the same worker resumes by itself", 2 * WAIT_LIMIT_S)
        until(lambda: rescue_files.files(home) == [], "everything was restored")
        running.stop()
    assert_bought_once(store, provider, run_id, home)
    store.close()
