"""Background work of a page while a run adds rows: no thread and no engine request per new row."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from core.actor import LOCAL
from core.datasets import datasets, export, jsonl, presets
from core.db.store import Store
from core.db.tables import Row
from core.generation import runs
from core.pricing.tokens import TokenCount
from core.providers import Client, ModelInfo
from pages.ui import background, cache
from pages.ui.background import BackgroundTask
from pages.ui.dataset import training_file
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

_MODEL = ModelInfo("writer", "engine", None, "both", None)


def _in_progress(store: Store, done: int) -> tuple[str, str]:
    """A data set with a queued run and some written rows; returns both ids."""
    dataset_id = datasets.create(store, LOCAL, presets.get().recipe)
    run_id = runs.enqueue(store, LOCAL, dataset_id)
    with store.session() as session:
        for row in session.query(Row).where(Row.dataset_id == dataset_id).limit(done):
            row.state, row.text = "done", f"Story {row.id}."
    return dataset_id, run_id


def test_rows_that_come_do_not_start_a_second_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "TASK_WAIT_S", 0.0)
    go_on, begun = threading.Event(), list[str]()

    @background.shared_task(max_entries=16, key=lambda job, rows: job, version=lambda job, rows: rows)
    def counted(job: str, rows: str) -> BackgroundTask[str]:
        def make(_seen: Callable[[], None]) -> str:
            begun.append(rows)
            go_on.wait()
            return rows

        return BackgroundTask(make, 1, asks=True)

    first = counted("count", "10 rows")
    assert all(counted("count", f"{rows} rows") is first for rows in range(11, 20))
    other = counted("other", "10 rows of another")
    assert other is not first
    go_on.set()
    until(lambda: first.done and other.done, "both")
    assert first.get() == "10 rows"
    later = counted("count", "20 rows")
    until(lambda: later.done, "the next one")
    assert later.get() == "20 rows"
    assert sorted(begun) == ["10 rows", "10 rows of another", "20 rows"]


def test_the_engine_counts_the_tokens_once_the_run_is_over(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr(Client, "count_tokens", lambda self, model, text: asked.append(text) or 7)
    dataset_id, run_id = _in_progress(store, 5)

    def count() -> TokenCount | None:
        work = training_file.tokens_of(dataset_id, None, 5, training_file.TrainingFormat(), _MODEL)
        until(lambda: work.done, "the count")
        return work.get()

    until(lambda: cache.status().engine.state == "up", "the engine")
    during = count()
    assert during is not None and not during.exact and during.tokens > 0 and asked == []
    runs.request_stop(store, LOCAL, run_id)
    cache.refresh()
    until(lambda: count() == TokenCount(5 * 7, exact=True), "the engine's own count")
    assert len(asked) == 5


def test_a_tokenizer_is_asked_after_the_rows_are_read() -> None:
    pairs = [(f"p{number}", f"Story {number}.") for number in range(3_000)]
    made, reading = jsonl.plan(pairs), False

    class Rows:
        """Like rows of the ledger: a transaction is open during iteration."""

        def __iter__(self) -> Iterator[tuple[str, str]]:
            nonlocal reading
            reading = True
            yield from pairs
            reading = False

    asked = list[str]()

    def ask(text: str) -> int:
        assert not reading
        asked.append(text)
        return len(text)

    export.count_tokens(made, Rows(), "gemma", ask)
    expected = ["".join(pair) for number, pair in enumerate(made.pairs(pairs)) if number % 15 == 0]
    assert asked == expected and len(asked) == 200
