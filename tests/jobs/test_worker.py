"""The worker, in this process and in processes that are killed: nothing is lost, and nothing runs twice at the same
time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import text

from core import processes
from core.actor import LOCAL
from core.datasets import datasets
from core.db.change_marker import ChangeMarker
from core.db.store import Store, new_id
from core.db.tables import Spend, Tour, TrainingJob, utcnow
from core.errors import FabulaError, StorageFull
from core.finetuning import job_form, job_views, jobs
from core.jobs.heartbeat import Heartbeat, worker_state
from core.jobs.task_runner import KINDS, JobKind, TaskRunner, running_workflows
from core.jobs.worker import Worker
from core.pricing import spend
from core.settings import Settings
from tests.support.fakes import RESULTS
from tests.support.job_server import JobServer
from tests.support.waiting import WAIT_LIMIT_S, until
from tests.support.worker_starter import start_workers

_ROOT = Path(__file__).parents[2]


class ScriptedTours:
    """Scripted tour jobs that record what happened."""

    def __init__(self, work: Callable[[Store, str, threading.Event], None]) -> None:
        self.began: list[str] = []
        self.given_up: list[str] = []
        self._work = work

    def kinds(self) -> dict[str, JobKind]:
        return {"tour": JobKind("tour", 2, KINDS["tour"].unfinished, self._carry_out, self._give_up)}

    def _carry_out(self, store: Store, _registry: object, item_id: str, stopping: threading.Event) -> None:
        self.began.append(item_id)
        self._work(store, item_id, stopping)

    def _give_up(self, store: Store, item_id: str, error: FabulaError) -> None:
        self.given_up.append(error.what)
        finish(store, item_id, "failed")


def finish(store: Store, item_id: str, state: str = "done") -> None:
    with store.session() as session:
        tour = session.get_one(Tour, item_id)
        tour.state, tour.finished_at = state, utcnow()


def add_tour(store: Store) -> str:
    with store.session() as session:
        session.add(tour := Tour(id=new_id(), created_by="local"))
        return tour.id


def state_of(store: Store, item_id: str) -> str:
    with store.reading() as session:
        return session.get_one(Tour, item_id).state


@pytest.fixture
def hire(settings: Settings) -> Iterator[Callable[[ScriptedTours], Worker]]:
    """A running worker; stopped after the test."""
    with start_workers(settings) as start:
        yield lambda desk: start(kinds=desk.kinds(), registry=lambda: None)


def test_queued_work_is_done_and_the_heartbeat_says_so(store: Store, hire: Callable[[ScriptedTours], Worker]) -> None:
    assert not worker_state(store).up
    before = add_tour(store)
    desk = ScriptedTours(lambda store, item_id, _: finish(store, item_id))
    worker = hire(desk)
    after = add_tour(store)
    until(lambda: state_of(store, before) == state_of(store, after) == "done", "both tours done")
    assert sorted(desk.began) == sorted([before, after])
    assert worker_state(store).up
    assert worker_state(store).queued == 0
    worker.stop()
    assert not worker_state(store).up


def test_it_settles_what_a_killed_process_had_in_flight(store: Store, hire: Callable[[ScriptedTours], Worker]) -> None:
    with store.session() as session:
        spend_id = spend.record(
            session, LOCAL, "story", provider="p", model="m", reference="a story", cost_usd=Decimal("0.5")
        )
        session.get_one(Spend, spend_id).created_at = utcnow() - timedelta(hours=2)
    hire(ScriptedTours(lambda store, item_id, _: finish(store, item_id)))

    def cost_usd() -> Decimal | None:
        with store.reading() as session:
            return session.get_one(Spend, spend_id).cost_usd

    until(lambda: cost_usd() is None, "an unknown cost")


def _wait_until_stopped(_store: Store, _item_id: str, stopping: threading.Event) -> None:
    stopping.wait()


def test_a_worker_stops_within_seconds_and_its_work_goes_on_at_the_next_start(
    store: Store, hire: Callable[[ScriptedTours], Worker]
) -> None:
    item_id = add_tour(store)
    waiting = ScriptedTours(_wait_until_stopped)
    worker = hire(waiting)
    until(lambda: waiting.began, "work begun")
    worker.stop()
    assert state_of(store, item_id) == "queued"
    assert waiting.given_up == []
    finishing = ScriptedTours(lambda store, item_id, _: finish(store, item_id))
    worker = hire(finishing)
    until(lambda: state_of(store, item_id) == "done", "the same work done by the next worker")
    assert finishing.began == [item_id]


def _migrate(store: Store, revision: str) -> str:
    """As another version does; returns the revision from before."""
    with store.session() as session:
        before = str(session.scalar(text("SELECT version_num FROM alembic_version")))
        session.execute(text("UPDATE alembic_version SET version_num = :now"), {"now": revision})
        return before


def test_a_worker_takes_no_work_of_a_newer_version(
    store: Store, hire: Callable[[ScriptedTours], Worker], caplog: pytest.LogCaptureFixture
) -> None:
    """Two instances share a database, and one is updated first: the older one stops until it is updated too."""
    first, desk = add_tour(store), ScriptedTours(_wait_until_stopped)
    worker = hire(desk)
    until(lambda: desk.began, "work begun")
    before = _migrate(store, "9999_newer")
    until(lambda: "newer version of Fabula" in caplog.text, "the sentence in the log")
    until(lambda: not worker.wait_until_ready(0) and not running_workflows(), "its work handed back")
    second = add_tour(store)
    assert desk.began == [first] and state_of(store, first) == state_of(store, second) == "queued"
    _migrate(store, before)  # the update is undone
    until(lambda: set(desk.began) == {first, second}, "both taken")


def test_start_twice_is_one_worker(store: Store, hire: Callable[[ScriptedTours], Worker]) -> None:
    desk = ScriptedTours(lambda store, item_id, _: finish(store, item_id))
    worker = hire(desk)
    worker.start()
    item_id = add_tour(store)
    until(lambda: state_of(store, item_id) == "done", "done")
    assert desk.began == [item_id]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FabulaError("The data set is gone.", "Choose another."), "The data set is gone."),
        (KeyError("x"), "Something unexpected happened (KeyError)."),
        (None, "The background task ended without a result."),
    ],
)
def test_work_that_cannot_be_done_fails_with_a_sentence(
    store: Store, hire: Callable[[ScriptedTours], Worker], error: Exception | None, expected: str
) -> None:
    def work(_store: Store, _item_id: str, _stopping: threading.Event) -> None:
        if error is not None:
            raise error

    desk = ScriptedTours(work)
    item_id = add_tour(store)
    hire(desk)
    until(lambda: state_of(store, item_id) == "failed", "failed")
    assert desk.given_up == [expected]


def test_an_error_while_it_is_asked_what_is_unfinished_is_logged_and_shown(
    settings: Settings, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the item would be shown as running although no worker runs it."""

    def raising(_store: Store) -> list[str]:
        raise KeyError("x")

    desk = ScriptedTours(lambda _store, _item_id, _stopping: None)
    item_id = add_tour(store)
    kinds = {"tour": replace(desk.kinds()["tour"], unfinished=raising)}
    task_runner = TaskRunner(store, lambda: None, kinds, lambda *_: None)  # type: ignore[arg-type, return-value]
    task_runner.run("tour-1", "tour", item_id)
    assert desk.given_up == ["Something unexpected happened (KeyError)."] and state_of(store, item_id) == "failed"
    assert "KeyError: 'x'" in caplog.text and item_id in caplog.text and not running_workflows()


