"""An outage that may be billed costs a handful of requests, however large the run, and each of them is recorded."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from itertools import count

import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import Spend
from core.errors import ServerError, Unavailable
from core.failures import of_run
from core.generation import run_progress, runs
from core.generation.concurrency import CircuitBreaker, ConcurrencyControl, RunLimits
from core.generation.retry_policy import RequestRetryPolicy, RetryRow, RowAttempts
from core.pricing import budget
from core.providers import Choice, Completion, RetryPolicy
from tests.support.fault_server import Answer, FaultServer, drop, error, html, text
from tests.support.live_runs import QUICK, all_rows, book, execute, executing, queue, recipe, states
from tests.support.waiting import until

_WORST = Decimal("0.136")  # worst case of a row: 5 + 32 prompt tokens, 99 completion tokens, at a tenth of a cent each
_FAULTS = [error(500, "oops"), error(502, "bad gateway"), html(503), error(504, "late"), drop()]
_NAMES = ["500", "502", "503 of a proxy", "504", "dropped"]


# --- the breaker -----------------------------------------------------------------------------------------------------


def test_it_opens_after_so_many_in_a_row_and_closes_with_the_first_answer() -> None:
    breaker = CircuitBreaker(3, RetryPolicy(base_s=1.0, cap_s=60.0))
    breaker.on_failure(0.0, 1.0)
    breaker.on_failure(0.0, 1.0)
    assert not breaker.on_success() and not breaker.is_open
    for _ in range(3):
        breaker.on_failure(2.0, 3.0)
    assert breaker.is_open and breaker.available(in_flight=0, now=3.0) in (0, 1)
    resume_at = breaker.resume_at
    assert resume_at is not None and 3.0 <= resume_at <= 4.0
    assert breaker.available(in_flight=1, now=resume_at) == 0 and breaker.available(in_flight=0, now=resume_at) == 1
    assert breaker.on_success() and breaker.available(in_flight=9, now=3.0) is None and breaker.resume_at is None


def test_what_was_sent_before_the_pause_does_not_make_it_longer() -> None:
    breaker = CircuitBreaker(2, RetryPolicy(base_s=1.0, cap_s=60.0))
    for _ in range(2):
        breaker.on_failure(sent_at=0.0, now=10.0)
    resume_at = breaker.resume_at
    for _ in range(20):
        breaker.on_failure(sent_at=0.0, now=10.5)
    assert breaker.resume_at == resume_at


def test_the_pause_grows_up_to_its_cap_and_is_at_least_what_the_server_asks_for() -> None:
    breaker, now, longest = CircuitBreaker(1, RetryPolicy(base_s=1.0, cap_s=8.0)), 0.0, []
    for tries in range(12):
        breaker.on_failure(now, now)
        assert breaker.resume_at is not None and breaker.resume_at - now <= min(8.0, 2.0**tries)
        longest.append(breaker.resume_at - now)
        now = breaker.resume_at
    assert max(longest) > 1.0
    breaker.on_failure(now, now, retry_after_s=30.0)
    assert breaker.resume_at is not None and 30.0 <= breaker.resume_at - now <= 31.0


# --- ten minutes of an outage, simulated -----------------------------------------------------------------------------


def _tries_in_an_outage(ceiling: int, rows: int, answered_before: bool, seed: int) -> tuple[int, RequestRetryPolicy]:
    """How many requests a run sends while every one of them fails after a second, and how it ends."""
    random.seed(seed)
    limits = RunLimits(ceiling=ceiling)
    policy = RequestRetryPolicy(limits, ConcurrencyControl(ceiling), 99, now=0.0)
    if answered_before:
        policy.on_answer(Completion((Choice("A story.", "stop"),), "writer", 1, 1), 0.0)
    waiting = [(0.0, number, RowAttempts()) for number in range(rows)]  # by next attempt, then in order of addition
    places, flying, now, sent = count(rows), list[tuple[float, int, RowAttempts]](), 0.0, 0
    while policy.end is None and (waiting or flying):
        while waiting and waiting[0][0] <= now and policy.available(len(flying), now):
            _, number, tries = heapq.heappop(waiting)
            tries.count, tries.sent_at, sent = tries.count + 1, now, sent + 1
            heapq.heappush(flying, (now + 1.0, number, tries))
        now = flying[0][0] if flying else now + 0.25
        while flying and flying[0][0] <= now:
            _, _, tries = heapq.heappop(flying)
            decision = policy.on_error(ServerError("It has a server error (500)."), tries, now)
            if isinstance(decision, RetryRow):
                assert decision.lost  # each attempt is recorded
                heapq.heappush(waiting, (now + decision.wait_s, next(places), tries))
        policy.check_stalled(now, all_retried=True)
    return sent, policy


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("answered_before", [True, False])
@pytest.mark.parametrize(("ceiling", "rows"), [(1, 5_000), (4, 5_000), (16, 5_000), (16, 20)])
def test_an_outage_of_ten_minutes_costs_few_requests(ceiling: int, rows: int, answered_before: bool, seed: int) -> None:
    sent, policy = _tries_in_an_outage(ceiling, rows, answered_before, seed)
    assert policy.end is not None and policy.end.state == "failed"
    assert sent <= ceiling + 60, "the requests in flight, and one request per pause"


def test_a_run_of_one_row_that_was_never_answered_ends_after_a_few_tries() -> None:
    sent, policy = _tries_in_an_outage(ceiling=16, rows=1, answered_before=False, seed=1)
    assert sent == RunLimits().max_row_failures and policy.end is not None
    assert policy.end.reason == ("No request was answered, and one row was tried 5 times. It has a server error (500).")
    assert of_run(policy.end.reason).cause == "server_error"


def test_what_is_not_billed_does_not_open_it() -> None:
    policy = RequestRetryPolicy(RunLimits(), ConcurrencyControl(16), 99, now=0.0)
    for number in range(40):
        tries = RowAttempts(count=1, sent_at=float(number))
        policy.on_error(Unavailable("Overloaded.", may_be_billed=False), tries, number + 0.5)
    assert policy.available(0, 100.0) == 16


# --- with a real run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", _FAULTS, ids=_NAMES)
def test_after_an_outage_every_row_is_written_and_every_try_is_booked(
    store: Store, server: FaultServer, fault: Answer
) -> None:
    server.enqueue(text("one"), *[fault] * 20)
    run_id = queue(store, recipe(40), Decimal(100))
    execute(store, server, run_id, replace(QUICK, ceiling=4), book())
    assert states(store, run_id) == {"done": 40} and len(server.requests) == 60
    costs = [line.cost_usd for line in lines(store, run_id)]
    assert costs.count(None) == 20 and costs.count(Decimal("0.011")) == 40
    told = run_progress.get(store, run_id)
    assert told.cost_usd is None and told.max_usd == 20 * _WORST + 40 * Decimal("0.011")


def test_while_everything_fails_one_request_flies_and_then_more_again(store: Store, server: FaultServer) -> None:
    flying: list[tuple[bool, int]] = []

    def judge(body: object) -> Answer:
        fails = len(flying) < 30
        flying.append((fails, server.flying))
        return error(500, "oops") if fails else text("A story.")

    server.judge = judge
    run_id = queue(store, recipe(200))
    execute(store, server, run_id, replace(QUICK, ceiling=8))
    assert states(store, run_id) == {"done": 200} and len(flying) == 230
    opened = RunLimits().max_lost_requests + 8  # requests in flight when it opened have ended by then
    assert {number for fails, number in flying[opened:] if fails} == {1}
    assert flying[30][1] == 1 and max(number for fails, number in flying if not fails) > 1


def test_an_outage_fails_no_row_of_a_run_that_was_never_answered(store: Store, server: FaultServer) -> None:
    server.default = error(500, "oops")
    run_id = queue(store, recipe(3))
    execute(store, server, run_id)
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and states(store, run_id) == {"pending": 3}
    assert (ended.reason or "").startswith("No request was answered, and one row was tried 5 times.")
    assert max(Counter(server.prompts()).values()) == RunLimits().max_row_failures
    server.default = text("A story.")
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 3}


def test_a_row_that_breaks_the_server_fails_and_each_of_its_tries_is_booked(store: Store, server: FaultServer) -> None:
    server.when("n0000", error(500, "this one breaks me"))
    server.default = text("A story.")
    run_id = queue(store, recipe(3))
    execute(store, server, run_id, replace(QUICK, ceiling=1), book())
    assert states(store, run_id) == {"done": 2, "failed": 1}
    assert Counter(server.prompts())["n0000"] == RunLimits().max_row_failures
    broken = [line for line in lines(store, run_id) if line.row_id == all_rows(store, run_id)[0].id]
    assert [(line.cost_usd, line.estimated_usd) for line in broken] == [(None, _WORST)] * RunLimits().max_row_failures


@pytest.mark.parametrize("fault", _FAULTS, ids=_NAMES)
def test_a_budget_ends_the_run_and_says_what_is_uncertain(store: Store, server: FaultServer, fault: Answer) -> None:
    server.default = fault
    run_id = queue(store, recipe(50), Decimal("0.45"))
    execute(store, server, run_id, book=book())
    ended = run_progress.get(store, run_id)
    assert ended.state == "stopped" and states(store, run_id) == {"pending": 50}
    assert ended.reason == (
        "The rest of the $0.45 budget may not cover the next row. Raise the budget to continue. "
        "$0.41 of it is reserved for requests with an unknown cost: "
        "check the provider's usage page for what was billed."
    )
    assert of_run(ended.reason).cause == "budget"
    assert len(server.requests) == 3
    server.default = text("A story.")
    runs.raise_budget(store, LOCAL, run_id, Decimal(20))
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id, book=book())
    assert states(store, run_id) == {"done": 50}


def test_a_shared_budget_says_it_too(store: Store, server: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.30"))
    server.default = error(500, "oops")
    run_id = queue(store, recipe(50))
    execute(store, server, run_id, book=book())
    reason = run_progress.get(store, run_id).reason or ""
    assert "this month's budget" in reason and "$0.27 of it is reserved for requests with an unknown cost" in reason
    assert of_run(reason).cause == "shared_budget" and len(server.requests) == 2


def test_the_page_says_what_it_waits_for(store: Store, server: FaultServer) -> None:
    server.default = error(500, "oops", retry_after="120")
    run_id = queue(store, recipe(40))
    with executing(store, server.registry(), run_id, replace(QUICK, max_lost_requests=1, ceiling=1)):
        until(lambda: (run_progress.get(store, run_id).note or "").startswith("Waiting "), "the note")
        assert "has a server error (500): oops" in (run_progress.get(store, run_id).note or "")
        runs.request_stop(store, LOCAL, run_id)
    assert len(server.requests) == 1 and states(store, run_id) == {"pending": 40}


def test_a_projection_stays_where_one_request_has_an_unknown_cost(store: Store, server: FaultServer) -> None:
    server.enqueue(error(500, "oops"), *[text("A story.")] * 4, error(401, "no"))
    run_id = queue(store, recipe(10))
    execute(store, server, run_id, replace(QUICK, ceiling=1), book())
    told = run_progress.get(store, run_id)
    assert (told.done, told.remaining, told.cost_usd) == (4, 6, None)
    assert told.projected_usd == _WORST + 10 * Decimal("0.011")


def lines(store: Store, run_id: str) -> list[Spend]:
    with store.reading() as session:
        return list(session.scalars(select(Spend).where(Spend.reference == run_id).order_by(Spend.id)))
