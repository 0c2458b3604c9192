"""Failed rows are retried with other settings: only these rows, once, within budgets; written rows stay."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, grid_store
from core.datasets.dataset_rows import RowFilter
from core.db.store import Store
from core.db.tables import Row, Run
from core.errors import BadRecipe
from core.generation import run_progress, runs
from core.generation.runs import Change
from tests.support import fault_server
from tests.support.fault_server import FaultServer
from tests.support.live_runs import QUICK, book, execute, executing, queue, recipe

_LIMIT = 99  # token limit of the recipe


def states(store: Store, dataset_id: str) -> Counter[str]:
    with store.reading() as session:
        return Counter(session.scalars(select(Row.state).where(Row.dataset_id == dataset_id)))


def sent(server: FaultServer, since: int = 0) -> list[str]:
    return sorted(server.prompts()[since:])


@pytest.fixture
def mixed(store: Store, server: FaultServer) -> str:
    """Twelve rows of which three were cut off, two were refused and one had an empty answer."""
    for number in (0, 3, 7):
        server.when(f"n{number:04}", fault_server.text("Once upon", finish_reason="length"), fault_server.text("All."))
    for number in (1, 2):
        server.when(f"n{number:04}", fault_server.refusal("No."), fault_server.text("All."))
    server.when("n0004", fault_server.text(""), fault_server.text("All."))
    run_id = queue(store, recipe(12))
    execute(store, server, run_id)
    return run_progress.get(store, run_id).dataset_id


def test_failed_rows_are_listed_by_cause_most_frequent_first(store: Store, mixed: str) -> None:
    found = run_progress.latest(store, mixed)
    assert found is not None
    assert [(one.cause, one.rows) for one in found.failed_by_cause] == [
        ("token_limit", 3), ("refused", 2), ("empty_answer", 1),
    ]  # fmt: skip
    assert [len(run_progress.failed_row_ids(store, mixed, one.cause)) for one in found.failed_by_cause] == [3, 2, 1]


def test_a_higher_limit_is_for_the_rows_that_were_cut_off(store: Store, server: FaultServer, mixed: str) -> None:
    before = {row.id: row.text for row in dataset_rows.page(store, mixed, RowFilter(states=("done",)))}
    request_count = len(server.requests)
    limit = runs.higher_limit(_LIMIT)
    ids = run_progress.failed_row_ids(store, mixed, "token_limit")
    run_id = runs.retry_failed(store, LOCAL, mixed, ids, change=Change(max_tokens=limit))
    execute(store, server, run_id)
    assert sent(server, request_count) == ["n0000", "n0003", "n0007"]
    assert {request.body["max_tokens"] for request in server.requests[request_count:]} == {limit} == {256}
    assert states(store, mixed) == {"done": 9, "failed": 3}
    assert {row.id: row.text for row in dataset_rows.page(store, mixed) if row.id in before} == before
    saved_recipe = datasets.recipe(store, mixed)
    assert saved_recipe is not None and saved_recipe == replace(recipe(12), max_tokens=limit)


def test_the_remedies_of_every_cause_complete_all_twelve_rows(store: Store, server: FaultServer, mixed: str) -> None:
    """Token limit, model, temperature, one after the other: each row is requested once more, none a third time."""
    request_count = len(server.requests)
    for cause, change in (
        ("token_limit", Change(max_tokens=512)),
        ("refused", Change(model="other")),
        ("empty_answer", Change(temperature=0.2)),
    ):
        ids = run_progress.failed_row_ids(store, mixed, cause)  # type: ignore[arg-type]  # a table of causes
        execute(store, server, runs.retry_failed(store, LOCAL, mixed, ids, change=change))
    assert states(store, mixed) == {"done": 12} and len(server.requests) == request_count + 6
    last = server.requests[-1].body
    assert (last["model"], last["temperature"], last["max_tokens"]) == ("other", 0.2, 512)
    with store.reading() as session:
        assert session.scalars(select(Run.model).order_by(Run.created_at)).all() == [
            "writer",
            "writer",
            "other",
            "other",
        ]


def test_the_rows_of_a_grid_that_grows_follow_the_new_settings(store: Store, server: FaultServer, mixed: str) -> None:
    ids = run_progress.failed_row_ids(store, mixed, "token_limit")
    execute(store, server, runs.retry_failed(store, LOCAL, mixed, ids, change=Change(max_tokens=512)))
    request_count = len(server.requests)
    saved_recipe = datasets.recipe(store, mixed)
    assert saved_recipe is not None
    grid_store.grow(store, LOCAL, mixed, grid_store.more_repeats(saved_recipe, 1))
    execute(store, server, runs.enqueue(store, LOCAL, mixed, retry_failed=False))
    assert len(server.requests) == request_count + 12 and states(store, mixed) == {"done": 21, "failed": 3}
    assert {request.body["max_tokens"] for request in server.requests[request_count:]} == {512}


def test_another_model_replaces_a_missing_one(store: Store, server: FaultServer) -> None:
    server.enqueue(fault_server.error(404, "The model `writer` does not exist", "model_not_found"))
    run_id = queue(store, recipe(4))
    execute(store, server, run_id, limits=replace(QUICK, ceiling=1))
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and ended.pending == 4
    second_id = runs.enqueue(store, LOCAL, ended.dataset_id, retry_failed=False, change=Change(model="other"))
    assert second_id != run_id
    execute(store, server, second_id)
    assert run_progress.get(store, second_id).done == 4
    assert [request.body["model"] for request in server.requests[1:]] == ["other"] * 4


def test_a_paused_run_of_the_previous_model_is_stopped(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(4))
    runs.request_pause(store, LOCAL, run_id)
    dataset_id = run_progress.get(store, run_id).dataset_id
    second_id = runs.enqueue(store, LOCAL, dataset_id, change=Change(model="other"))
    assert second_id != run_id and run_progress.get(store, run_id).state == "stopped"
    execute(store, server, second_id)
    assert [request.body["model"] for request in server.requests] == ["other"] * 4


def test_settings_cannot_change_during_a_run(store: Store, server: FaultServer, mixed: str) -> None:
    ids = run_progress.failed_row_ids(store, mixed, "refused")
    runs.retry_failed(store, LOCAL, mixed, ids)
    with pytest.raises(BadRecipe, match="in progress"):
        runs.enqueue(store, LOCAL, mixed, change=Change(max_tokens=512))
    with pytest.raises(BadRecipe, match="in progress"):
        rest = run_progress.failed_row_ids(store, mixed, "token_limit")
        runs.retry_failed(store, LOCAL, mixed, rest, change=Change(max_tokens=512))
    saved_recipe = datasets.recipe(store, mixed)
    assert saved_recipe is not None and saved_recipe.max_tokens == _LIMIT and states(store, mixed)["failed"] == 4


@pytest.mark.parametrize("change", [Change(max_tokens=0), Change(temperature=3.0), Change(model=" ")])
def test_settings_that_cannot_be_used_change_nothing(store: Store, mixed: str, change: Change) -> None:
    with pytest.raises(BadRecipe):
        runs.retry_failed(store, LOCAL, mixed, change=change)
    assert datasets.recipe(store, mixed) == recipe(12) and states(store, mixed) == {"done": 6, "failed": 6}


def test_two_clicks_on_a_remedy_are_one_run(store: Store, server: FaultServer, mixed: str) -> None:
    """The second click finds its rows claimed: it changes nothing, and nothing is paid for twice."""
    request_count = len(server.requests)
    ids = run_progress.failed_row_ids(store, mixed, "token_limit")
    run_id = runs.retry_failed(store, LOCAL, mixed, ids, change=Change(max_tokens=512))
    with pytest.raises(BadRecipe, match="No row has failed"):
        runs.retry_failed(store, LOCAL, mixed, ids, change=Change(max_tokens=512))
    with ExitStack() as both:
        for _ in range(2):
            both.enter_context(executing(store, server.registry(), run_id, replace(QUICK, ceiling=2)))
    assert len(server.requests) == request_count + 3 and states(store, mixed) == {"done": 9, "failed": 3}


def test_a_remedy_keeps_to_its_budget(store: Store, server: FaultServer, mixed: str) -> None:
    """With a higher limit the worst case costs more: the remaining budget may cover no row."""
    request_count = len(server.requests)
    ids = run_progress.failed_row_ids(store, mixed, "token_limit")
    change = Change(max_tokens=512)
    run_id = runs.retry_failed(store, LOCAL, mixed, ids, budget_usd=Decimal("0.30"), change=change)
    execute(store, server, run_id, book=book())  # one dollar per 1,000 tokens
    ended = run_progress.get(store, run_id)
    assert (ended.state, ended.remaining) == ("stopped", 3) and len(server.requests) == request_count
    runs.raise_budget(store, LOCAL, run_id, Decimal(5))
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id, book=book())
    assert run_progress.get(store, run_id).state == "done" and len(server.requests) == request_count + 3


@pytest.mark.parametrize(("limit", "next_limit"), [(1, 256), (99, 256), (128, 256), (200, 400), (2_048, 4_096)])
def test_the_next_limit_is_twice_as_high(limit: int, next_limit: int) -> None:
    assert runs.higher_limit(limit) == next_limit


@pytest.mark.parametrize(
    ("temperature", "lower"), [(2.0, 1.7), (1.0, 0.7), (0.5, 0.2), (0.3, 0.1), (0.15, 0.1), (0.1, None), (0.0, None)]
)
def test_the_next_temperature_is_lower_while_that_can_help(temperature: float, lower: float | None) -> None:
    assert runs.lower_temperature(temperature) == lower