@pytest.mark.parametrize("broken", ["unfinished and give_up", "give_up", "restore"])
def test_a_piece_that_cannot_say_that_it_failed_is_logged_and_tried_again(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def raising(*_: object) -> list[str]:
        raise LookupError("y")

    desk = ScriptedTours(lambda _store, _item_id, _stopping: None)
    item_id, later = add_tour(store), []
    kind = replace(desk.kinds()["tour"], give_up=raising)  # type: ignore[arg-type]  # it raises
    if "unfinished" in broken:
        kind = replace(kind, unfinished=raising)
    if broken == "restore":
        monkeypatch.setattr("core.jobs.recovery.restore", raising)
    task_runner = TaskRunner(store, lambda: None, {"tour": kind}, lambda *arguments: later.append(arguments))  # type: ignore[arg-type, return-value]
    task_runner.run("tour-1", "tour", item_id)
    assert [arguments[:2] for arguments in later] == [("tour", item_id)] and later[0][2] > 0
    assert "LookupError: y" in caplog.text and state_of(store, item_id) == "queued" and not running_workflows()


@pytest.mark.parametrize("status", job_views.FINISHED)
def test_a_job_that_has_ended_is_not_given_up(store: Store, status: str) -> None:
    with store.session() as session:
        job = TrainingJob(
            id=new_id(), name="a", provider="engine", base_model="gemma-3-270m", hyperparameters={}, status=status,
            file_format="chat", created_by="local",
        )  # fmt: skip
        session.add(job)
    jobs.give_up(store, job.id, FabulaError("A late error."))
    ended = job_views.get(store, job.id)
    assert (ended.status, ended.error) == (status, None)


def test_a_worker_runs_no_more_items_than_it_has_places_and_the_oldest_first(
    store: Store, hire: Callable[[ScriptedTours], Worker]
) -> None:
    ends: dict[str, threading.Event] = {}

    def work(store: Store, item_id: str, stopping: threading.Event) -> None:
        until(lambda: ends[item_id].is_set() or stopping.is_set(), "the end of the work")
        finish(store, item_id)

    items = [add_tour(store) for _ in range(4)]
    ends |= {item_id: threading.Event() for item_id in items}
    desk = ScriptedTours(work)
    hire(desk)
    for place, item_id in enumerate(items):
        expected = items[: place + 2]
        until(lambda expected=expected: len(desk.began) >= len(expected), "both places taken")  # type: ignore[misc]
        assert set(desk.began) == set(expected)
        ends[item_id].set()
        until(lambda item_id=item_id: state_of(store, item_id) == "done", "one place free")  # type: ignore[misc]


def test_an_idle_worker_does_not_read_the_ledger_and_starts_new_work_at_once(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.jobs.worker.BEAT_INTERVAL_S", 3600.0)  # a heartbeat is a commit
    polls, looks, read = [], [], ChangeMarker.read

    def counted(marker: ChangeMarker) -> object:
        polls.append(1)
        return read(marker)

    def unfinished(store: Store) -> list[str]:
        looks.append(1)
        return KINDS["tour"].unfinished(store)

    def idle() -> bool:
        before, until_polls = len(looks), len(polls) + 10
        until(lambda: len(polls) >= until_polls, "ten polls")
        return len(looks) == before

    monkeypatch.setattr(ChangeMarker, "read", counted)
    desk = ScriptedTours(lambda store, item_id, _: finish(store, item_id))
    with start_workers(settings) as start:
        start(kinds={"tour": replace(desk.kinds()["tour"], unfinished=unfinished)}, registry=lambda: None)
        until(idle, "ten polls without a look at the ledger")
        item_id = add_tour(store)
        until(lambda: state_of(store, item_id) == "done", "done without a heartbeat")


def test_full_storage_is_waited_for(store: Store, settings: Settings) -> None:
    def work(store: Store, item_id: str, _stopping: threading.Event) -> None:
        if len(desk.began) < 3:
            raise StorageFull("full")
        finish(store, item_id)

    desk = ScriptedTours(work)
    item_id = add_tour(store)
    with start_workers(settings) as start:
        start(kinds=desk.kinds(), registry=lambda: None, storage_pause_s=0.01)
        until(lambda: state_of(store, item_id) == "done", "done once there is room")
    assert desk.given_up == []


def test_dbos_is_quiet_and_keeps_json_not_pickles(
    store: Store, settings: Settings, hire: Callable[[ScriptedTours], Worker], capfd: pytest.CaptureFixture[str]
) -> None:
    desk = ScriptedTours(lambda store, item_id, _: finish(store, item_id))
    worker = hire(desk)
    item_id = add_tour(store)
    until(lambda: state_of(store, item_id) == "done", "done")
    worker.stop()
    rows = sqlite3.connect(settings.home / "work.db").execute(
        "SELECT workflow_uuid, serialization FROM workflow_status"
    )
    assert rows.fetchall() == [(f"tour-{item_id}", "portable_json")]
    assert capfd.readouterr().err == ""
    assert logging.getLogger("dbos").level == logging.CRITICAL


# --- processes that are killed -------------------------------------------------------------------------------------


def run_worker(home: Path, behaviour: str, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.worker_process", str(home), behaviour],
        cwd=_ROOT,
        env=os.environ | (environ or {}),
        stdin=subprocess.PIPE,
        text=True,
    )


def diary(home: Path) -> list[list[str]]:
    path = home / "diary"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def stop_in_peace(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=WAIT_LIMIT_S)
    assert process.returncode == 0


def test_work_of_a_killed_process_goes_on_at_the_next_start_without_a_visitor(store: Store, home: Path) -> None:
    item_id = add_tour(store)
    killed = run_worker(home, "hang")
    until(lambda: diary(home), "the first process at work")
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert state_of(store, item_id) == "running"
    assert not worker_state(store).up
    heir = run_worker(home, "finish")
    until(lambda: state_of(store, item_id) == "done", "the second process done")
    stop_in_peace(heir)
    assert [(word, pid) for word, _, pid in diary(home)] == [
        ("began", str(killed.pid)),
        ("began", str(heir.pid)),
        ("ended", str(heir.pid)),
        ("stopped", str(heir.pid)),
    ]


def test_killed_before_it_began_and_killed_again(store: Store, home: Path) -> None:
    item_id = add_tour(store)
    for _ in range(2):
        before = len(diary(home))
        killed = run_worker(home, "hang")
        until(lambda before=before: len(diary(home)) > before, "at work")  # type: ignore[misc]  # default in lambda
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    heir = run_worker(home, "finish")
    until(lambda: state_of(store, item_id) == "done", "done after two kills")
    stop_in_peace(heir)


def test_two_workers_at_once_do_each_piece_once(store: Store, home: Path) -> None:
    workers = [run_worker(home, "finish") for _ in range(2)]
    items = [add_tour(store) for _ in range(6)]
    until(lambda: all(state_of(store, item) == "done" for item in items), "all done")
    for worker in workers:
        stop_in_peace(worker)
    began = [item for word, item, _ in diary(home) if word == "began"]
    assert sorted(began) == sorted(items)


def test_a_living_worker_keeps_its_work_when_another_starts(store: Store, home: Path) -> None:
    item_id = add_tour(store)
    first = run_worker(home, "hang")
    until(lambda: diary(home), "the first at work")
    second = run_worker(home, "finish")
    other = add_tour(store)
    until(lambda: state_of(store, other) == "done", "the second at work")
    assert state_of(store, item_id) == "running"
    stop_in_peace(second)
    first.kill()
    first.wait()


def test_python_m_core_worker_starts_and_stops(home: Path, settings: Settings) -> None:
    process = subprocess.Popen([sys.executable, "-m", "core.jobs.worker"], cwd=_ROOT, stderr=subprocess.PIPE, text=True)
    store = Store.open(settings)
    until(lambda: worker_state(store).up, "the worker's heartbeat")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=WAIT_LIMIT_S)
    assert process.returncode == 0
    assert "Worker started for" in errors
    assert not worker_state(store).up


def test_killed_between_the_post_and_the_id_there_is_one_post_and_one_job(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"power": ["隐形", "飞行"], "story": ["故事一。", "故事二。"]})
    dataset_id = datasets.from_frame(store, LOCAL, "two", frame, ["power"], "story")
    job_id = jobs.submit(store, LOCAL, job_form.JobForm(dataset_id, "First", "engine", "gemma-3-270m"))
    command = [sys.executable, "-m", "core.jobs.worker"]
    with JobServer() as server:
        monkeypatch.setenv("FABULA_ENGINE_URL", server.url)
        killed = subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL)
        server.on_created = lambda: os.kill(
            killed.pid, signal.SIGKILL
        )  # the job exists, but its creation was not recorded
        assert killed.wait(WAIT_LIMIT_S) == -signal.SIGKILL
        assert (job_views.get(store, job_id).status, job_views.get(store, job_id).remote_id) == ("submitting", None)
        heir = subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL)
        until(lambda: job_views.get(store, job_id).finished, "the job finished by the second process")
        heir.send_signal(signal.SIGTERM)
        assert heir.wait(WAIT_LIMIT_S) == 0
    job = job_views.get(store, job_id)
    assert (job.status, job.remote_id, job.results_csv) == ("succeeded", "ftjob-1", RESULTS)
    assert server.count("POST /v1/fine_tuning/jobs") == 1
    assert server.count("POST /v1/files") == 1


