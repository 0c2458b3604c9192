"""Data sets and runs on a real PostgreSQL: the same code, another database."""

from __future__ import annotations

import pytest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, export
from core.datasets.dataset_rows import RowFilter
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.generation import executor, row_store, run_progress, run_store, runs
from core.generation.concurrency import RunLimits
from core.settings import Settings
from tests.support.fault_server import FaultServer, error, rate_limit, text
from tests.support.waiting import at_once

QUICK = RunLimits(base_s=0.001, cap_s=0.01, tick_s=0.02)


@pytest.fixture
def settings(on_postgres: Settings) -> Settings:
    return on_postgres


def recipe(rows: int) -> Recipe:
    numbers = tuple(f"n{i:03}" for i in range(rows))
    return Recipe("s", (Column("number", numbers),), "{number}", provider="fault", model="writer")


def test_a_run_with_faults_writes_every_row(store: Store) -> None:
    with FaultServer(default=lambda prompt: text(f"{prompt}\0 的故事")) as server:
        server.enqueue(rate_limit(), error(503, "x"))
        server.when("n007", error(400, "no"))
        dataset_id = datasets.create(store, LOCAL, recipe(30))
        run_id = runs.enqueue(store, LOCAL, dataset_id)
        assert runs.enqueue(store, LOCAL, dataset_id) == run_id
        executor.execute(store, server.registry(), run_id, limits=QUICK)
    progress = run_progress.get(store, run_id)
    assert (progress.state, progress.total, progress.done, progress.failed, progress.pending) == ("done", 30, 29, 1, 0)
    assert progress.cost_usd is None and progress.tokens == 29 * 11
    found = dataset_rows.page(store, dataset_id, RowFilter(states=("done",)), newest=True, limit=3)
    assert len(found) == 3 and found[0].text == f"{found[0].prompt} 的故事"
    assert export.to_csv(store, dataset_id).startswith(",number,story\n0,n000,n000 的故事\n")
    assert len(export.examples(store, dataset_id)) == 29


def test_loaded_and_grown_data_sets_are_listed(store: Store) -> None:
    loaded = datasets.load_sample(store, LOCAL, "ultraman_stories_more")
    grown = datasets.create(store, LOCAL, recipe(3))
    assert [(s.id, s.total, s.done) for s in datasets.list_datasets(store)] == [(grown, 3, 0), (loaded, 135, 135)]


def test_two_workers_never_take_the_same_row(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, recipe(200))
    context = run_store.begin(store, runs.enqueue(store, LOCAL, dataset_id))
    assert context is not None
    taken: list[int] = []

    def take() -> None:
        while True:
            with store.session() as session:
                claims, _ = row_store.claim(session, context, 7, lambda prompt: None, None)
            if not claims:
                return
            taken.extend(c.row_id for c in claims)

    at_once(4, take)
    assert len(taken) == len(set(taken)) == 200


def test_two_clicks_at_once_start_one_run(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, recipe(5))
    assert len(set(at_once(6, lambda: runs.enqueue(store, LOCAL, dataset_id)))) == 1
