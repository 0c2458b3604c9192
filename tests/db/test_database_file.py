"""A transaction is only durable if its file is still the database at its end: SQLite files that are replaced,
overwritten and restored while threads write."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.db import rescue_files
from core.db.storage_errors import DatabaseFile
from core.db.store import Store, new_id
from core.db.tables import Row, Spend, Tour
from core.errors import DatabaseLost
from core.generation import executor
from core.generation.concurrency import RunLimits
from core.jobs import recovery
from core.settings import Settings
from tests.support.fault_server import FaultServer, held, text
from tests.support.live_runs import NO_PRICES, queue, recipe
from tests.support.waiting import WAIT_LIMIT_S


@pytest.fixture(autouse=True)
def seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored file is accepted at the next check; a slow disk lets other threads run in between."""
    monkeypatch.setattr(Store, "recheck_s", 0.0)


@pytest.fixture
def database(store: Store) -> Iterator[Path]:
    assert store.file is not None
    yield store.file.path


def move_in(new: Path, database: Path, *, with_journal: bool) -> None:
    """Replace the database by another file, with or without the journal of the old one."""
    if not with_journal:
        for name in ("-wal", "-shm"):
            database.with_name(database.name + name).unlink(missing_ok=True)
    new.rename(database)


def another_program(database: Path) -> Path:
    new = database.with_suffix(".new")
    with closing(sqlite3.connect(new)) as other:
        other.execute("CREATE TABLE others (x)")
    return new


def copy_of(database: Path) -> Path:
    new = database.with_suffix(".new")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(new)) as target:
        source.backup(target)
    return new


def look(store: Store) -> DatabaseLost | None:
    """The error in another thread."""
    try:
        store.check_file()
    except DatabaseLost as exc:
        return exc
    return None


def count(store: Store) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(Tour)) or 0


def foreign_with_journal(database: Path) -> None:
    move_in(another_program(database), database, with_journal=True)


def foreign_alone(database: Path) -> None:
    move_in(another_program(database), database, with_journal=False)


def copy_with_journal(database: Path) -> None:
    move_in(copy_of(database), database, with_journal=True)


def copy_alone(database: Path) -> None:
    move_in(copy_of(database), database, with_journal=False)


def truncated(database: Path) -> None:
    os.truncate(database, 0)


_WAYS = [foreign_with_journal, foreign_alone, copy_with_journal, copy_alone, truncated]


@pytest.mark.parametrize("lose", _WAYS, ids=lambda lose: lose.__name__)
def test_a_transaction_in_a_file_that_was_replaced_is_not_kept(
    store: Store, database: Path, lose: Callable[[Path], None]
) -> None:
    """Also if another thread has noticed the loss and switched to the new file before the commit."""
    with pytest.raises(DatabaseLost), store.session() as session:
        session.add(Tour(id=new_id(), created_by="local"))
        session.flush()
        lose(database)
        assert look(store) is not None
        look(store)  # this one may accept the new file


@pytest.mark.parametrize(
    ("lose", "told"),
    [
        (foreign_with_journal, "journal of the old one"),
        (copy_with_journal, "journal of the old one"),
        (truncated, "needs are missing"),
        (foreign_alone, "needs are missing"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_file_that_is_not_the_whole_database_is_not_taken_up(
    settings: Settings, store: Store, database: Path, lose: Callable[[Path], None], told: str
) -> None:
    """SQLite would apply a leftover write-ahead log to the copy and damage it."""
    count(store)
    lose(database)
    assert look(store) is not None
    for _ in range(2):
        assert told in str(look(store))
    store.close()
    with pytest.raises(DatabaseLost, match=told):
        Store.open(settings, create=False)


def test_a_copy_without_the_old_journal_is_used_at_once(store: Store, database: Path) -> None:
    copy = copy_of(database)
    with store.session() as session:
        session.add(Tour(id=new_id(), created_by="local"))
    assert count(store) == 1
    move_in(copy, database, with_journal=True)
    assert look(store) is not None and look(store) is not None
    for name in ("-wal", "-shm"):
        database.with_name(database.name + name).unlink(missing_ok=True)
    assert look(store) is None
    assert count(store) == 0
    assert look(store) is None


def test_a_file_that_is_moved_away_and_back_keeps_its_journal(store: Store, database: Path, tmp_path: Path) -> None:
    with store.session() as session:
        session.add(Tour(id=new_id(), created_by="local"))
    with closing(sqlite3.connect(database)) as reader:  # so that the last connection does not empty the journal
        reader.execute("SELECT count(*) FROM tours").fetchone()
        database.rename(tmp_path / "away")
        assert look(store) is not None and look(store) is not None
        (tmp_path / "away").rename(database)
        assert look(store) is None
        assert count(store) == 1


def test_answers_that_come_after_a_copy_was_put_back_are_not_bought_again(
    store: Store, database: Path, server: FaultServer
) -> None:
    """The run is connected to the old file: its commits are lost."""
    run_id = queue(store, recipe(6))
    server.default = held(text("A story."))
    # the long tick keeps the run from checking the file while it is changed
    limits = RunLimits(ceiling=6, tick_s=60, storage_retry_s=0.01)
    told: list[BaseException] = []

    def carry_out() -> None:
        try:
            executor.execute(store, server.registry(), run_id, limits=limits, book=NO_PRICES)
        except DatabaseLost as exc:
            told.append(exc)

    thread = threading.Thread(target=carry_out, daemon=True)
    thread.start()
    server.wait_for(lambda server: server.flying == 6)
    copy_alone(database)
    assert look(store) is not None and look(store) is None
    server.release()
    thread.join(WAIT_LIMIT_S)
    assert told and not thread.is_alive()
    assert len(rescue_files.files(store.home)) == 1

    assert recovery.restore(store) == 0
    executor.execute(store, server.registry(), run_id, book=NO_PRICES)
    with store.reading() as session:
        assert [row.state for row in session.scalars(select(Row))] == ["done"] * 6
        assert [line.prompt_tokens for line in session.scalars(select(Spend))] == [10] * 6
    assert set(Counter(server.prompts()).values()) == {1}


def test_a_copy_that_is_not_in_wal_mode_is_used(store: Store, database: Path) -> None:
    """Opening it switches the mode, which changes its header."""
    store.close()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0] == "delete"
    opened = Store.open(Settings.from_env({"FABULA_HOME": str(database.parent)}), create=False)
    assert look(opened) is None
    opened.close()


def test_no_thread_waits_for_the_file_system_of_another(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 25 viewers, reads that queued up behind each other took a third of each page's time."""
    file = store.file
    assert file is not None
    file.check()
    entered, go_on = threading.Event(), threading.Event()
    stat = DatabaseFile._stat_identity

    def slow(self: DatabaseFile) -> tuple[int, int]:
        if not entered.is_set():
            entered.set()
            assert go_on.wait(WAIT_LIMIT_S)
        return stat(self)

    monkeypatch.setattr(DatabaseFile, "_stat_identity", slow)
    with ThreadPoolExecutor(2) as threads:
        try:
            first = threads.submit(file.check)
            assert entered.wait(WAIT_LIMIT_S)
            second = threads.submit(file.check).result(WAIT_LIMIT_S / 2)
        finally:
            go_on.set()
        assert first.result(WAIT_LIMIT_S) == second