# --- heartbeats ----------------------------------------------------------------------------------------------------


def test_a_worker_elsewhere_is_dead_only_after_silence_on_our_own_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    mine, other = Heartbeat(store), Heartbeat(store)
    mine.beat(0)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    other.beat(1)
    monkeypatch.undo()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert mine.live_ids() == {mine.id, other.id}
    now[0] = 29.0
    assert other.id in mine.live_ids()
    other.beat(1)
    now[0] = 58.0
    assert other.id in mine.live_ids()
    now[0] = 90.0
    assert mine.live_ids() == {mine.id}
    other.beat(0)  # it was only disconnected: its heartbeat is back
    assert mine.live_ids() == {mine.id, other.id}


def test_a_worker_of_this_machine_is_dead_only_when_its_process_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that waits for a full disk writes no heartbeat, but keeps its items."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    mine, other = Heartbeat(store), Heartbeat(store)
    mine.beat(0)
    other.beat(1)
    assert mine.live_ids() == {mine.id, other.id}
    now[0] = 3600.0
    assert mine.live_ids() == {mine.id, other.id}
    monkeypatch.setattr(processes, "is_running", lambda identity: False)
    assert mine.live_ids() == {mine.id}


def test_a_worker_that_is_stopped_keeps_its_work_until_it_is_killed(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl+Z in a terminal: no heartbeat for an hour, and it resumes the same items when woken."""
    add_tour(store)
    worker = run_worker(home, "hang")
    until(lambda: diary(home), "at work")
    with store.session() as session:
        session.connection()  # begins the transaction: a worker stopped during a write would block all other writers
        os.kill(worker.pid, signal.SIGSTOP)
        os.waitpid(worker.pid, os.WUNTRACED)
    try:
        mine, now = Heartbeat(store), [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        mine.beat(0)
        both = mine.live_ids()
        assert len(both) == 2
        now[0] = 3600.0
        assert mine.live_ids() == both
    finally:
        worker.kill()
        worker.wait()
    assert mine.live_ids() == {mine.id}


def test_alive_counts_running_and_queued(store: Store) -> None:
    own_heartbeat = Heartbeat(store)
    own_heartbeat.beat(3)
    add_tour(store)
    state = worker_state(store)
    assert (state.up, state.running, state.queued) == (True, 3, 1)
    own_heartbeat.stop()
    assert worker_state(store).up is False


def test_importing_the_worker_is_light() -> None:
    code = (
        "import sys, core.jobs.worker, json; print(json.dumps([m for m in ('dbos', 'streamlit') if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []
