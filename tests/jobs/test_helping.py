"""A worker joins items that other workers are working on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.db.store import Store
from core.errors import FabulaError
from core.jobs import task_runner
from core.jobs.task_runner import JobKind, TaskRunner, helped_items, running_workflows
from core.settings import Settings
from tests.support.waiting import until
from tests.support.worker_starter import start_workers

_PAUSE_S = 0.01  # between two looks at the end


class HelpDesk:
    """A kind whose items are open to helpers, and who helped with which."""

    def __init__(self, max_concurrent: int = 2) -> None:
        self.open: list[str] = []
        self.began: list[str] = []
        self.failure: Exception | None = None
        self.end = threading.Event()
        self.kind = JobKind(
            "run", max_concurrent, lambda store: [], self._carry_out, self._give_up,
            open_to_helpers=lambda store: self.open, help_with=self._help,
        )  # fmt: skip

    def _help(self, _store: Store, _registry: object, item_id: str, stopping: threading.Event) -> None:
        self.began.append(item_id)
        if self.failure is not None:
            raise self.failure
        while not (self.end.is_set() or stopping.is_set()):
            stopping.wait(_PAUSE_S)

    def _carry_out(self, store: Store, registry: object, item_id: str, stopping: threading.Event) -> None:
        self._help(store, registry, item_id, stopping)

    def _give_up(self, _store: Store, item_id: str, error: FabulaError) -> None:
        raise AssertionError(f"a helper gave up {item_id}: {error.what}")


@pytest.fixture
def desk() -> HelpDesk:
    return HelpDesk()


@pytest.fixture
def runner(store: Store, desk: HelpDesk) -> Iterator[TaskRunner]:
    made = TaskRunner(store, lambda: None, {"run": desk.kind}, lambda *_: None)  # type: ignore[arg-type, return-value]
    yield made
    made.stop()
    assert helped_items() == set()


def test_it_joins_one_item_per_poll_and_no_more_than_it_may_run(desk: HelpDesk, runner: TaskRunner) -> None:
    desk.open = ["a", "b", "c"]
    for expected in ({"run-a"}, {"run-a", "run-b"}, {"run-a", "run-b"}):
        runner.help_others()
        assert helped_items() == expected


def test_it_does_not_help_itself(desk: HelpDesk, runner: TaskRunner) -> None:
    desk.open = ["a"]
    own = threading.Thread(target=runner.run, args=("run-a.2", "run", "a"), daemon=True)
    own.start()
    until(lambda: desk.began, "its own item at work")
    runner.help_others()
    assert helped_items() == set()
    desk.end.set()
    own.join()


def test_it_does_not_help_with_what_it_has_just_started(store: Store, settings: Settings, desk: HelpDesk) -> None:
    offers: list[str] = []

    def offered(_store: Store) -> list[str]:
        until(lambda: desk.began, "its own item at work")  # after it was counted what runs here
        offers.append("a")
        return ["a"]

    def unfinished(_store: Store) -> list[str]:
        return [] if desk.end.is_set() else ["a"]

    with start_workers(settings) as start:
        kind = replace(desk.kind, unfinished=unfinished, open_to_helpers=offered)
        start(kinds={"run": kind}, registry=lambda: None)
        until(lambda: len(offers) >= 2, "a second look")
        assert desk.began == ["a"]
        desk.end.set()


def test_a_workflow_that_it_takes_over_waits_for_its_own_helper(desk: HelpDesk, runner: TaskRunner) -> None:
    """Otherwise this worker would send twice as many requests as one may."""
    desk.open = ["a"]
    runner.help_others()
    until(lambda: desk.began == ["a"], "it helps")
    heir = threading.Thread(target=runner.run, args=("run-a.2", "run", "a"), daemon=True)
    heir.start()
    until(lambda: "run-a.2" in running_workflows(), "it has the workflow")
    assert desk.began == ["a"]
    desk.end.set()
    heir.join()
    assert desk.began == ["a", "a"]


@pytest.mark.parametrize("failure", [None, FabulaError("No key."), KeyError("x")])
def test_an_item_that_it_has_left_is_joined_again_only_after_a_pause(
    desk: HelpDesk, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    desk.open, desk.failure = ["a"], failure
    desk.end.set()
    runner.help_others()
    until(lambda: not helped_items(), "it has left")
    runner.help_others()
    assert desk.began == ["a"]
    monkeypatch.setattr(task_runner, "_REJOIN_S", 0.0)
    runner._may_rejoin_at.clear()
    runner.help_others()
    until(lambda: desk.began == ["a", "a"], "it joins again")
