"""A lost database stops paid requests, and paid results are restored: real workers, real databases."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import ProgrammingError

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import Row, Spend
from core.generation import runs
from core.pricing import custom_prices
from core.settings import Settings
from tests.support import postgres_server
from tests.support.fault_server import FaultServer, text
from tests.support.waiting import WAIT_LIMIT_S, until

_ROOT = Path(__file__).parents[2]
_MODEL = "writer"
_CEILING = 16  # requests that a run keeps in flight
_ROWS = 600
_LOST = "Check that the database|Restore a backup|permissions|write permission|out of the folder"


@dataclass
class RunningWorker:
    """`python -m core.jobs.worker` with the test server as its provider."""

    process: subprocess.Popen[str]
    log: Path

    def told(self) -> int:
        """Number of log lines about the lost database."""
        words = self.log.read_text()
        return sum(words.count(sentence) for sentence in _LOST.split("|"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_LIMIT_S) == 0


@contextmanager
def worker(settings: Settings, server: FaultServer, tmp_path: Path, url: str = "") -> Iterator[RunningWorker]:
    environ = os.environ | {"FABULA_HOME": str(settings.home), "OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": server.url}
    log = tmp_path / "worker.log"
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "core.jobs.worker"],
            cwd=_ROOT,
            env=environ | ({"DATABASE_URL": url} if url else {}),
            stderr=file,
            text=True,
        )
    try:
        yield RunningWorker(process, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def provider() -> Iterator[FaultServer]:
    with FaultServer(default=lambda prompt: text(f"A story of {prompt}.")) as running:
        yield running


def start_run(store: Store) -> str:
    """A priced run that is long enough to be interrupted."""
    for what in ("input", "output"):
        custom_prices.set_price(store, LOCAL, provider="compatible", model=_MODEL, what=what, amount="1000")
    numbers = tuple(f"n{i:05}" for i in range(_ROWS))
    made = Recipe(
        "stories", (Column("number", numbers),), "{number}", provider="compatible", model=_MODEL, max_tokens=99
    )
    return runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, made))


def done(store: Store, run_id: str) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).where(Row.run_id == run_id, Row.state == "done")) or 0


def assert_bought_once(store: Store, provider: FaultServer, run_id: str, home: Path) -> None:
    """Every row has its own text, was requested once, and every request is recorded once with its cost."""
    asked = Counter(provider.prompts())
    assert (len(asked), set(asked.values())) == (_ROWS, {1})
    with store.reading() as session:
        texts = {row.prompt: row.text for row in session.scalars(select(Row).where(Row.run_id == run_id))}
        lines = session.scalars(select(Spend).where(Spend.prompt_tokens.is_not(None))).all()
    assert texts == {prompt: f"A story of {prompt}." for prompt in asked}
    assert len(lines) == _ROWS
    assert all(line.cost_usd and line.prompt_tokens == 10 for line in lines)  # others were claimed but never sent
    assert rescue_files.files(home) == []


def stopped_and_broken(running: RunningWorker, act: Callable[[], None]) -> None:
    """Change the database while the worker is suspended in the middle of its work."""
    running.process.send_signal(signal.SIGSTOP)
    os.waitpid(running.process.pid, os.WUNTRACED)
    try:
        act()
    finally:
        running.process.send_signal(signal.SIGCONT)


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

    with worker(settings, provider, tmp_path) as running:
        until(lambda: done(store, run_id) >= 50, "fifty rows")
        stopped_and_broken(running, break_it)
        until(lambda: running.told() >= 3, "the worker looked for its database again, and again in vain")
        assert running.process.poll() is None
        asked = len(provider.prompts())
        assert asked - asked_before <= 2 * _CEILING
        assert asked < _ROWS
        running.stop()
        assert len(provider.prompts()) == asked  # no further ones in the meantime
    (file,) = rescue_files.files(settings.home)
    assert file.stat().st_mode & 0o777 == 0o600
    assert all(json.loads(line)["kind"] == "row" for line in file.read_text().splitlines())
    for old in settings.home.glob("fabula.db*"):
        old.unlink()
    settings.home.mkdir(exist_ok=True)
    shutil.copy(copy, database)
    with worker(settings, provider, tmp_path) as running:
        until(lambda: done(store, run_id) == _ROWS, "all rows after the copy was put back", 2 * WAIT_LIMIT_S)
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

    with worker(settings, provider, tmp_path, user) as running:
        until(lambda: done(store, run_id) >= 50, "fifty rows")
        stopped_and_broken(running, break_it)
        until(lambda: rescue_files.files(home), "responses in flight are in a rescue file")
        until(lambda: provider.flying == 0 and running.told(), "the worker reports the loss")
        asked = len(provider.prompts())
        assert asked - asked_before <= 2 * _CEILING
        assert asked < _ROWS
        trouble.give_back()
        until(lambda: done(store, run_id) == _ROWS, "the same worker resumes by itself", 2 * WAIT_LIMIT_S)
        until(lambda: rescue_files.files(home) == [], "everything was restored")
        running.stop()
    assert_bought_once(store, provider, run_id, home)
    store.close()
