"""Runs against a fault-injecting server: every row is written once, and no acknowledged answer is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select, update

from core import failures
from core.actor import LOCAL
from core.datasets import datasets, export, grid_store
from core.datasets.recipe import EndpointChoice
from core.db.store import Store
from core.db.tables import Row, Run, utcnow
from core.errors import BadRecipe, EngineMissing, NotFound, RateLimited, StorageFull, Unavailable
from core.generation import executor, group_commit_writer, previewing, run_progress, run_store, runs
from core.generation.concurrency import DEFAULT_LIMIT, ConcurrencyControl, RunLimits
from core.message import Message
from core.providers import Provider, Registry
from tests.support.fault_server import (
    Answer,
    FaultServer,
    drop,
    error,
    held,
    html,
    no_choices,
    quota,
    rate_limit,
    refusal,
    text,
    unauthorized,
)
from tests.support.live_runs import (
    NO_PRICES,
    QUICK,
    all_rows,
    book,
    execute,
    execute_and_kill,
    executing,
    queue,
    recipe,
    refused_writes,
    spends,
    states,
)
from tests.support.waiting import WAIT_LIMIT_S, until

# --- success -------------------------------------------------------------------------------------------------------


def test_a_run_writes_every_row_once(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(50, system="Be brief.", temperature=0.5, seed=3))
    execute(store, server, run_id)
    found = all_rows(store, run_id)
    assert [(r.text, r.state, r.finish_reason) for r in found] == [
        (f"A story of n{i:04}.", "done", "stop") for i in range(50)
    ]
    assert [(r.prompt_tokens, r.completion_tokens) for r in found] == [(10, 1)] * 50
    assert sorted(server.prompts()) == [r.prompt for r in found]
    bodies = [r.body for r in server.requests]
    assert bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {b["max_tokens"] for b in bodies} == {99} and len({b["seed"] for b in bodies}) == 50
    done = run_progress.get(store, run_id)
    assert (done.state, done.reason, done.note) == ("done", None, None)
    assert (done.total, done.done, done.failed, done.pending, done.in_flight) == (50, 50, 0, 0, 0)
    assert done.tokens == 50 * 11 and done.rows_per_s and done.rows_per_s > 1 and done.eta_s is None


@pytest.mark.parametrize("ceiling", [1, 4])
def test_the_requests_in_flight_reach_the_ceiling_and_never_exceed_it(
    store: Store, server: FaultServer, ceiling: int
) -> None:
    server.default = held()
    run_id = queue(store, recipe(10))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=ceiling)):
        server.wait_for(lambda s: s.flying == ceiling)
        assert run_progress.get(store, run_id).in_flight == ceiling
        server.release()
    assert server.peak == ceiling
    assert states(store, run_id) == {"done": 10}


@pytest.mark.parametrize("endpoint", ["auto", "completion"])
@pytest.mark.parametrize(
    ("reported", "in_flight"), [(3, 3), (None, DEFAULT_LIMIT), (0, DEFAULT_LIMIT), ("4", DEFAULT_LIMIT)]
)
def test_a_provider_gets_as_many_requests_as_it_says_it_works_on(
    store: Store, server: FaultServer, endpoint: EndpointChoice, reported: object, in_flight: int
) -> None:
    server.default = held()
    server.models = [
        {"id": "writer", "object": "model", "created": 1, "owned_by": "x", "fabula": {"parallel": reported}}
    ]
    run_id = queue(store, recipe(20, provider="engine", endpoint=endpoint))
    with executing(store, server.registry("engine", "engine"), run_id):
        server.wait_for(lambda s: s.flying == in_flight)
        server.release()
    assert server.peak == in_flight
    assert {r.path for r in server.requests if r.method == "POST"} == {
        "/v1/completions" if endpoint == "completion" else "/v1/chat/completions"
    }


def test_a_model_of_completion_format_is_asked_on_that_endpoint(store: Store, server: FaultServer) -> None:
    server.models = [
        {"id": "writer", "object": "model", "created": 1, "owned_by": "x", "fabula": {"format": "completion"}}
    ]
    run_id = queue(store, recipe(2, provider="engine"))
    executor.execute(store, server.registry("engine", "engine"), run_id, limits=QUICK)
    assert {r.path for r in server.requests if r.method == "POST"} == {"/v1/completions"}


def test_a_grid_larger_than_the_ledger_is_filled_as_the_run_goes(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_store, "INITIAL_ROWS", 5)
    monkeypatch.setattr(grid_store, "CHUNK", 5)
    run_id = queue(store, recipe(23))
    assert len(all_rows(store, run_id)) == 5 and run_progress.get(store, run_id).total == 23
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 23}
    assert run_progress.get(store, run_id).state == "done"


# --- answers without a story ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "kept", "finish_reason"),
    [
        (text("half a", finish_reason="length"), "The text was cut off at 99 tokens.", "half a", "length"),
        (refusal("I can't."), "The model refused to write this.", "I can't.", "refusal"),
        (
            text("so", finish_reason="content_filter"),
            "The provider's content filter blocked the text.",
            "so",
            "content_filter",
        ),
        (text(" \n"), "The answer was empty.", " \n", "stop"),
        (no_choices(), "The answer was empty.", "", None),
        (
            text("x", finish_reason=None),
            "The provider did not say whether the text is finished.",
            "x",
            None,
        ),
        (
            text("x", finish_reason="tool_calls"),
            "The text is not finished: the provider ended it with tool_calls.",
            "x",
            "tool_calls",
        ),
        (error(400, "too long"), "The test server rejected the request (400): too long", None, None),
        (error(422, "no"), "The test server rejected the request (422): no", None, None),
    ],
)
def test_an_unfinished_text_is_never_a_finished_story(
    store: Store, server: FaultServer, answer: Answer, reason: str, kept: str | None, finish_reason: str | None
) -> None:
    server.when("n0002", answer)
    run_id = queue(store, recipe(5))
    execute(store, server, run_id)
    bad = all_rows(store, run_id)[2]
    assert (bad.state, bad.reason, bad.text, bad.finish_reason) == ("failed", reason, kept, finish_reason)
    assert isinstance(bad.reason, Message)  # so that a page can translate it
    assert states(store, run_id) == {"done": 4, "failed": 1}
    assert run_progress.get(store, run_id).state == "done"
    assert len(export.examples(store, run_progress.get(store, run_id).dataset_id)) == 4


def test_text_that_no_database_takes_is_made_storable(store: Store, server: FaultServer) -> None:
    server.default = text("a\0b")
    run_id = queue(store, recipe(1))
    execute(store, server, run_id)
    assert all_rows(store, run_id)[0].text == "ab"


def test_failed_rows_are_written_again_when_asked_and_only_they(store: Store, server: FaultServer) -> None:
    server.when("n0001", error(400, "no"), text("now it works"))
    run_id = queue(store, recipe(4))
    execute(store, server, run_id)
    second_id = runs.enqueue(store, LOCAL, run_progress.get(store, run_id).dataset_id)
    assert second_id != run_id
    execute(store, server, second_id)
    assert Counter(server.prompts()) == {"n0000": 1, "n0001": 2, "n0002": 1, "n0003": 1}
    assert states(store, second_id) == {"done": 4}
    assert all_rows(store, second_id)[1].reason is None


# --- waiting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [rate_limit(), rate_limit(retry_after_ms="5"), error(500, "x"), error(503, "x"), html(502), html(), drop()]
)
def test_a_temporary_fault_costs_no_row(store: Store, server: FaultServer, fault: Answer) -> None:
    server.enqueue(fault, fault, fault)
    run_id = queue(store, recipe(8))
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 8}
    assert len(server.requests) == 11


def test_a_row_that_waits_does_not_hold_a_slot(store: Store, server: FaultServer) -> None:
    server.when("n0000", rate_limit(retry_after="120"))
    run_id = queue(store, recipe(6))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=1)):
        until(lambda: states(store, run_id)["done"] == 5, "five rows")  # all others, through the single slot
        until(lambda: run_progress.get(store, run_id).note is not None, "a note of what it waits for")
        note = run_progress.get(store, run_id).note or ""
        assert note.startswith("Waiting 1") and "asks to slow down: Rate limit" in note
        runs.request_stop(store, LOCAL, run_id)
    assert states(store, run_id) == {"done": 5, "pending": 1}


def test_few_rows_wait_at_the_same_time(store: Store, server: FaultServer) -> None:
    server.default = rate_limit(retry_after="120")
    run_id = queue(store, recipe(50))
    with executing(store, server.registry(), run_id, replace(QUICK, max_waiting=6)):
        until(lambda: len(server.requests) >= 6, "six requests")
        until(lambda: run_progress.get(store, run_id).note is not None, "a note of what it waits for")
        assert len(server.requests) == 6
        runs.request_stop(store, LOCAL, run_id)
    assert states(store, run_id) == {"pending": 50}


def test_a_pause_of_hours_lets_the_run_wait_with_its_rows_kept(store: Store, server: FaultServer) -> None:
    server.default = rate_limit(retry_after="7200")
    run_id = queue(store, recipe(5))
    before = utcnow()
    execute(store, server, run_id)
    waits = run_progress.get(store, run_id)
    assert waits.state == "waiting" and "asks to slow down" in (waits.reason or "")
    assert waits.not_before is not None and 7_200 <= (waits.not_before - before).total_seconds() < 7_800
    assert waits.eta_s is None and states(store, run_id) == {"pending": 5}
    request_count = len(server.requests)
    execute(store, server, run_id)  # too early
    assert len(server.requests) == request_count and run_progress.get(store, run_id).state == "waiting"


def test_without_any_answer_the_run_ends_and_says_so(store: Store, server: FaultServer) -> None:
    server.default = error(503, "down for maintenance")
    run_id = queue(store, recipe(5))
    execute(store, server, run_id, replace(QUICK, stall_s=0.2))
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and "no answer" in (ended.reason or "") and "maintenance" in (ended.reason or "")
    assert states(store, run_id) == {"pending": 5}


def test_a_row_that_fails_alone_is_given_up(store: Store, server: FaultServer) -> None:
    server.when("n0000", error(500, "this one breaks me"))
    run_id = queue(store, recipe(60))
    execute(store, server, run_id, replace(QUICK, ceiling=1, max_row_failures=3, cap_s=0.001))
    assert states(store, run_id) == {"done": 59, "failed": 1}
    assert "this one breaks me" in (all_rows(store, run_id)[0].reason or "")


def test_no_row_is_given_up_in_an_outage(store: Store, server: FaultServer) -> None:
    server.enqueue(*[error(503, "x")] * 40)
    run_id = queue(store, recipe(4))
    execute(store, server, run_id, replace(QUICK, max_row_failures=2))
    assert states(store, run_id) == {"done": 4}


def test_concurrency_halves_when_everything_is_refused_and_grows_by_one() -> None:
    concurrency = ConcurrencyControl(16)
    for _ in range(16):
        concurrency.rate_limited(sent_at=1.0, now=2.0)
    assert concurrency.allowed == 8
    for _ in range(20):
        concurrency.rate_limited(sent_at=1.5, now=2.1)  # sent before the decrease: no new information
    assert concurrency.allowed == 8
    for _ in range(8):
        concurrency.succeeded()
    assert concurrency.allowed == 9
    for sent in range(3, 60):
        concurrency.rate_limited(sent_at=float(sent), now=sent + 0.5)
    assert concurrency.allowed == 1 and concurrency.available(0) == 1 and concurrency.available(1) == 0
    for _ in range(1000):
        concurrency.succeeded()
    assert concurrency.allowed == 16


def test_an_occasional_refusal_costs_little() -> None:
    """One in ten at any concurrency: then concurrency is not the cause."""
    concurrency = ConcurrencyControl(64)
    for reply in range(10_000):
        if reply % 10 == 0:
            concurrency.rate_limited(sent_at=float(reply), now=reply + 0.5)
        else:
            concurrency.succeeded()
    assert concurrency.allowed >= 32


def test_an_engine_that_is_still_starting_is_waited_for(store: Store, server: FaultServer) -> None:
    up = threading.Event()

    def engine() -> Provider:
        if not up.is_set():
            raise Unavailable("The engine is starting.", "Wait a moment.")
        return server.provider("engine", "engine")

    run_id = queue(store, recipe(3, provider="engine"))
    with executing(store, Registry([("engine", engine)]), run_id):
        waiting = "Waiting for the provider. The engine is starting."
        until(lambda: run_progress.get(store, run_id).note == waiting, "the note")
        up.set()
    assert states(store, run_id) == {"done": 3}
    assert run_progress.get(store, run_id).note is None


def test_an_engine_that_moves_is_followed(store: Store, server: FaultServer) -> None:
    with FaultServer() as second:
        now = [server.provider("engine", "engine")]

        def move(prompt: str) -> Answer:
            now[0] = second.provider("engine", "engine")
            return drop()

        server.default = move
        run_id = queue(store, recipe(9, provider="engine"))
        executor.execute(store, Registry([("engine", lambda: now[0])]), run_id, limits=QUICK)
    assert states(store, run_id) == {"done": 9}


# --- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (quota(), "no credit left"),
        (unauthorized(), "refused the key (401)"),
        (error(403, "not in your country"), "refused the key (403)"),
        (error(404, "The model `writer` does not exist", "model_not_found"), "does not have this model"),
    ],
)
def test_a_refusal_stops_the_run_and_keeps_every_row(
    store: Store, server: FaultServer, fault: Answer, words: str
) -> None:
    server.enqueue(text("one"), text("two"), fault)
    server.when("n0009", fault)
    run_id = queue(store, recipe(60))
    execute(store, server, run_id, replace(QUICK, ceiling=2))
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and words in (ended.reason or "")
    assert ended.done >= 2 and ended.failed == 0 and ended.done + ended.pending == 60
    assert len(server.requests) <= ended.done + 2  # only what was in flight already
    before = Counter(server.prompts())
    server.forget()
    second_id = runs.enqueue(store, LOCAL, ended.dataset_id)
    execute(store, server, second_id)
    assert states(store, second_id) == {"done": 60}
    bought_twice = [p for p, n in Counter(server.prompts()).items() if n > 1 and before[p] == 0]
    assert bought_twice == []


def test_a_run_whose_model_has_stopped_says_since_when(store: Store, server: FaultServer) -> None:
    server.default = lambda prompt: error(404, "The model `writer` has been deprecated", "model_not_found")
    stopped = replace(NO_PRICES, last_days={("fault", "writer"): date(2026, 10, 23)})
    run_id = queue(store, recipe(4))
    execute(store, server, run_id, book=stopped)
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and ended.pending == 4
    assert (ended.reason or "").startswith("writer stopped on 2026-10-23. Its answers, curves and data here are kept.")
    assert failures.of_run(ended.reason).cause == "model_not_found"


def test_equal_refusals_stop_the_run_early(store: Store, server: FaultServer) -> None:
    server.default = lambda prompt: error(400, f"response_format is not supported (request {int(prompt[1:]) * 7})")
    run_id = queue(store, recipe(40))
    execute(store, server, run_id, replace(QUICK, ceiling=2))
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and "refuses every request" in (ended.reason or "")
    assert "response_format is not supported" in (ended.reason or "")
    assert 5 <= ended.failed <= 6 and len(server.requests) == ended.failed


def test_different_refusals_fail_their_rows_only(store: Store, server: FaultServer) -> None:
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    server.default = lambda prompt: error(400, words[int(prompt[1:]) % 8])
    run_id = queue(store, recipe(30))
    execute(store, server, run_id, replace(QUICK, ceiling=1))
    assert states(store, run_id) == {"failed": 30}
    assert run_progress.get(store, run_id).state == "done"


def test_an_engine_that_is_not_installed_ends_the_run_with_what_to_install(store: Store) -> None:
    def missing() -> Provider:
        raise EngineMissing("The engine is not installed.", "pip install -r requirements-engine.txt")

    run_id = queue(store, recipe(3, provider="engine"))
    executor.execute(store, Registry([("engine", missing)]), run_id, limits=QUICK)
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and "requirements-engine.txt" in (ended.reason or "")


def test_a_provider_that_is_gone_ends_the_run(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(3, provider="azure"))
    execute(store, server, run_id)
    assert "no provider 'azure'" in (run_progress.get(store, run_id).reason or "")


def test_a_stop_takes_effect_within_a_second_and_keeps_all_answers(store: Store, server: FaultServer) -> None:
    server.default = held()
    server.enqueue(text("one"), text("two"))
    run_id = queue(store, recipe(20))
    with executing(store, server.registry(), run_id, RunLimits(ceiling=4)) as thread:
        server.wait_for(lambda s: s.flying == 4 and len(s.requests) == 6)
        runs.request_stop(store, LOCAL, run_id)
        runs.request_stop(store, LOCAL, run_id)
        assert run_progress.get(store, run_id).state in ("stopping", "stopped")
        thread.join(WAIT_LIMIT_S)
        assert not thread.is_alive()  # it has not waited for the answers
    ended = run_progress.get(store, run_id)
    assert ended.state == "stopped"
    assert states(store, run_id) == {"done": 2, "pending": 18}
    assert ended.in_flight == 0


def test_a_run_that_waits_in_the_queue_stops_at_once(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(3))
    runs.request_stop(store, LOCAL, run_id)
    assert run_progress.get(store, run_id).state == "stopped"
    execute(store, server, run_id)
    assert server.requests == []


def test_stopped_while_the_engine_hangs(store: Store) -> None:
    """Even the list of models may never arrive."""
    with FaultServer() as server:
        server.enqueue(held())
        run_id = queue(store, recipe(3, provider="engine"))
        with executing(store, server.registry("engine", "engine"), run_id) as thread:
            server.wait_for(lambda s: s.flying == 1)
            runs.request_stop(store, LOCAL, run_id)
            thread.join(WAIT_LIMIT_S)
            assert not thread.is_alive()
    assert run_progress.get(store, run_id).state == "stopped"


def test_a_run_continues_after_a_worker_shutdown(store: Store, server: FaultServer) -> None:
    stopping = threading.Event()
    server.default = held()
    run_id = queue(store, recipe(8))
    with executing(store, server.registry(), run_id, stopping=stopping):
        server.wait_for(lambda s: s.flying == 8)
        stopping.set()
    assert run_progress.get(store, run_id).state == "running"
    assert states(store, run_id) == {"pending": 8}
    server.release()
    execute(store, server, run_id)
    assert run_progress.get(store, run_id).state == "done"


def test_a_worker_shutdown_waits_for_the_answers_in_flight_and_sends_nothing_more(
    store: Store, server: FaultServer
) -> None:
    stopping = threading.Event()
    server.default = held()
    run_id = queue(store, recipe(20))
    limits = replace(QUICK, ceiling=4, drain_s=WAIT_LIMIT_S)
    with executing(store, server.registry(), run_id, limits, stopping=stopping) as thread:
        server.wait_for(lambda s: s.flying == 4)
        stopping.set()
        server.release()
        thread.join(WAIT_LIMIT_S)
    assert len(server.prompts()) == 4
    assert states(store, run_id) == {"done": 4, "pending": 16}
    assert run_progress.get(store, run_id).state == "running"


def test_a_finished_run_is_not_run_again(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(2))
    execute(store, server, run_id)
    execute(store, server, run_id)
    assert len(server.requests) == 2


# --- kill -9 -------------------------------------------------------------------------------------------------------


def test_after_kill_9_only_what_is_missing_is_asked_for(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(40))
    server.when("n0013", held())  # so that the kill happens in the middle, with this one in flight
    server.when("n0017", held())
    execute_and_kill(store, server, run_id, 20)
    acknowledged = {r.prompt for r in all_rows(store, run_id) if r.state == "done"}
    assert run_progress.get(store, run_id).state == "running" and len(acknowledged) >= 20
    server.release()
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 40}
    prompt_counts = Counter(server.prompts())
    assert all(prompt_counts[prompt] == 1 for prompt in acknowledged)
    assert sum(prompt_counts.values()) <= 40 + 4  # at most the requests in flight were sent twice


# --- disk full -----------------------------------------------------------------------------------------------------


def _failing_while(full: threading.Event, real: Callable[..., object]) -> Callable[..., object]:
    def storage(self: group_commit_writer.GroupCommitWriter, *work: object) -> object:
        if full.is_set():
            raise StorageFull("The disk is full.", "Free some space.")
        return real(self, *work)

    return storage


def test_a_full_disk_stops_buying_and_loses_no_answer(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    for name in ("_transaction", "_record"):
        monkeypatch.setattr(
            group_commit_writer.GroupCommitWriter,
            name,
            _failing_while(full, getattr(group_commit_writer.GroupCommitWriter, name)),
        )
    refused = refused_writes(monkeypatch)
    server.default = held()
    run_id = queue(store, recipe(10))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=4)):
        server.wait_for(lambda s: s.flying == 4)
        full.set()
        server.release()
        until(lambda: refused.count(4) > 2, "the executor has all four answers and tries to write them again and again")
        assert len(server.requests) == 4  # no more paid requests
        assert states(store, run_id) == {"sent": 4, "pending": 6}
        full.clear()
    assert states(store, run_id) == {"done": 10}
    assert len(server.requests) == 10  # the four answers were kept


def test_a_disk_that_is_full_from_the_start_buys_nothing(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queue(store, recipe(3))

    def broken(*args: object) -> None:
        raise StorageFull("The disk is full.", "Free some space.")

    monkeypatch.setattr(run_store, "begin", broken)
    with pytest.raises(StorageFull):
        execute(store, server, run_id)
    assert server.requests == []


# --- money ---------------------------------------------------------------------------------------------------------


def test_every_call_is_in_the_spend_ledger_with_what_it_cost(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(3))
    execute(store, server, run_id, book=book())
    found = spends(store)
    assert [(s.page, s.reference, s.actor, s.provider, s.model) for s in found] == [
        ("dataset", run_id, "local", "fault", "writer")
    ] * 3
    assert [(s.prompt_tokens, s.completion_tokens, s.cost_usd) for s in found] == [(10, 1, Decimal("0.011"))] * 3
    done = run_progress.get(store, run_id)
    assert done.cost_usd == done.max_usd == Decimal("0.033")
    assert all_rows(store, run_id)[0].cost_usd == Decimal("0.011")


def test_an_unknown_price_is_unknown_and_not_nothing(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(2))
    execute(store, server, run_id)
    assert run_progress.get(store, run_id).cost_usd is None is run_progress.get(store, run_id).max_usd
    assert [s.cost_usd for s in spends(store)] == [None, None]


def test_without_token_counts_the_cost_is_unknown(store: Store, server: FaultServer) -> None:
    server.default = Answer(usage=False)
    run_id = queue(store, recipe(2))
    execute(store, server, run_id, book=book())
    assert run_progress.get(store, run_id).cost_usd is None


def test_the_engine_costs_nothing(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(2, provider="engine"))
    executor.execute(store, server.registry("engine", "engine"), run_id, limits=QUICK)
    assert run_progress.get(store, run_id).cost_usd == Decimal(0)


def test_a_budget_is_never_passed(store: Store, server: FaultServer) -> None:
    # worst case of a row: 5 bytes + 32 + 99 tokens = $0.136; actual cost: $0.011
    run_id = queue(store, recipe(40), budget_usd=Decimal("0.30"))
    execute(store, server, run_id, replace(QUICK, ceiling=8), book())
    ended = run_progress.get(store, run_id)
    assert ended.state == "stopped" and "rest of the $0.30 budget" in (ended.reason or "")
    assert ended.cost_usd is not None and ended.cost_usd <= Decimal("0.30")
    assert 10 <= ended.done < 40 and ended.done + ended.pending == 40
    second_id = runs.enqueue(store, LOCAL, ended.dataset_id)
    execute(store, server, second_id, book=book())
    assert states(store, second_id) == {"done": 40}


def test_a_budget_with_an_unknown_price_is_not_begun(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(3), budget_usd=Decimal(1))
    execute(store, server, run_id)
    assert "price of writer is unknown" in (run_progress.get(store, run_id).reason or "")
    assert server.requests == [] and states(store, run_id) == {"pending": 3}


def test_rows_that_were_never_sent_leave_no_spend(store: Store, server: FaultServer) -> None:
    server.default = rate_limit(retry_after="7200")
    run_id = queue(store, recipe(5))
    execute(store, server, run_id, book=book())
    assert spends(store) == []


def test_what_was_cut_off_in_flight_costs_an_unknown_amount(store: Store, server: FaultServer) -> None:
    server.default = held()
    run_id = queue(store, recipe(2))
    with executing(store, server.registry(), run_id, book=book()):
        server.wait_for(lambda s: s.flying == 2)
        assert [s.cost_usd for s in spends(store)] == [Decimal("0.136")] * 2  # reserved
        assert run_progress.get(store, run_id).cost_usd == 0  # reservations are not spent
        runs.request_stop(store, LOCAL, run_id)
    assert [s.cost_usd for s in spends(store)] == [None, None]
    ended = run_progress.get(store, run_id)
    assert (ended.cost_usd, ended.max_usd) == (None, Decimal("0.272"))


# --- pages ---------------------------------------------------------------------------------------------------------


def test_clicking_twice_starts_one_run(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, recipe(3))
    assert runs.enqueue(store, LOCAL, dataset_id) == runs.enqueue(store, LOCAL, dataset_id)
    latest = run_progress.latest(store, dataset_id)
    assert latest is not None and latest.state == "queued" and latest.rows_per_s is None and latest.eta_s is None


def test_enqueueing_without_missing_rows_is_refused(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(1))
    execute(store, server, run_id)
    with pytest.raises(BadRecipe, match="All rows are written") as caught:
        runs.enqueue(store, LOCAL, run_progress.get(store, run_id).dataset_id)
    assert caught.value.next_step


def test_a_loaded_data_set_cannot_be_written_on(store: Store) -> None:
    dataset_id = datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)
    with pytest.raises(BadRecipe, match="no recipe"):
        runs.enqueue(store, LOCAL, dataset_id)
    assert run_progress.latest(store, dataset_id) is None


def test_missing_runs_and_data_sets_are_not_found(store: Store, server: FaultServer) -> None:
    for call in (
        lambda: runs.enqueue(store, LOCAL, "gone"),
        lambda: run_progress.get(store, "gone"),
        lambda: runs.request_stop(store, LOCAL, "gone"),
        lambda: execute(store, server, "gone"),
    ):
        with pytest.raises(NotFound):
            call()


@pytest.mark.parametrize(
    ("ages_s", "started_s", "rate"),
    [
        ([1, 2, 3, 4, 5, 6], 600, 6 / 60),
        ([1, 2, 3, 4, 5, 6], 12, 6 / 12),
        ([1, 100, 200], 600, 3 / 600),
        ([700], 1200, None),
        ([], 10, None),
    ],
)
def test_rate_and_time_left_come_from_the_ledger(
    store: Store, ages_s: list[int], started_s: int, rate: float | None
) -> None:
    run_id = queue(store, recipe(20))
    now = utcnow()
    with store.session() as session:
        run = session.get_one(Run, run_id)
        run.state, run.started_at = "running", now - timedelta(seconds=started_s)
        ids = list(session.scalars(select(Row.id).order_by(Row.id)))
        for row_id, age in zip(ids, ages_s, strict=False):
            done = {"state": "done", "run_id": run_id, "updated_at": now - timedelta(seconds=age)}
            session.execute(update(Row).where(Row.id == row_id).values(**done))
    progress = run_progress.get(store, run_id, now)
    assert progress.rows_per_s == (None if rate is None else pytest.approx(rate))
    assert progress.eta_s == (None if rate is None else pytest.approx((20 - len(ages_s)) / rate))


def test_a_preview_shows_some_cells_and_keeps_nothing(store: Store, server: FaultServer) -> None:
    client = server.registry().get("fault")
    small_recipe = recipe(9)
    found = list(previewing.preview(store, LOCAL, client, small_recipe, n=3, seed=1, book=book()))
    assert len({r.prompt for r in found}) == 3
    assert all(r.text == f"A story of {r.prompt}." and r.reason is None and r.completion_tokens == 1 for r in found)
    again = previewing.preview(store, LOCAL, client, small_recipe, n=3, seed=1, book=book())
    assert sorted(r.prompt for r in again) == sorted(r.prompt for r in found)
    assert len(list(previewing.preview(store, LOCAL, client, recipe(2), n=3, book=book()))) == 2
    assert datasets.list_datasets(store) == []


def test_a_preview_is_billed(store: Store, server: FaultServer) -> None:
    client = server.registry().get("fault")
    assert len(list(previewing.preview(store, LOCAL, client, recipe(9), book=book()))) == 3
    assert [s.cost_usd for s in spends(store)] == [Decimal("0.011")] * 3


def test_a_preview_is_billed_even_if_its_page_is_closed(store: Store, server: FaultServer) -> None:
    server.default = held()
    preview = previewing.preview(store, LOCAL, server.registry().get("fault"), recipe(9), book=book())
    reader = threading.Thread(target=next, args=(preview,))
    reader.start()
    server.wait_for(lambda s: s.flying == 3)
    server.release()
    reader.join(WAIT_LIMIT_S)
    preview.close()  # type: ignore[attr-defined]  # a generator: its reader stopped after one of three
    until(lambda: [s.cost_usd for s in spends(store)] == [Decimal("0.012")] * 3, "three settled entries")


def test_a_preview_of_an_unfinished_text_says_so(store: Store, server: FaultServer) -> None:
    server.default = text("half", finish_reason="length")
    found = list(previewing.preview(store, LOCAL, server.registry().get("fault"), recipe(9), n=1, book=book()))
    assert found[0].text == "half" and found[0].reason == "The text was cut off at 99 tokens."


def test_a_preview_that_fails_raises(store: Store, server: FaultServer) -> None:
    server.default, client = rate_limit(), server.registry().get("fault")
    with pytest.raises(RateLimited):
        list(previewing.preview(store, LOCAL, client, recipe(9), book=book()))
    with pytest.raises(BadRecipe):
        list(previewing.preview(store, LOCAL, client, recipe(9, template="{x}"), book=book()))


def test_an_unsupported_parameter_is_left_out_and_reported(store: Store, server: FaultServer) -> None:
    refused = error(400, "Unsupported value: 'temperature' does not support 0.5 with this model.")
    server.judge = lambda body: refused if "temperature" in body else held(text("A story."))
    run_id = queue(store, recipe(6))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=2)):
        note = "writer does not accept `temperature`; the provider's default is used."
        until(lambda: run_progress.get(store, run_id).note == note, "the note on the run")
        server.release()
        until(lambda: run_progress.get(store, run_id).state == "done", "the end")
    # as many as were in flight at the same time
    assert sum("temperature" in seen.body for seen in server.requests) <= 2
    ended = run_progress.get(store, run_id)
    assert (ended.done, ended.failed, ended.note) == (6, 0, None)
