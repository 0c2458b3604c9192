"""A database that is gone stops the buying, and what was bought is taken in again: real workers, real databases."""

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
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.actor import LOCAL
from core.cost import own
from core.dataset import datasets, runs
from core.dataset.recipe import Column, Recipe
from core.db import rescue
from core.db.store import Store
from core.db.tables import Row, Spend
from core.settings import Settings
from tests.fault_server import FaultServer, text
from tests.waiting import until

_ROOT = Path(__file__).parent.parent
_MODEL = "writer"
_CEILING = 16  # requests that a run keeps in flight
_ROWS = 600
_LOST = "See that the database|Put back a copy|rights back|write permission"


@dataclass
class RunningWorker:
    """`python -m core.worker` with the test server as its provider."""

    process: subprocess.Popen[str]
    log: Path

    def told(self) -> int:
        """How often it has said that the database is lost."""
        words = self.log.read_text()
        return sum(words.count(sentence) for sentence in _LOST.split("|"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0


@contextmanager
def worker(settings: Settings, server: FaultServer, tmp_path: Path, url: str = "") -> Iterator[RunningWorker]:
    environ = os.environ | {"FABULA_HOME": str(settings.home), "OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": server.url}
    log = tmp_path / "worker.log"
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "core.worker"],
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
    """A run that is long enough to be broken off, with a price."""
    for what in ("input", "output"):
        own.set_price(store, LOCAL, provider="compatible", model=_MODEL, what=what, amount="1000")
    numbers = tuple(f"n{i:05}" for i in range(_ROWS))
    made = Recipe(
        "stories", (Column("number", numbers),), "{number}", provider="compatible", model=_MODEL, max_tokens=99
    )
    return runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, made))


def done(store: Store, run_id: str) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).where(Row.run_id == run_id, Row.state == "done")) or 0


def assert_bought_once(store: Store, provider: FaultServer, run_id: str, home: Path) -> None:
    """Every row has its own text, was asked for once, and every request is booked once with its cost."""
    asked = Counter(provider.prompts())
    assert (len(asked), set(asked.values())) == (_ROWS, {1})
    with store.reading() as session:
        texts = {row.prompt: row.text for row in session.scalars(select(Row).where(Row.run_id == run_id))}
        lines = session.scalars(select(Spend).where(Spend.prompt_tokens.is_not(None))).all()
    assert texts == {prompt: f"A story of {prompt}." for prompt in asked}
    assert len(lines) == _ROWS
    assert all(line.cost_usd and line.prompt_tokens == 10 for line in lines)  # others were claimed, and never sent
    assert rescue.files(home) == []


def stopped_and_broken(running: RunningWorker, act: Callable[[], None]) -> None:
    """Do something to the database while the worker, stopped, is in the middle of its work."""
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
    """Another database takes its place."""
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
        assert len(provider.prompts()) == asked  # not one more in the meantime
    (file,) = rescue.files(settings.home)
    assert file.stat().st_mode & 0o777 == 0o600
    assert all(json.loads(line)["kind"] == "row" for line in file.read_text().splitlines())
    for old in settings.home.glob("fabula.db*"):
        old.unlink()
    settings.home.mkdir(exist_ok=True)
    shutil.copy(copy, database)
    with worker(settings, provider, tmp_path) as running:
        until(lambda: done(store, run_id) == _ROWS, "all rows after the copy was put back", 300)
        running.stop()
    assert_bought_once(store, provider, run_id, settings.home)
    store.close()
