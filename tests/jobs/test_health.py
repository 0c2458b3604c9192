"""Readiness: each failing part is named by a sentence, and only the database and the disk take a server out of use."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from core.admin.__main__ import main
from core.db.store import Store
from core.db.tables import WorkerHeartbeat
from core.file_storage import FolderStorage
from core.jobs import health
from core.jobs.health import HealthCheck
from core.jobs.heartbeat import Heartbeat
from core.settings import Settings
from tests.support import postgres_server
from tests.support.fault_server import FaultServer
from tests.support.waiting import WAIT_LIMIT_S


@pytest.fixture
def serving(store: Store, settings: Settings, engine_server: FaultServer) -> Settings:
    """An installation in which everything works."""
    Heartbeat(store).beat(0)
    return Settings.from_env()


def _newer(settings: Settings, _monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(settings.database_url).session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))


def _older(settings: Settings, _monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(settings.database_url).session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001_initial'"))


def _no_home(settings: Settings, _monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(settings.home)


def _full(_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))


def _no_worker(settings: Settings, _monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(settings.database_url).session() as session:
        session.query(WorkerHeartbeat).delete()


def _no_engine(_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABULA_ENGINE_URL", "http://127.0.0.1:9")


def _no_files(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABULA_FILES_URL", f"{settings.home}-files")


def _own_engine(_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FABULA_ENGINE_URL")


_FAULTS: list[tuple[Callable[[Settings, pytest.MonkeyPatch], None], str, str, str]] = [
    (_newer, "not ready", "database", "A newer version of Fabula wrote the database."),
    (_older, "not ready", "database", "The database has not been migrated yet."),
    (_no_home, "not ready", "database", "The database cannot be reached or read."),
    (_full, "not ready", "disk", "Only 5 MB are free in the home folder."),
    (_no_worker, "degraded", "worker", "No worker has reported in the last 20 seconds, so queued work waits."),
    (_no_files, "degraded", "files", "The shared files cannot be reached or read."),
    (_no_engine, "degraded", "engine", "The engine does not answer."),
    (_own_engine, "degraded", "engine", "The engine is not running."),
]


@pytest.mark.parametrize(
    ("spoil", "state", "part", "reason"), _FAULTS, ids=[fault[0].__name__[1:] for fault in _FAULTS]
)
def test_what_is_wrong_is_named(
    serving: Settings,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Settings, pytest.MonkeyPatch], None],
    state: str,
    part: str,
    reason: str,
) -> None:
    assert HealthCheck(serving).check() == health.Readiness("ready", {})
    spoil(serving, monkeypatch)
    found = HealthCheck(Settings.from_env()).check()
    assert (found.state, found.reasons[part]) == (state, reason)
    assert str(serving.home) not in str(found.reasons) and "127.0.0.1" not in str(found.reasons)


def test_a_postgres_server_that_is_away_is_named_and_its_return_is_noticed(
    on_postgres: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(on_postgres).close()
    monkeypatch.setattr(health, "_CACHE_S", 0.0)
    check = HealthCheck(on_postgres)
    assert "database" not in check.check().reasons
    home = Path(postgres_url.partition("host=")[2])
    postgres_server.stop(home)
    try:
        assert check.check().reasons["database"] == "The database cannot be reached or read."
    finally:
        postgres_server.start(home)
    assert "database" not in check.check().reasons
    check.close()


def test_a_check_that_hangs_is_an_answer_too(serving: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_TIMEOUT_S", 0.0)
    back = threading.Event()
    monkeypatch.setattr(HealthCheck, "_database", lambda self: str(back.wait(WAIT_LIMIT_S)))
    try:
        found = HealthCheck(serving).check()
    finally:
        back.set()
    assert found.state == "not ready" and found.reasons["database"] == "No answer in time."


def test_shared_files_that_hang_leave_threads_for_the_other_checks(
    serving: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder whose server is away; a load balancer asks all the time."""
    monkeypatch.setenv("FABULA_FILES_URL", str(serving.home.parent))
    asked: list[FolderStorage] = []
    back = threading.Event()

    def reach(self: FolderStorage) -> None:
        asked.append(self)
        back.wait(WAIT_LIMIT_S)

    monkeypatch.setattr(FolderStorage, "reach", reach)
    monkeypatch.setattr(health, "_CACHE_S", 0.0)
    monkeypatch.setattr(health, "_TIMEOUT_S", 2.0)
    health_check = HealthCheck(Settings.from_env())
    try:
        found = [health_check.check() for _ in range(12)]
    finally:
        back.set()
        health_check.close()
    assert {(one.state, *one.reasons) for one in found} == {("degraded", "files")} and len(asked) == 1


def test_many_callers_cost_one_check(serving: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_CACHE_S", 1000.0)
    check = HealthCheck(serving)
    assert all(check.check() is check.check() for _ in range(3))


@pytest.mark.parametrize(("arguments", "code"), [(["health"], 0), (["health", "--worker"], 1)])
def test_the_command_tells_a_service_manager(
    serving: Settings, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _no_worker(serving, pytest.MonkeyPatch())
    assert main(arguments) == code
    assert "worker: No worker has reported" in capsys.readouterr().out


def test_a_worker_of_another_host_does_not_count_for_this_one(serving: Settings, store: Store) -> None:
    with store.session() as session:
        for beat in session.query(WorkerHeartbeat):
            beat.host = "another"
    assert main(["health", "--worker"]) == 1
    assert main(["health"]) == 0
