"""The ledger on SQLite: threads, nesting, and the messages when the disk fails."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import exc as sa_exc
from sqlalchemy import func, insert, select, text, update

from core.actor import LOCAL
from core.db.storage_errors import storage_fault
from core.db.store import Store, new_id
from core.db.tables import Dataset, Tour
from core.errors import StorageFull
from core.pricing import budget
from core.settings import Settings
from tests.support.stores import fresh
from tests.support.waiting import WAIT_LIMIT_S, at_once

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"FABULA_HOME": str(tmp_path / "a" / "home")})


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store.open(settings)


def _tour(**values: str) -> Tour:
    return Tour(id=new_id(), created_by="local", **values)


def _count(store: Store) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(Tour)) or 0


def test_open_creates_folders_schema_and_durable_settings(store: Store, settings: Settings) -> None:
    assert settings.home.is_dir()
    with store.session() as session:
        pragmas = {name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


def test_open_again_changes_nothing(store: Store, settings: Settings) -> None:
    with store.session() as session:
        session.add(_tour())
    assert _count(Store.open(settings)) == 1


def test_four_processes_that_start_at_once_all_get_the_schema(settings: Settings) -> None:
    code = (
        "import sys; from core.settings import Settings; from core.db.store import Store;"
        "print('ready', flush=True); sys.stdin.readline();"
        "Store.open(Settings.from_env({'FABULA_HOME': sys.argv[1]}))"
    )
    argv = [sys.executable, "-c", code, str(settings.home)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(argv, cwd=_ROOT, **pipes) for _ in range(4)]  # type: ignore[call-overload]  # **pipes
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=WAIT_LIMIT_S)
        assert child.returncode == 0, errors
    assert _count(Store.open(settings)) == 0


def test_error_inside_a_session_keeps_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="no"), store.session() as session:
        session.add(_tour())
        session.flush()
        raise ValueError("no")
    assert _count(store) == 0


@pytest.mark.parametrize(
    ("written", "stored"),
    [("a\0b", "ab"), ("a\ud800b", "a?b"), ("a\ud83d\ude00b", "a??b"), ("宋\u2028😀", "宋\u2028😀")],
)
def test_every_text_can_be_written_and_searched(on_each_database: Settings, written: str, stored: str) -> None:
    """Each database refuses other ones, with errors of its own: NUL (PostgreSQL), half a surrogate pair (both)."""
    with closing(fresh(on_each_database)) as store:
        with store.session() as session:
            session.add(Tour(id="object", reason=written, created_by=LOCAL.id))
            rows = [{"id": name, "reason": written, "created_by": LOCAL.id} for name in ("many-1", "many-2")]
            session.execute(insert(Tour.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
            session.execute(insert(Tour).values({"id": "one", "created_by": LOCAL.id}))
            session.execute(update(Tour).where(Tour.id == "one").values(reason=written))
        with store.reading() as session:
            found = session.execute(select(Tour.id, Tour.reason).where(Tour.reason == written)).all()
        assert dict(found) == dict.fromkeys(("object", "many-1", "many-2", "one"), stored)
        budget.set_budget(store, LOCAL, "person", Decimal(5), written)
        assert [one.subject for one in budget.budgets(store)] == [stored]
        budget.set_budget(store, LOCAL, "person", None, written)
        assert budget.budgets(store) == []


def test_a_session_inside_a_session_joins_it(store: Store) -> None:
    with store.session() as outer:
        outer.add(_tour())
        with store.session() as inner:
            assert inner is outer
        with store.reading() as looking:
            assert looking is outer
    assert _count(store) == 1


def test_reading_does_not_wait_for_a_writer(store: Store) -> None:
    seen: list[int] = []
    with store.session() as session:
        session.add(_tour())
        session.flush()
        reader = threading.Thread(target=lambda: seen.append(_count(store)))
        reader.start()
        reader.join(timeout=WAIT_LIMIT_S)
        assert seen == [0]
    assert _count(store) == 1


def test_many_threads_that_read_and_then_write_lose_nothing(store: Store) -> None:
    with store.session() as session:
        session.add(tour := _tour(reason="0"))

    def count_up() -> None:
        for _ in range(10):
            with store.session() as session:
                found = session.get_one(Tour, tour.id)
                found.reason = str(int(found.reason or 0) + 1)
            _count(store)

    at_once(20, count_up)
    with store.reading() as session:
        assert session.get_one(Tour, tour.id).reason == "200"


def test_full_disk_is_a_sentence_and_keeps_what_was_saved(store: Store) -> None:
    with store.session() as session:
        session.add(_tour())
    with pytest.raises(StorageFull) as caught, store.session() as session:
        pages = session.scalar(text("PRAGMA page_count"))
        session.execute(text(f"PRAGMA max_page_count={pages}"))  # SQLite then fails as on a full disk
        session.add(_tour(reason="x" * 1_000_000))
        session.flush()
    assert "full" in caught.value.what
    assert caught.value.next_step
    assert _count(store) == 1


def test_locked_database_is_a_sentence(settings: Settings) -> None:
    store = Store.open(settings, busy_s=0.05)
    other = sqlite3.connect(settings.home / "fabula.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFull, match="busy"), store.session() as session:
        session.add(_tour())
    other.execute("ROLLBACK")
    with store.session() as session:
        session.add(_tour())
    assert _count(store) == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"DATABASE_URL": "sqlite:///{home}"}, "cannot be opened"),  # a folder where the file should be
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "reached"),
        ({"FABULA_HOME": "{home}/file/below"}, "cannot be created"),
    ],
)
def test_a_place_that_cannot_be_opened_is_a_sentence(tmp_path: Path, environ: dict[str, str], expected: str) -> None:
    (tmp_path / "file").write_text("")
    filled = {"FABULA_HOME": str(tmp_path)} | {key: value.format(home=tmp_path) for key, value in environ.items()}
    with pytest.raises(StorageFull, match=expected):
        Store.open(Settings.from_env(filled))


def test_a_file_that_is_no_database_is_a_sentence(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / "fabula.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageFull, match="not a database"):
        Store.open(settings)


def test_a_mistake_in_our_sql_is_not_called_a_full_disk(store: Store) -> None:
    with pytest.raises(sa_exc.OperationalError), store.session() as session:
        session.execute(text("SELECT nothing FROM tours"))
    with pytest.raises(sa_exc.IntegrityError), store.session() as session:
        session.execute(text("INSERT INTO tours (id) VALUES ('x')"))


class _PostgresError(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("53100", "full"),
        ("53300", "no free connection"),
        ("57P01", "reached"),
        ("08006", "reached"),
        ("40P01", "busy"),
        (None, "reached"),
        ("42501", "permissions"),
        ("3D000", "reached"),
        ("42P01", "missing from the database"),
        ("28000", "permissions"),
        ("XX001", "damaged"),
        ("42601", None),
    ],
)
def test_postgres_faults_are_explained_by_their_code(sqlstate: str | None, expected: str | None) -> None:
    fault = storage_fault(sa_exc.OperationalError("", None, _PostgresError(sqlstate)))
    assert (expected is None and fault is None) or (
        fault is not None and expected is not None and expected in fault.what
    )


def test_new_ids_are_short_unique_and_sorted() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(one) == 20 and one.isalnum() and one.islower() for one in ids)
    assert [one[:11] for one in ids] == sorted(one[:11] for one in ids)


def test_times_and_money_come_back_as_they_went(store: Store) -> None:
    with store.session() as session:
        session.add(Dataset(id="d", name="n", source="upload", columns=["a"], created_by="local"))
    with store.reading() as session:
        created = session.get_one(Dataset, "d").created_at
        assert created.utcoffset() is not None
        assert created.tzinfo is not None
