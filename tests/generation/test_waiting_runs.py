"""A run whose provider asks for a long pause: the worker resumes it at that time automatically, even after a restart.

No page is open in these tests; `tests/pages/test_remedies.py` tests what pages show.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import Run, utcnow
from core.generation import executor, run_progress, run_store, runs
from core.generation.concurrency import RunLimits
from core.jobs.task_runner import KINDS
from core.jobs.worker import Worker
from core.settings import Settings
from tests.support.fault_server import Answer, FaultServer, prompt_of, rate_limit, text
from tests.support.live_runs import recipe
from tests.support.waiting import until
from tests.support.worker_starter import start_workers

_ROWS = 12
_FREE = 5  # rows that the provider writes before it asks for a pause


class Quota:
    """A provider that writes `_FREE` texts, then asks for a pause of `pause_s` until `back` is set."""

    def __init__(self, pause_s: str) -> None:
        self.pause_s, self.back = pause_s, threading.Event()
        self.bought = Counter[str]()
        self._lock = threading.Lock()

    def __call__(self, body: Any) -> Answer:
        with self._lock:
            if self.bought.total() >= _FREE and not self.back.is_set():
                return rate_limit(**({"retry_after": self.pause_s} if self.pause_s else {}))
            self.bought[prompt_of(body)] += 1
            return text("From there.")


@pytest.fixture
def hire(settings: Settings, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Worker]]:
    """Starts a worker for which a pause of more than a second counts as long; stopped after the test."""
    monkeypatch.setattr(executor, "RunLimits", partial(RunLimits, stall_s=1.0))
    with start_workers(settings) as start:
        yield partial(start, kinds={"run": KINDS["run"]}, registry=server.registry)


def queued(store: Store, server: FaultServer, quota: Quota) -> str:
    server.judge = quota
    return runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, recipe(_ROWS)))


def state(store: Store, run_id: str) -> str:
    return run_progress.get(store, run_id).state


def test_a_waiting_run_resumes_on_time_after_a_restart_and_each_row_is_paid_once(
    store: Store, server: FaultServer, hire: Callable[[], Worker]
) -> None:
    quota = Quota("3")
    run_id = queued(store, server, quota)
    worker = hire()
    until(lambda: state(store, run_id) == "waiting", "the provider has asked for a pause")
    waits = run_progress.get(store, run_id)
    assert waits.not_before is not None and waits.not_before > utcnow() - timedelta(seconds=3)
    assert "asks to slow down" in (waits.reason or "") and waits.done == _FREE
    worker.stop()
    quota.back.set()
    request_count = len(server.requests)
    hire()
    until(lambda: state(store, run_id) == "done", "resumed without a click")
    progress_at_end = run_progress.get(store, run_id)
    assert (progress_at_end.done, progress_at_end.not_before, progress_at_end.reason) == (_ROWS, None, None)
    assert len(quota.bought) == _ROWS and set(quota.bought.values()) == {1}
    assert len(server.requests) - request_count == _ROWS - _FREE


def test_nothing_is_sent_early_and_resume_now_sends_immediately(
    store: Store, server: FaultServer, hire: Callable[[], Worker]
) -> None:
    quota = Quota("86400")
    run_id = queued(store, server, quota)
    hire()
    until(lambda: state(store, run_id) == "waiting", "it waits for a day")
    request_count = len(server.requests)
    quota.back.set()
    other = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, recipe(2)))
    until(lambda: state(store, other) == "done", "the worker looked at its queue meanwhile")
    assert len(server.requests) == request_count + 2 and state(store, run_id) == "waiting"
    runs.resume(store, LOCAL, run_id)
    until(lambda: state(store, run_id) == "done", "resumed at once")
    assert run_progress.get(store, run_id).done == _ROWS


@pytest.mark.parametrize(
    ("act", "left"), [(runs.request_stop, "stopped"), (runs.request_pause, "paused")], ids=["stop", "pause"]
)
def test_a_waiting_run_can_be_stopped_and_is_then_resumed_only_on_request(
    store: Store, server: FaultServer, hire: Callable[[], Worker], act: Callable[..., None], left: str
) -> None:
    quota = Quota("86400")
    run_id = queued(store, server, quota)
    hire()
    until(lambda: state(store, run_id) == "waiting", "it waits")
    act(store, LOCAL, run_id)
    ended = run_progress.get(store, run_id)
    assert (ended.state, ended.not_before, ended.done, ended.pending) == (left, None, _FREE, _ROWS - _FREE)
    # a stopped run keeps its reason, because the remedies depend on it
    assert bool(ended.reason) is (left == "stopped")
    quota.back.set()
    runs.resume(store, LOCAL, run_id)
    until(lambda: state(store, run_id) == "done", "resumed")


def test_a_rate_limit_without_a_time_is_waited_for_with_growing_pauses(
    store: Store, server: FaultServer, hire: Callable[[], Worker]
) -> None:
    quota = Quota("")  # no retry-after
    run_id = queued(store, server, quota)
    hire()
    pauses = []
    for _ in range(2):
        until(lambda: state(store, run_id) == "waiting", "nothing was written for a second")
        waits = run_progress.get(store, run_id)
        with store.reading() as session:
            began = session.get_one(Run, run_id).finished_at
        assert waits.not_before is not None and began is not None
        assert "asks to slow down" in (waits.reason or "") and waits.done == _FREE
        pauses.append((waits.not_before - began).total_seconds())
        runs.resume(store, LOCAL, run_id)
        until(lambda: state(store, run_id) != "waiting", "resumed")
    assert pauses[0] >= 1 and pauses[1] >= pauses[0] + 1
    quota.back.set()
    until(lambda: state(store, run_id) == "done", "resumed without a click")
    assert len(quota.bought) == _ROWS and set(quota.bought.values()) == {1}


@pytest.mark.parametrize(("silent_s", "pause_s"), [(5, 600), (601, 601), (1_300, 1_300), (100_000, 3_600)])
def test_a_pause_is_as_long_as_there_was_no_answer(store: Store, silent_s: float, pause_s: float) -> None:
    run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, recipe(1)))
    with store.session() as session:
        began = utcnow() - timedelta(seconds=silent_s)
        run = session.get_one(Run, run_id)
        run.created_at = run.started_at = began
        session.flush()
        grown = run_store.resume_time(session, run_id, 600.0, increasing=True)
        assert abs((grown - utcnow()).total_seconds() - pause_s) < 60
        at = run_store.resume_time(session, run_id, 900.0, increasing=False)
        assert abs((at - utcnow()).total_seconds() - 900) < 60


def test_the_resume_time_survives_a_lost_queue(
    store: Store, server: FaultServer, settings: Settings, hire: Callable[[], Worker]
) -> None:
    quota = Quota("86400")
    run_id = queued(store, server, quota)
    worker = hire()
    until(lambda: state(store, run_id) == "waiting", "it waits")
    worker.stop()
    for file in settings.home.glob("work.db*"):
        file.unlink()
    request_count = len(server.requests)
    hire()
    other = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, recipe(1)))
    quota.back.set()
    until(lambda: state(store, other) == "done", "the new worker works")
    assert state(store, run_id) == "waiting" and len(server.requests) == request_count + 1
    runs.resume(store, LOCAL, run_id)
    until(lambda: state(store, run_id) == "done", "resumed")
