"""Waiting items occupy no slot in the worker: batches at their provider, paused jobs. DBOS keeps them meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store, new_id
from core.db.tables import Tour, TrainingJob, utcnow
from core.errors import FabulaError, RateLimited
from core.finetuning import job_context, job_form, job_views, jobs, submit
from core.generation import run_progress, runs
from core.generation.batch import batch_runner
from core.jobs.task_runner import KINDS, JobKind
from core.jobs.worker import Worker
from core.providers import RemoteJob, RetryPolicy
from core.providers.retry import BACKGROUND
from core.settings import Settings
from tests.support.batch_server import BatchServer
from tests.support.fakes import FakeClient, FakeRegistry, remote_job
from tests.support.waiting import until
from tests.support.worker_starter import start_workers

_DAY_S = 86_400.0


@pytest.fixture
def hire(settings: Settings) -> Iterator[Callable[..., Worker]]:
    """Starts a worker; stopped after the test."""
    with start_workers(settings) as start:
        yield lambda registry=None, kinds=None: start(kinds=kinds or KINDS, registry=lambda: registry)


# --- any work ------------------------------------------------------------------------------------------------------


class WaitingTours:
    """Two slots for tours. Attempts are counted; `ends` is their result: None finishes, seconds delay the next one."""

    def __init__(self) -> None:
        self.goes: Counter[str] = Counter()
        self.ends: dict[str, float | None] = {}
        self.asked: dict[str, str] = {}
        tour = KINDS["tour"]
        self.kinds = {
            "tour": JobKind("tour", 2, tour.unfinished, self.carry_out, self.give_up, lambda _store: dict(self.asked))
        }

    def carry_out(self, store: Store, _registry: object, item_id: str, _stopping: threading.Event) -> float | None:
        self.goes[item_id] += 1
        end = self.ends.get(item_id)
        if end is None:
            with store.session() as session:
                tour = session.get_one(Tour, item_id)
                tour.state, tour.finished_at = "done", utcnow()
        return end

    def give_up(self, _store: Store, _item_id: str, error: FabulaError) -> None:
        raise AssertionError(error.what)


def add_tour(store: Store) -> str:
    with store.session() as session:
        session.add(tour := Tour(id=new_id(), created_by="local"))
        return tour.id


def done(store: Store, item_id: str) -> bool:
    with store.reading() as session:
        return session.get_one(Tour, item_id).state == "done"


def workflows(settings: Settings) -> list[tuple[str, str]]:
    """(id, status) of all DBOS workflows."""
    with closing(sqlite3.connect(settings.home / "work.db")) as database:
        return database.execute("SELECT workflow_uuid, status FROM workflow_status ORDER BY created_at").fetchall()


def test_a_hundred_pieces_that_wait_take_no_place(store: Store, hire: Callable[..., Worker]) -> None:
    desk = WaitingTours()
    waiting = [add_tour(store) for _ in range(100)]
    desk.ends = dict.fromkeys(waiting, _DAY_S)
    hire(kinds=desk.kinds)
    until(lambda: len(desk.goes) == 100, "each was looked at")
    last = add_tour(store)
    until(lambda: done(store, last), "the one behind them is done")
    assert set(desk.goes.values()) == {1}  # none of them was resumed too early


def test_what_waits_is_taken_up_when_its_time_has_come(store: Store, hire: Callable[..., Worker]) -> None:
    desk = WaitingTours()
    item_id = add_tour(store)
    desk.ends[item_id] = 0.01
    hire(kinds=desk.kinds)
    until(lambda: desk.goes[item_id] >= 4, "looked at again and again")
    desk.ends[item_id] = None
    until(lambda: done(store, item_id), "done in the end")


def test_pieces_that_wait_again_and_again_do_not_keep_the_places_among_themselves(
    store: Store, settings: Settings, hire: Callable[..., Worker]
) -> None:
    """Jobs of which there are more than places take turns that are longer than their waits."""
    desk, order = WaitingTours(), list[str]()
    items = [add_tour(store) for _ in range(4)]
    desk.ends = dict.fromkeys(items, 0.01)

    def turn(store: Store, registry: object, item_id: str, stopping: threading.Event) -> float | None:
        order.append(item_id)
        until(lambda: "DELAYED" not in dict(workflows(settings)).values() or stopping.is_set(), "the others are due")
        return desk.carry_out(store, registry, item_id, stopping)

    hire(kinds={"tour": replace(desk.kinds["tour"], max_concurrent=1, carry_out=turn)})
    until(lambda: len(order) >= 2 * len(items), "two turns of each")
    assert order[: 2 * len(items)] == 2 * items
    desk.ends.clear()
    until(lambda: all(done(store, item_id) for item_id in items), "done")


def test_a_piece_that_is_looked_at_often_leaves_few_traces(
    store: Store, settings: Settings, hire: Callable[..., Worker]
) -> None:
    desk = WaitingTours()
    item_id = add_tour(store)
    desk.ends[item_id] = 0.01
    hire(kinds=desk.kinds)
    until(lambda: desk.goes[item_id] >= 6, "looked at again and again")
    assert len(workflows(settings)) <= 3  # the last attempt, this one, and the next
    desk.ends[item_id] = None
    until(lambda: done(store, item_id), "done")


def test_what_somebody_asks_of_a_piece_that_waits_is_done_at_once_and_once(
    store: Store, hire: Callable[..., Worker]
) -> None:
    desk = WaitingTours()
    item_id = add_tour(store)
    desk.ends[item_id] = _DAY_S
    hire(kinds=desk.kinds)
    until(lambda: desk.goes[item_id] == 1, "it waits for a day")
    desk.asked[item_id] = "pause"
    until(lambda: desk.goes[item_id] == 2, "taken up for the request")
    other = add_tour(store)
    until(lambda: done(store, other), "some looks later")
    assert desk.goes[item_id] == 2  # the same request does not wake it a second time
    desk.ends[item_id] = None
    desk.asked[item_id] = "stop"
    until(lambda: done(store, item_id), "taken up for another request")


def test_what_waits_goes_on_waiting_when_the_worker_is_started_again(
    store: Store, settings: Settings, hire: Callable[..., Worker]
) -> None:
    first, second = WaitingTours(), WaitingTours()
    item_id = add_tour(store)
    first.ends[item_id] = second.ends[item_id] = _DAY_S
    worker = hire(kinds=first.kinds)
    until(lambda: first.goes[item_id] == 1, "it waits")
    until(lambda: (f"tour-{item_id}.2", "DELAYED") in workflows(settings), "the next attempt is delayed")
    worker.stop()
    hire(kinds=second.kinds)
    other = add_tour(store)
    until(lambda: done(store, other), "the second worker works")
    assert second.goes[item_id] == 0
    second.ends[item_id] = None
    second.asked[item_id] = "stop"
    until(lambda: done(store, item_id), "it can still be woken")


# --- batches -------------------------------------------------------------------------------------------------------


def batch_run(store: Store, name: str) -> str:
    columns = (Column("n", tuple(f"{name}{i}" for i in range(3))),)
    made = Recipe(name, columns, "{n}", provider="openai", model="writer", max_tokens=9)
    return runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, made), mode="batch")


def test_three_batches_that_wait_for_their_provider_let_others_work(store: Store, hire: Callable[..., Worker]) -> None:
    with BatchServer() as server:
        server.fates = ["endless"] * 3
        waiting = [batch_run(store, name) for name in ("a", "b", "c")]
        hire(server.registry())
        until(lambda: len(server.batches) == 3, "all three are with the provider, though there are two places")
        last = batch_run(store, "d")
        until(lambda: run_progress.get(store, last).state == "done", "the one behind them is done")
        assert {run_progress.get(store, run_id).state for run_id in waiting} == {"running"}
        runs.request_stop(store, LOCAL, waiting[0])
        until(lambda: run_progress.get(store, waiting[0]).state == "stopped", "stopped while it waited")
        runs.request_pause(store, LOCAL, waiting[1])
        until(lambda: run_progress.get(store, waiting[1]).state == "paused", "paused while it waited")
        assert server.count("POST /v1/batches") == 4


def test_a_batch_run_says_how_long_it_waits_and_goes_on_there(store: Store) -> None:
    with BatchServer() as server:
        run_id, registry, halt = batch_run(store, "a"), server.registry(), threading.Event()
        goes = 0
        while (wait_s := batch_runner.carry_out(store, registry, run_id, halt)) is not None:
            assert 2 <= wait_s <= 60
            goes += 1
            batch_runner._waiting_runs[run_id].next_at.clear()  # as if the time were over
        assert goes >= 2
        assert run_progress.get(store, run_id).state == "done"
        assert (server.count("POST /v1/batches"), server.count("POST /v1/files")) == (1, 1)


def test_a_provider_that_is_away_is_waited_for_elsewhere_and_longer_each_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "wait_s", lambda _policy, tries, *_: 4.0 * tries)  # without its jitter
    with BatchServer() as server:
        server.faults["POST /v1/files"] = [500] * 3
        run_id, registry, halt = batch_run(store, "a"), server.registry(), threading.Event()
        waits = []
        for _ in range(3):
            waits.append(round(batch_runner.carry_out(store, registry, run_id, halt) or 0))
            assert "Waiting" in (run_progress.get(store, run_id).note or "")
            batch_runner._waiting_runs[run_id].next_at.clear()
        assert waits == [4, 8, 12]


# --- jobs ----------------------------------------------------------------------------------------------------------


class PausingProvider(FakeClient):
    """Jobs that are paused until they are resumed; then they have succeeded."""

    def __init__(self) -> None:
        super().__init__()
        self.resumed: set[str] = set()

    def create_job(self, request: Any, intent_id: str) -> RemoteJob:
        return replace(remote_job("running"), id=intent_id)

    def job(self, job_id: str) -> RemoteJob:
        return replace(remote_job("succeeded" if job_id in self.resumed else "paused"), id=job_id)

    def resume(self, job_id: str) -> Any:
        self.resumed.add(job_id)


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> dict[str, JobKind]:
    """Real job kinds, with two slots."""
    monkeypatch.setattr(submit, "_SETTLE_S", 0.0)
    monkeypatch.setattr(job_context, "MAX_ACTIVE_JOBS", 2)
    return {"job": replace(KINDS["job"], max_concurrent=2)}


class Busy(PausingProvider):
    """Asks for a pause at one kind of call until it is `free`; jobs succeed."""

    def __init__(self, at: str, pause_s: float) -> None:
        super().__init__()
        self._at, self._pause_s, self.free = at, pause_s, threading.Event()
        self.made: list[str] = []

    def upload(self, path: Path, purpose: str = "fine-tune", on_progress: object = None) -> str:
        self._heed("upload")
        return super().upload(path, purpose, on_progress)

    def create_job(self, request: Any, intent_id: str) -> RemoteJob:
        self._heed("create_job")
        self.made.append(intent_id)
        self.resumed.add(intent_id)
        return super().create_job(request, intent_id)

    def find_job(self, intent_id: str) -> RemoteJob | None:
        return None

    def _heed(self, call: str) -> None:
        if call == self._at and not self.free.is_set():
            raise RateLimited("The provider asks to slow down: quota", "", self._pause_s)


def add_jobs(store: Store, count: int) -> list[str]:
    frame = pd.DataFrame({"power": ["a", "b"], "story": ["One.", "Two."]})
    dataset_id = datasets.from_frame(store, LOCAL, "two", frame, ["power"], "story")
    return [
        jobs.submit(store, LOCAL, job_form.JobForm(dataset_id, f"job {n}", "engine", "gemma-3-270m"))
        for n in range(count)
    ]


@pytest.mark.parametrize("call", ["upload", "create_job"])
def test_a_job_is_handed_over_when_the_pause_that_its_provider_asked_for_is_over(
    store: Store,
    hire: Callable[..., Worker],
    few_places: dict[str, JobKind],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    monkeypatch.setattr(job_context, "_MIN_RESCHEDULE_S", 1.0)
    monkeypatch.setattr(job_context, "_RETRIES", replace(BACKGROUND, cap_s=1.0))
    provider = Busy(call, 3.0)
    (job_id,) = add_jobs(store, 1)
    worker = hire(FakeRegistry({"engine": provider}), few_places)
    until(lambda: job_views.get(store, job_id).not_before, "the job says until when it waits")
    worker.stop()
    provider.free.set()
    hire(FakeRegistry({"engine": provider}), few_places)
    until(lambda: job_views.get(store, job_id).status == "succeeded", "handed over without a click")
    assert provider.made == [job_id] and job_views.get(store, job_id).not_before is None


@pytest.mark.parametrize("call", ["upload", "create_job"])
def test_a_person_can_end_the_pause_of_a_job(
    store: Store, hire: Callable[..., Worker], few_places: dict[str, JobKind], call: str
) -> None:
    provider = Busy(call, _DAY_S)
    (job_id,) = add_jobs(store, 1)
    hire(FakeRegistry({"engine": provider}), few_places)
    until(lambda: job_views.get(store, job_id).not_before, "it waits for a day")
    provider.free.set()
    jobs.retry_now(store, LOCAL, job_id)
    until(lambda: job_views.get(store, job_id).status == "succeeded", "handed over at once")
    assert provider.made == [job_id]


def statuses(store: Store) -> Counter[str]:
    with store.reading() as session:
        return Counter(session.scalars(select(TrainingJob.status)))


def test_paused_jobs_do_not_starve_the_next_and_are_resumed_at_once(
    store: Store, hire: Callable[..., Worker], few_places: dict[str, JobKind]
) -> None:
    provider = PausingProvider()
    paused = add_jobs(store, 5)
    hire(FakeRegistry({"engine": provider}), few_places)
    until(lambda: statuses(store) == {"paused": 5}, "five jobs were handed over, through two places, and are paused")
    (last,) = add_jobs(store, 1)
    provider.resumed.add(last)
    until(lambda: job_views.get(store, last).status == "succeeded", "the sixth is trained")
    jobs.request(store, LOCAL, paused[0], "resume")
    until(lambda: job_views.get(store, paused[0]).status == "succeeded", "resumed while it waited")
    assert statuses(store) == {"paused": 4, "succeeded": 2}


@pytest.mark.parametrize(
    ("status", "crowd", "expected"),
    [("paused", 1, 10.0), ("running", 3, 2.0), ("queued", 1, 10.0), ("validating_files", 1, 10.0)],
)
def test_a_job_gives_its_place_back_when_it_waits_or_others_do(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    few_places: dict[str, JobKind],
    status: str,
    crowd: int,
    expected: float,
) -> None:
    monkeypatch.setattr("core.finetuning.watch._MAX_TURN_S", 0.0)
    job_id = add_jobs(store, crowd)[0]
    client = FakeClient()
    client.enqueue("job", remote_job(status))
    registry: Any = FakeRegistry({"engine": client})
    assert jobs.carry_out(store, registry, job_id, threading.Event()) == expected
    assert job_views.get(store, job_id).status == status
