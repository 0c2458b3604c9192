"""Only failed rows are retried: also by several workers, after a kill, after a pause, in a batch."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, grid_store
from core.datasets.dataset_rows import RowFilter
from core.db.store import Store
from core.db.tables import Row, Run
from core.errors import BadRecipe
from core.generation import row_store, run_progress, run_store, runs
from tests.support import batch_runs
from tests.support.batch_server import BatchServer
from tests.support.fault_server import FaultServer, held, refusal
from tests.support.live_runs import QUICK, book, execute, executing, recipe


def some(store: Store, failed: int = 4, waiting: int = 8, provider: str = "fault") -> str:
    """A data set whose first rows failed in a run that was stopped before it reached the others."""
    dataset_id = datasets.create(store, LOCAL, recipe(failed + waiting, provider))
    earlier = runs.enqueue(store, LOCAL, dataset_id)
    runs.request_stop(store, LOCAL, earlier)
    with store.session() as session:
        rows = update(Row).where(Row.dataset_id == dataset_id)
        session.execute(rows.values(run_id=earlier))
        session.execute(rows.where(Row.position < failed).values(state="failed", reason="No.", text="From"))
    return dataset_id


def states(store: Store, dataset_id: str) -> Counter[str]:
    with store.reading() as session:
        return Counter(session.scalars(select(Row.state).where(Row.dataset_id == dataset_id)))


def ids(store: Store, dataset_id: str, state: str) -> list[int]:
    return [row.id for row in dataset_rows.page(store, dataset_id, RowFilter(states=(state,)), limit=100)]


def test_only_failed_rows_are_written_and_the_run_is_done(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    assert run_progress.get(store, run_id).remaining == 4
    execute(store, server, run_id)
    assert sorted(server.prompts()) == ["n0000", "n0001", "n0002", "n0003"]
    ended = run_progress.get(store, run_id)
    assert (ended.state, ended.done, ended.failed, ended.pending, ended.remaining) == ("done", 4, 0, 8, 0)
    with pytest.raises(BadRecipe, match="No row has failed"):
        runs.retry_failed(store, LOCAL, dataset_id)
    execute(store, server, runs.enqueue(store, LOCAL, dataset_id))
    assert states(store, dataset_id) == {"done": 12} and len(server.requests) == 12


def test_cells_without_a_row_are_not_written(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    grid_store.grow(
        store, LOCAL, dataset_id, grid_store.more_repeats(recipe(12), 600)
    )  # 7,212 rows: not all of them at once
    existing = sum(states(store, dataset_id).values())
    execute(store, server, runs.retry_failed(store, LOCAL, dataset_id))
    assert len(server.requests) == 4 and sum(states(store, dataset_id).values()) == existing < 7_212


def test_some_of_the_failed_rows(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    first, second, *_others = ids(store, dataset_id, "failed")
    run_id = runs.retry_failed(store, LOCAL, dataset_id, [first])
    assert runs.retry_failed(store, LOCAL, dataset_id, [second]) == run_id  # no executor has started it yet
    execute(store, server, run_id)
    assert states(store, dataset_id) == {"done": 2, "failed": 2, "pending": 8}


def test_a_row_that_fails_again_does_not_block_the_end_of_the_run(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    server.when("n0001", refusal("No."))
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    execute(store, server, run_id)
    assert states(store, dataset_id) == {"done": 3, "failed": 1, "pending": 8}
    assert run_progress.get(store, run_id).state == "done"


def test_several_executors_write_the_failed_rows_once(store: Store, server: FaultServer) -> None:
    dataset_id = some(store, failed=60, waiting=60)
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    with ExitStack() as both:
        for _ in range(2):
            both.enter_context(executing(store, server.registry(), run_id, replace(QUICK, ceiling=4)))
    assert states(store, dataset_id) == {"done": 60, "pending": 60} and len(server.requests) == 60


def test_after_a_kill_the_run_continues_with_its_own_rows(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    context = run_store.begin(store, run_id, "0" * 12 + ":1:2:gone")
    assert context is not None
    with store.session() as session:
        claims, _ = row_store.claim(session, context, 3, lambda prompt: None, None, failed_only=True)
    assert len(claims) == 3
    execute(store, server, run_id)
    assert states(store, dataset_id) == {"done": 4, "pending": 8} and len(server.requests) == 4


def test_a_stopped_run_continues_with_its_remaining_rows(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    runs.request_stop(store, LOCAL, run_id)
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id)
    assert states(store, dataset_id) == {"done": 4, "pending": 8}
    with pytest.raises(BadRecipe, match="All rows"):  # the others are not its own
        runs.resume(store, LOCAL, run_id)


def test_enqueueing_all_rows_widens_an_active_run(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    server.when("n0000", held())
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    with executing(store, server.registry(), run_id):
        server.wait_for(lambda s: s.flying == 1 and len(s.requests) == 4)
        assert runs.enqueue(store, LOCAL, dataset_id, retry_failed=False) == run_id
        server.release()
    assert states(store, dataset_id) == {"done": 12}
    assert not run_progress.get(store, run_id).failed_only


def test_a_paused_run_for_all_rows_is_stopped(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    held_back = runs.enqueue(store, LOCAL, dataset_id, retry_failed=False)
    runs.request_pause(store, LOCAL, held_back)
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    assert run_id != held_back and run_progress.get(store, held_back).state == "stopped"
    execute(store, server, run_id)
    assert states(store, dataset_id) == {"done": 4, "pending": 8}


def test_a_paused_run_takes_more_failed_rows_and_continues(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    first, *others = ids(store, dataset_id, "failed")
    run_id = runs.retry_failed(store, LOCAL, dataset_id, [first])
    runs.request_pause(store, LOCAL, run_id)
    assert runs.retry_failed(store, LOCAL, dataset_id, others) == run_id
    execute(store, server, run_id)
    assert states(store, dataset_id) == {"done": 4, "pending": 8}


def test_the_budget_applies_and_the_remaining_rows_are_reported(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    run_id = runs.retry_failed(store, LOCAL, dataset_id, budget_usd=Decimal("0.15"))
    execute(store, server, run_id, book=book())
    ended = run_progress.get(store, run_id)
    assert ended.state == "stopped" and "rest of the" in (ended.reason or "")
    assert 0 < ended.done < 4 and ended.remaining == 4 - ended.done


def test_a_row_that_is_left_out_meanwhile_is_not_waited_for(store: Store, server: FaultServer) -> None:
    dataset_id = some(store)
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    dataset_rows.exclude(store, LOCAL, ids(store, dataset_id, "pending")[:1], "Not wanted.")
    execute(store, server, run_id)
    assert states(store, dataset_id) == {"done": 3, "pending": 8, "excluded": 1}


def test_a_refused_retry_changes_nothing(store: Store) -> None:
    dataset_id = some(store)
    (waiting, *_others) = ids(store, dataset_id, "pending")
    with pytest.raises(BadRecipe, match="No row has failed"):
        runs.retry_failed(store, LOCAL, dataset_id, [waiting])
    assert states(store, dataset_id) == {"failed": 4, "pending": 8}
    with store.reading() as session:
        assert session.scalars(select(Run.state).where(Run.state != "stopped")).all() == []


def test_an_executor_does_not_end_a_run_that_was_resumed_meanwhile(store: Store) -> None:
    dataset_id = some(store)
    run_id = runs.retry_failed(store, LOCAL, dataset_id)
    context = run_store.begin(store, run_id, "one")
    assert context is not None
    runs.request_stop(store, LOCAL, run_id)
    with store.session() as session:
        run_store.finish(session, run_id, "stopped", None, "another")
    runs.resume(store, LOCAL, run_id)
    with store.session() as session:
        run_store.finish(session, run_id, "stopped", None, "one")
    assert run_progress.get(store, run_id).state == "queued"


# --- as a batch ------------------------------------------------------------------------------------------------------


def test_a_batch_holds_the_failed_rows_only(store: Store) -> None:
    dataset_id = some(store, provider="openai")
    with BatchServer() as server:
        run_id = runs.retry_failed(store, LOCAL, dataset_id, mode="batch")
        assert batch_runs.execute(store, server, run_id).state == "done"
        assert len(server.bought) == 4
        assert states(store, dataset_id) == {"done": 4, "pending": 8}
        rest = runs.enqueue(store, LOCAL, dataset_id, mode="batch")
        assert batch_runs.execute(store, server, rest).done == 12


def test_a_batch_run_that_is_widened_at_its_last_moment_writes_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = some(store, provider="openai")
    run_id = runs.retry_failed(store, LOCAL, dataset_id, mode="batch")
    real = run_store.finish_if_complete

    def finish_complete(session: Session, context: run_store.RunContext) -> bool:
        monkeypatch.setattr(run_store, "finish_if_complete", real)
        runs.enqueue(store, LOCAL, dataset_id, retry_failed=False, mode="batch")
        return real(session, context)

    monkeypatch.setattr(run_store, "finish_if_complete", finish_complete)
    with BatchServer() as server:
        assert batch_runs.execute(store, server, run_id).done == 12
