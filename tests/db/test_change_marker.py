"""Whether anything was committed since: by this process, by another one, on either database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from core.db.change_marker import ChangeMarker
from core.db.store import Store, new_id
from core.db.tables import Tour
from core.errors import DatabaseLost
from core.settings import Settings
from tests.support.waiting import until

_ROOT = Path(__file__).parents[2]
_ELSEWHERE = """
import sys
from core.db.store import Store, new_id
from core.db.tables import Tour
from core.settings import Settings
store = Store.open(Settings.from_env({"FABULA_HOME": sys.argv[1], "DATABASE_URL": sys.argv[2]}))
with store.session() as session:
    session.add(Tour(id=new_id(), created_by="local"))
"""


@pytest.fixture
def each_store(on_each_database: Settings) -> Iterator[Store]:
    with closing(Store.open(on_each_database)) as store:
        yield store


def _write(store: Store) -> None:
    with store.session() as session:
        session.add(Tour(id=new_id(), created_by="local"))


def _read(store: Store) -> None:
    with store.reading() as session:
        session.get(Tour, "a")


def _fail(store: Store) -> None:
    with suppress(ZeroDivisionError), store.session() as session:
        session.execute(text("SELECT 1"))
        raise ZeroDivisionError


def _write_elsewhere(store: Store) -> None:
    command = [sys.executable, "-c", _ELSEWHERE, str(store.home), store.url]
    subprocess.run(command, cwd=_ROOT, check=True)


@pytest.mark.parametrize("act", [_write, _write_elsewhere])
def test_it_changes_with_every_commit_of_any_process(each_store: Store, act: Callable[[Store], None]) -> None:
    with closing(ChangeMarker(each_store)) as marker:
        for _ in range(2):
            before = marker.read()
            act(each_store)
            assert marker.read() != before


@pytest.mark.parametrize("act", [lambda store: None, _read, _fail], ids=["nothing", "read", "roll back"])
def test_it_stays_the_same_without_a_commit(each_store: Store, act: Callable[[Store], None]) -> None:
    with closing(ChangeMarker(each_store)) as marker:

        def unchanged() -> bool:
            before = marker.read()
            act(each_store)
            return marker.read() == before

        until(unchanged, "the same value")  # at first, PostgreSQL's own maintenance may commit too


def test_another_file_counts_also_if_it_appears_later(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    with closing(ChangeMarker(store, file)) as marker:
        assert marker.read() != marker.read()  # unknown, so as if something had been committed
        with closing(Store(f"sqlite:///{file}")) as other:
            file.touch()
            for number in range(2):
                before = marker.read()
                assert marker.read() == before
                with other.session() as session:
                    session.execute(text(f"CREATE TABLE t{number} (a)"))
                assert marker.read() != before


def test_a_lost_database_is_an_error(store: Store) -> None:
    assert store.file is not None
    with closing(ChangeMarker(store)) as marker:
        marker.read()
        store.file.path.unlink()
        with pytest.raises(DatabaseLost):
            marker.read()
