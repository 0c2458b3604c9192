"""The same ledger on a real PostgreSQL. Skipped, with the reason, if none can be started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import text

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store, new_id
from core.db.tables import Tour
from core.errors import StorageFull
from core.finetuning import job_events, job_form, job_views, jobs
from core.jobs.heartbeat import Heartbeat, worker_state
from core.settings import Settings
from core.tours import tour as tours
from tests.support import postgres_server
from tests.support.waiting import WAIT_LIMIT_S, at_once, until

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(on_postgres: Settings) -> Settings:
    return on_postgres


def test_three_processes_that_start_at_once_all_get_the_schema(postgres_url: str, home: Path) -> None:
    url = postgres_server.new_database(postgres_url)
    settings = Settings.from_env({"DATABASE_URL": url, "FABULA_HOME": str(home)})
    code = (
        "import sys; from core.settings import Settings; from core.db.store import Store;"
        "Store.open(Settings.from_env({'DATABASE_URL': sys.argv[1], 'FABULA_HOME': sys.argv[2]}))"
    )
    argv = [sys.executable, "-c", code, settings.database_url, str(settings.home)]
    children = [subprocess.Popen(argv, cwd=_ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        _, errors = child.communicate(timeout=WAIT_LIMIT_S)
        assert child.returncode == 0, errors
    Store.open(settings).close()


def test_threads_that_change_one_row_under_a_lock_lose_nothing(store: Store) -> None:
    with store.session() as session:
        session.add(tour := Tour(id=new_id(), created_by="local", reason="0"))

    def count_up() -> None:
        for _ in range(10):
            with store.session() as session:
                found = session.get_one(Tour, tour.id, with_for_update=True)
                found.reason = str(int(found.reason or 0) + 1)

    at_once(8, count_up)
    with store.reading() as session:
        assert session.get_one(Tour, tour.id).reason == "80"


def test_a_server_that_ends_the_connection_is_a_sentence_and_the_store_comes_back(store: Store) -> None:
    with pytest.raises(StorageFull, match="reached"), store.session() as session:
        mine = session.scalar(text("SELECT pg_backend_pid()"))
        with Store(store.url).session() as other:
            other.execute(text(f"SELECT pg_terminate_backend({mine})"))
        session.execute(text("SELECT 1"))
    with store.session() as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_the_worker_shares_its_queues_through_postgres_and_survives_kill_9(store: Store, settings: Settings) -> None:
    with store.session() as session:
        session.add(tour := Tour(id=new_id(), created_by="local"))

    def run(behaviour: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "tests.support.worker_process", str(settings.home), behaviour]
        env = os.environ | {"DATABASE_URL": settings.database_url}
        return subprocess.Popen(argv, cwd=_ROOT, env=env, stdin=subprocess.PIPE, text=True)

    def state() -> str:
        with store.reading() as session:
            return session.get_one(Tour, tour.id).state

    killed = run("hang")
    until(lambda: state() == "running", "the first worker at work")
    killed.kill()
    killed.wait()
    heir = run("finish")
    until(lambda: state() == "done", "the second worker done")
    heir.communicate("\n", timeout=WAIT_LIMIT_S)
    assert heir.returncode == 0
    assert not (settings.home / "work.db").exists()


def test_ten_submits_at_once_are_one_job(store: Store) -> None:
    frame = pd.DataFrame({"a": ["x"], "story": ["y."]})
    dataset_id = datasets.from_frame(store, LOCAL, "one", frame, ["a"], "story")
    form = job_form.JobForm(dataset_id, "First", "engine", "gemma-3-270m", n_epochs=2)
    assert len(set(at_once(10, lambda: jobs.submit(store, LOCAL, form)))) == 1


def test_heartbeats_events_and_lists(store: Store) -> None:
    assert not worker_state(store).up
    own_heartbeat = Heartbeat(store)
    own_heartbeat.beat(1)
    assert (worker_state(store).up, own_heartbeat.live_ids()) == (True, {own_heartbeat.id})
    assert (job_views.list_jobs(store), job_events.events(store, "j"), tours.progress(store)) == ([], [], None)
    first = tours.start(store, LOCAL, "en")
    assert tours.start(store, LOCAL, "en") == first
    tours.stop(store, LOCAL)
    progress = tours.progress(store)
    assert progress is not None
    assert progress.state == "stopped"
