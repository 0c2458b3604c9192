"""Repeats that share a request, several executors per run, and pausing and resuming."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import event, func, select, update

from core.actor import LOCAL
from core.datasets import datasets
from core.db import leases
from core.db.store import Store
from core.db.tables import Dataset, Row, Run, Spend, utcnow
from core.errors import BadRecipe, NotFound
from core.generation import executor, reservations, row_store, run_progress, run_store, runs
from core.generation.claims import group_claims
from core.generation.retry_policy import split_completion, split_cost, split_tokens
from core.generation.row_store import Claim
from core.jobs.task_runner import KINDS
from core.providers import Choice, Completion
from core.settings import Settings
from tests.support.fault_server import Answer, FaultServer, error, held, quota, rate_limit, raw, text, unauthorized
from tests.support.live_runs import (
    QUICK,
    all_rows,
    book,
    execute,
    executing,
    queue,
    recipe,
    refused_writes,
    spends,
    states,
)
from tests.support.stores import fresh
from tests.support.waiting import until

# --- repeats of a cell share a request -------------------------------------------------------------------------------


def asked_for(server: FaultServer) -> list[int]:
    """The number of answers requested per request."""
    return sorted(int(r.body.get("n") or 1) for r in server.requests)


def test_repeats_of_a_cell_share_a_request_and_its_cost_exactly(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(4, repeats=3))
    execute(store, server, run_id, book=book(per_mtok="100"))
    assert states(store, run_id) == {"done": 12}
    assert asked_for(server) == [3] * 4
    rows = all_rows(store, run_id)
    # 10 prompt tokens and 3 completion tokens per cell, at a ten-thousandth of a dollar each
    assert [(r.prompt_tokens, r.completion_tokens) for r in rows[:3]] == [(4, 1), (3, 1), (3, 1)]
    assert sum((r.cost_usd for r in rows if r.cost_usd), Decimal(0)) == Decimal("0.0052")
    assert run_progress.get(store, run_id).cost_usd == Decimal("0.0052")
    assert len(spends(store)) == 12


def test_at_most_eight_share(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(1, repeats=20))
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 20} and asked_for(server) == [4, 8, 8]


def test_with_a_seed_each_row_is_asked_for_alone(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(2, repeats=3, seed=7))
    execute(store, server, run_id)
    assert asked_for(server) == [1] * 6 and len({r.body["seed"] for r in server.requests}) == 6


@pytest.mark.parametrize("way", ["gives one", "refuses"])
def test_an_endpoint_without_n_is_asked_for_one_at_a_time(store: Store, server: FaultServer, way: str) -> None:
    server.most_choices, server.refuses_n = (1, False) if way == "gives one" else (None, True)
    run_id = queue(store, recipe(10, repeats=2))
    execute(store, server, run_id, replace(QUICK, ceiling=1), book())
    assert states(store, run_id) == {"done": 20}
    shared = sum(n > 1 for n in asked_for(server))
    assert 1 <= shared <= 3  # rows that were claimed before this was known
    assert len(server.requests) == 20 + (shared if way == "refuses" else 0)
    # each answer is paid for once: 10 prompt tokens, 1 completion token
    assert run_progress.get(store, run_id).cost_usd == Decimal("0.011") * 20


def test_a_cell_that_is_refused_alone_too_does_not_end_the_sharing(store: Store, server: FaultServer) -> None:
    server.when("n0001", error(400, "this prompt is not allowed"))
    run_id = queue(store, recipe(6, repeats=2))
    execute(store, server, run_id, replace(QUICK, ceiling=1))
    assert states(store, run_id) == {"done": 10, "failed": 2}
    assert asked_for(server) == [1, 1, 2, 2, 2, 2, 2, 2]


def test_the_texts_of_one_answer_are_judged_one_by_one() -> None:
    answer = Completion((Choice("a", "stop"), Choice("b", "length")), "writer", 11, 7)
    first, second = split_completion(answer, 3)
    assert (first.texts, first.prompt_tokens, first.completion_tokens) == ((Choice("a", "stop"),), 6, 4)
    assert (second.texts, second.prompt_tokens, second.completion_tokens) == ((Choice("b", "length"),), 5, 3)
    assert [one.texts for one in split_completion(Completion((), "writer", 3, 0), 3)] == [()]


@pytest.mark.parametrize(("total", "parts"), [("0.1", 3), ("1", 7), ("0.000001", 8), ("0", 2), ("5", 1)])
def test_money_is_divided_exactly(total: str, parts: int) -> None:
    shares = split_cost(Decimal(total), parts)
    assert len(shares) == parts and sum(s for s in shares if s is not None) == Decimal(total)
    assert split_cost(None, parts) == [None] * parts and split_tokens(None, parts) == [None] * parts


def test_claims_go_together_by_prompt() -> None:
    claims = [Claim(i, str(i), prompt, i, None) for i, prompt in enumerate("aabab")]
    assert [[c.row_id for c in group] for group in group_claims(claims, 2)] == [[0, 1], [2, 4], [3]]
    assert [len(group) for group in group_claims(claims, 1)] == [1] * 5


# --- several executors on one run ------------------------------------------------------------------------------------


def test_two_executors_share_a_run_and_buy_each_row_once(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(120))
    with ExitStack() as both:
        for _ in range(2):
            both.enter_context(executing(store, server.registry(), run_id, replace(QUICK, ceiling=4)))
    assert states(store, run_id) == {"done": 120}
    assert Counter(server.prompts()).most_common(1)[0][1] == 1
    assert run_progress.get(store, run_id).state == "done"


def test_two_executors_keep_one_budget(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(80), budget_usd=Decimal("0.50"))
    with ExitStack() as both:
        for _ in range(2):
            both.enter_context(executing(store, server.registry(), run_id, replace(QUICK, ceiling=4), book=book()))
    ended = run_progress.get(store, run_id)
    assert ended.state == "stopped" and "rest of the $0.50 budget" in (ended.reason or "")
    assert sum((s.cost_usd for s in spends(store) if s.cost_usd), Decimal(0)) <= Decimal("0.50")
    assert ended.done >= 20 and ended.in_flight == 0


def test_a_run_is_done_only_when_the_other_executor_has_its_answers(store: Store, server: FaultServer) -> None:
    server.when("n0000", held())
    run_id = queue(store, recipe(6))
    with ExitStack() as both:
        first = both.enter_context(executing(store, server.registry(), run_id, replace(QUICK, ceiling=1)))
        server.wait_for(lambda s: s.flying == 1)
        second = both.enter_context(executing(store, server.registry(), run_id, QUICK))
        until(lambda: states(store, run_id)["done"] == 5, "five rows")
        assert first.is_alive() and second.is_alive() and run_progress.get(store, run_id).state == "running"
        server.release()
    assert states(store, run_id) == {"done": 6} and len(server.requests) == 6


def test_only_rows_of_dead_executors_are_released(store: Store) -> None:
    run_id = queue(store, recipe(6))
    with leases.hold_lease() as living:
        dead = living.replace(living.split(":")[1], "999999999")  # a process id that cannot exist
        elsewhere = "0" * 12 + living[12:]  # a machine on which no worker is known
        batch: dict[str, object] = {"batch_id": "b", "claimed_by": None}
        for place, who in enumerate((living, dead, elsewhere, None)):
            _hand(store, place, {"claimed_by": who})
        _hand(store, 4, batch)
        assert run_store.begin(store, run_id) is not None
        with store.session() as session:
            ids = session.scalars(select(Row.position).where(Row.state == "sent").order_by(Row.position))
            assert list(ids) == [0, 4]
    assert run_store.begin(store, run_id) is not None
    assert states(store, run_id) == {"pending": 5, "sent": 1}  # its block has ended


def _hand(store: Store, position: int, values: dict[str, object]) -> None:
    with store.session() as session:
        session.execute(update(Row).where(Row.position == position).values(state="sent", **values))


def test_an_answer_that_comes_late_overwrites_nothing(store: Store) -> None:
    """This machine slept, and another executor wrote its row: both answers are paid for, the first one is kept."""
    context = run_store.begin(store, queue(store, recipe(1)))
    assert context is not None
    with store.session() as session:
        slow, _ = row_store.claim(session, context, 1, lambda prompt: Decimal(1), None)
        reservations.mark(session, [slow[0].spend_id])
    run_store.begin(store, context.run_id)
    with store.session() as session:
        quick, _ = row_store.claim(session, context, 1, lambda prompt: Decimal(1), None)
        row_store.settle(session, [_outcome(quick[0], "first")])
    with store.session() as session:
        row_store.settle(session, [_outcome(slow[0], "second")])
    assert [r.text for r in all_rows(store, context.run_id)] == ["first"]
    assert [s.cost_usd for s in spends(store)] == [Decimal("0.5")] * 2


@pytest.mark.parametrize(
    ("meanwhile", "text_kept", "state"),
    [
        ("nothing", "late", "done"),  # its own row
        ("given back", "late", "done"),  # unclaimed: the paid answer is used
        ("claimed", None, "sent"),
        ("claimed and marked", None, "sent"),
        ("settled", "other", "done"),
        ("failed", "other", "failed"),
        ("in a batch", None, "sent"),
    ],
)
def test_a_worker_that_lost_its_lease_settles_no_row_of_another(
    store: Store, meanwhile: str, text_kept: str | None, state: str
) -> None:
    """Every answer is paid for; the row belongs to the worker that holds the lease now."""
    run_id = queue(store, recipe(1))
    with leases.hold_lease() as living:
        lost = living.replace(living.split(":")[1], "999999999")  # a process id that cannot exist: considered dead
        slow_order, quick_order = (run_store.begin(store, run_id, who) for who in (lost, living))
        assert slow_order is not None and quick_order is not None
        with store.session() as session:
            (slow,), _ = row_store.claim(session, slow_order, 1, lambda prompt: Decimal(1), None)
            reservations.mark(session, [slow.spend_id])
        quick = None
        if meanwhile != "nothing":
            run_store.begin(store, run_id, living)
        if meanwhile in ("claimed", "claimed and marked", "settled", "failed"):
            with store.session() as session:
                (quick,), _ = row_store.claim(session, quick_order, 1, lambda prompt: Decimal(1), None)
                if meanwhile != "claimed":
                    reservations.mark(session, [quick.spend_id])
                if meanwhile in ("settled", "failed"):
                    outcome = _outcome(quick, "other", "done" if meanwhile == "settled" else "failed")
                    row_store.settle(session, [outcome], living)
        elif meanwhile == "in a batch":
            _hand(store, 0, {"batch_id": "b", "claimed_by": None})
        with store.session() as session:
            row_store.settle(session, [_outcome(slow, "late")], lost)
        (row,) = all_rows(store, run_id)
        assert (row.text, row.state) == (text_kept, state)
        assert spends(store)[0].cost_usd == Decimal("0.5")
        if quick is not None and state == "sent":
            with store.session() as session:
                row_store.settle(session, [_outcome(quick, "other")], living)
            assert [r.text for r in all_rows(store, run_id)] == ["other"]
            assert [s.cost_usd for s in spends(store)] == [Decimal("0.5")] * 2


def _outcome(claim: Claim, words: str, state: str = "done") -> row_store.RowOutcome:
    result = row_store.RowResult(state, None, words, "stop", 1, 1, Decimal("0.5"))
    return row_store.RowOutcome(claim, result, utcnow())


# --- pause and resume ------------------------------------------------------------------------------------------------


def test_a_paused_run_sends_nothing_and_goes_on_where_it_was(store: Store, server: FaultServer) -> None:
    server.default = held()
    server.enqueue(text("one"), text("two"))
    run_id = queue(store, recipe(12))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=3)):
        server.wait_for(lambda s: s.flying == 3 and len(s.requests) == 5)
        runs.request_pause(store, LOCAL, run_id)
        assert run_progress.get(store, run_id).state in ("pausing", "paused")
        runs.request_pause(store, LOCAL, run_id)
    assert run_progress.get(store, run_id).state == "paused"
    assert states(store, run_id) == {"done": 2, "pending": 10}
    execute(store, server, run_id)
    assert len(server.requests) == 5  # no executor works on a paused run
    assert run_id not in KINDS["run"].unfinished(store)
    server.release()
    runs.resume(store, LOCAL, run_id)
    assert run_progress.get(store, run_id).state == "queued" and run_id in KINDS["run"].unfinished(store)
    execute(store, server, run_id)
    ended = run_progress.get(store, run_id)
    assert (ended.state, ended.done) == ("done", 12)


def test_a_run_that_is_resumed_while_it_pauses_goes_on(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.default = held()
    run_id = queue(store, recipe(4))
    land = executor.RunExecutor._shut_down

    async def resumed_meanwhile(self: executor.RunExecutor) -> None:
        if run_progress.get(store, run_id).state == "pausing":
            runs.resume(store, LOCAL, run_id)
        await land(self)

    monkeypatch.setattr(executor.RunExecutor, "_shut_down", resumed_meanwhile)
    with executing(store, server.registry(), run_id):
        server.wait_for(lambda s: s.flying == 4)
        runs.request_pause(store, LOCAL, run_id)
        server.wait_for(lambda s: len(s.requests) == 8)  # interrupted, and sent again
        server.release()
    assert states(store, run_id) == {"done": 4} and run_progress.get(store, run_id).state == "done"


def test_a_queued_run_is_paused_immediately_and_can_be_stopped(store: Store) -> None:
    run_id = queue(store, recipe(3))
    runs.request_pause(store, LOCAL, run_id)
    assert run_progress.get(store, run_id).state == "paused"
    runs.request_stop(store, LOCAL, run_id)
    assert run_progress.get(store, run_id).state == "stopped"


def test_enqueue_resumes_a_paused_run(store: Store) -> None:
    run_id = queue(store, recipe(3), Decimal(1))
    runs.request_pause(store, LOCAL, run_id)
    dataset_id = run_progress.get(store, run_id).dataset_id
    assert runs.enqueue(store, LOCAL, dataset_id) == run_id
    assert (run_progress.get(store, run_id).state, run_progress.get(store, run_id).budget_usd) == ("queued", Decimal(1))
    runs.request_pause(store, LOCAL, run_id)
    batch = runs.enqueue(store, LOCAL, dataset_id, mode="batch")
    assert batch != run_id and run_progress.get(store, batch).mode == "batch"
    assert run_progress.get(store, run_id).state == "stopped"
    runs.resume(store, LOCAL, run_id)  # another run is active: this one does not change
    assert run_progress.get(store, run_id).state == "stopped"


def test_a_raised_budget_lets_a_run_go_on_with_what_it_has_spent(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(40), budget_usd=Decimal("0.30"))
    execute(store, server, run_id, book=book())
    first = run_progress.get(store, run_id)
    assert first.state == "stopped" and first.done < 40
    runs.raise_budget(store, LOCAL, run_id, Decimal("0.70"))
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id, book=book())
    ended = run_progress.get(store, run_id)
    assert (ended.state, ended.done, ended.cost_usd) == ("done", 40, Decimal("0.44"))
    with pytest.raises(BadRecipe, match="All rows are written"):
        runs.resume(store, LOCAL, run_id)


def test_a_budget_raised_during_a_run_applies(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(20), budget_usd=Decimal("0.28"))
    server.default = held()
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=2), book=book()):
        server.wait_for(lambda s: s.flying == 2)
        runs.raise_budget(store, LOCAL, run_id, Decimal(100))
        server.release()
    assert states(store, run_id) == {"done": 20}


def test_a_budget_applies_without_token_counts(store: Store, server: FaultServer) -> None:
    """Each such answer counts at its maximum cost: $0.136."""
    server.default = Answer(usage=False)
    run_id = queue(store, recipe(12), budget_usd=Decimal("0.30"))
    execute(store, server, run_id, book=book())
    assert run_progress.get(store, run_id).state == "stopped" and states(store, run_id) == {"done": 2, "pending": 10}
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id, book=book())
    assert states(store, run_id) == {"done": 2, "pending": 10} and len(server.requests) == 2
    assert run_progress.get(store, run_id).cost_usd is None


def test_what_was_cut_off_counts_against_the_budget_when_the_run_goes_on(store: Store, server: FaultServer) -> None:
    server.default = held()
    run_id = queue(store, recipe(12), budget_usd=Decimal("0.30"))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=2), book=book()):
        server.wait_for(lambda s: s.flying == 2)
        runs.request_stop(store, LOCAL, run_id)
    server.release()
    server.default = text("A story.")
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id, book=book())
    assert len(server.requests) == 2 and states(store, run_id) == {"pending": 12}  # $0.272 may be on the bill


def test_a_stop_that_comes_while_a_run_pauses_is_not_lost(store: Store) -> None:
    run_id = queue(store, recipe(2))
    with store.session() as session:
        session.get_one(Run, run_id).state = "stopping"  # the executor has seen "pausing", and is finishing
    with store.session() as session:
        run_store.finish(session, run_id, "paused", None)
    assert run_progress.get(store, run_id).state == "stopped"


@pytest.mark.parametrize("amount", ["0", "-1", "NaN"])
def test_no_amount_is_no_budget(store: Store, amount: str) -> None:
    run_id = queue(store, recipe(1))
    with pytest.raises(BadRecipe):
        runs.raise_budget(store, LOCAL, run_id, Decimal(amount))


def test_missing_runs_are_not_found(store: Store) -> None:
    for call in (runs.request_pause, runs.resume):
        with pytest.raises(NotFound):
            call(store, LOCAL, "gone")
    with pytest.raises(NotFound):
        runs.raise_budget(store, LOCAL, "gone", None)


def test_a_run_that_ended_on_a_problem_can_be_resumed(store: Store, server: FaultServer) -> None:
    server.enqueue(text("one"), quota())
    run_id = queue(store, recipe(8))
    execute(store, server, run_id, replace(QUICK, ceiling=1))
    assert run_progress.get(store, run_id).state == "failed"
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id)
    assert (run_progress.get(store, run_id).state, run_progress.get(store, run_id).reason) == ("done", None)


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_has_reasons_requests_and_projected_cost(store: Store, server: FaultServer) -> None:
    server.default = held()
    server.enqueue(text("one"), error(400, "no (request 17)"), error(400, "no (request 18)"), error(422, "never"))
    run_id = queue(store, recipe(10))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=1), book=book()):
        server.wait_for(lambda s: len(s.requests) == 5)
        until(lambda: run_progress.get(store, run_id).failed == 3, "three failed rows")
        progress = run_progress.get(store, run_id)
        (refused,) = progress.failed_by_cause  # 422 and 400 have one cause
        assert (refused.cause, refused.rows) == ("bad_request", 3)
        assert (
            "no (request 1" in refused.provider_messages[0] and "never" in refused.provider_messages[1]
        )  # messages that only differ in ids count as one
        assert progress.requests == 5
        # four rows have cost 0.011 dollars in total; six remain
        assert progress.cost_usd == Decimal("0.011") and progress.projected_usd == Decimal("0.0275")
        runs.request_stop(store, LOCAL, run_id)


# --- faults during a run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "state", "done"),
    [
        (rate_limit(retry_after="0"), "done", 30),
        (rate_limit(retry_after_ms="3"), "done", 30),
        (error(408, "late"), "done", 30),
        (error(409, "busy"), "done", 30),
        (error(500, "x"), "done", 30),
        (error(503, "x", retry_after="0"), "done", 30),
        (raw(b"<!doctype html><title>Log in</title>", "text/html; charset=utf-8"), "done", 30),
        (raw(b"{}"), "done", 30),
        (raw(b"[1]"), "done", 30),
        (raw(b"null"), "done", 30),
        (raw(b'{"model": "writer", "choices": [{"message": {"content": 5}}]}'), "done", 29),
        (raw(b'{"model": "writer", "choi'), "done", 30),
        (unauthorized(), "failed", None),
        (quota(), "failed", None),
        (error(402, "pay first"), "failed", None),
        (error(404, "The model `writer` does not exist", "model_not_found"), "failed", None),
        (error(413, "too large"), "done", 29),
        (text("", finish_reason="stop"), "done", 29),
        (Answer(finish_reason="length"), "done", 29),
    ],
)
def test_a_fault_in_mid_run(store: Store, server: FaultServer, fault: Answer, state: str, done: int | None) -> None:
    server.enqueue(*[text("fine")] * 12, fault)
    run_id = queue(store, recipe(30))
    execute(store, server, run_id, replace(QUICK, ceiling=3))
    ended = run_progress.get(store, run_id)
    assert ended.state == state
    if done is None:
        assert 12 <= ended.done <= 15 and ended.failed == 0 and ended.done + ended.pending == 30
        assert len(server.requests) <= ended.done + 3
    else:
        assert ended.done == done and ended.done + ended.failed == 30


def test_a_cut_answer_is_asked_for_again(store: Store, server: FaultServer) -> None:
    """The connection breaks in the middle of the JSON."""
    server.enqueue(Answer(body=b'{"model": "writer"', headers={"content-length": "400"}, end="cut"))
    run_id = queue(store, recipe(3))
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 3}


def test_the_key_is_in_no_reason_and_no_log(
    store: Store, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.default = unauthorized()
    run_id = queue(store, recipe(2))
    execute(store, server, run_id)
    assert "[key]" in (run_progress.get(store, run_id).reason or "")
    assert "sk-test-key" not in (run_progress.get(store, run_id).reason or "") + caplog.text


def test_a_clock_that_is_set_back_hides_no_money(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queue(store, recipe(40), budget_usd=Decimal("0.30"))
    clock = lambda: utcnow() - timedelta(hours=3)  # noqa: E731
    monkeypatch.setattr(row_store, "utcnow", clock)
    execute(store, server, run_id, book=book())
    with store.session() as session:
        session.execute(update(Run).values(state="queued", finished_at=None))
    execute(store, server, run_id, book=book())
    assert sum((s.cost_usd for s in spends(store) if s.cost_usd), Decimal(0)) <= Decimal("0.30")
    assert (run_progress.get(store, run_id).cost_usd or Decimal(0)) > 0


def test_a_locked_database_delays_requests_and_loses_nothing(
    settings: Settings, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fresh(settings)
    refused = refused_writes(monkeypatch)

    @event.listens_for(store.engine, "connect")
    def impatient(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA busy_timeout=20")  # instead of half a minute

    run_id = queue(store, recipe(10))
    server.default = held()
    other = sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), isolation_level=None)
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=4)):
        server.wait_for(lambda s: s.flying == 4)
        until(lambda: _locked(other), "the lock")
        server.release()
        until(lambda: refused.count(4) > 2, "the executor has all four answers and tries to write them again and again")
        assert len(server.requests) == 4
        other.execute("ROLLBACK")
    assert states(store, run_id) == {"done": 10} and len(server.requests) == 10
    other.close()
    store.close()


def _locked(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True


def test_many_refusals_cause_no_request_flood(store: Store, server: FaultServer) -> None:
    """Each row is sent again only when the server allows it, and everything is written in the end."""
    server.enqueue(*[rate_limit(retry_after_ms="20")] * 60)
    run_id = queue(store, recipe(80))
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 80} and len(server.requests) == 140


def test_rows_of_a_dead_executor_are_taken_over_by_another(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(5))
    server.when("n0004", held())
    with executing(store, server.registry(), run_id):
        server.wait_for(lambda s: s.flying == 1)
        until(lambda: states(store, run_id)["done"] == 4, "four rows")
        _hand(store, 0, {"claimed_by": "somewhere:1:2:x", "text": None})
        server.release()
    assert states(store, run_id) == {"done": 5} and len(server.requests) == 6


def test_a_claimed_row_records_its_claimant(store: Store, server: FaultServer) -> None:
    server.default = held()
    run_id = queue(store, recipe(2))
    with executing(store, server.registry(), run_id):
        server.wait_for(lambda s: s.flying == 2)
        with store.reading() as session:
            assert session.scalar(select(func.count(func.distinct(Row.claimed_by)))) == 1
        server.release()
    with store.reading() as session:
        assert session.scalar(select(func.count(Row.claimed_by))) == 0
        assert session.scalar(select(func.count()).select_from(Dataset)) == 1
        assert session.scalar(select(func.count()).select_from(Spend)) == 2


def test_the_kind_of_work_chooses_by_mode(store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.generation.batch import batch_runner

    seen: list[str] = []
    monkeypatch.setattr(batch_runner, "carry_out", lambda *args: seen.append("batch"))
    monkeypatch.setattr(executor, "execute", lambda *args: seen.append("live"))
    for mode in ("live", "batch"):
        dataset_id = datasets.create(store, LOCAL, recipe(1))
        run_id = runs.enqueue(store, LOCAL, dataset_id, mode=mode)
        KINDS["run"].carry_out(store, server.registry(), run_id, threading.Event())
    assert seen == ["live", "batch"]
