"""Budgets of the cost page apply to runs: requests that would exceed one are not sent."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal

import pytest

from core.actor import LOCAL
from core.db.store import Store
from core.errors import BadRequest, OverBudget
from core.generation import previewing, reservations, row_store, run_progress, run_store, runs
from core.pricing import budget
from tests.support import batch_runs
from tests.support.batch_server import BatchServer
from tests.support.fault_server import Answer, FaultServer, error, held, rate_limit
from tests.support.live_runs import NO_PRICES, QUICK, book, execute, executing, queue, recipe, spends, states
from tests.support.waiting import until

_WORST = Decimal("0.136")  # worst case of a row: 5 bytes + 32 + 99 tokens; its actual cost is $0.011


def total(store: Store) -> Decimal:
    return sum((line.cost_usd for line in spends(store) if line.cost_usd), Decimal(0))


@pytest.mark.parametrize(
    ("scope", "subject", "says"),
    [
        ("month", "", "this month's budget"),
        ("person", "local", "your budget for this month"),
        ("run", "", "the budget per run"),
    ],
)
def test_a_run_stops_where_a_budget_of_the_cost_page_is_used_up(
    store: Store, server: FaultServer, scope: budget.Scope, subject: str, says: str
) -> None:
    budget.set_budget(store, LOCAL, scope, Decimal("0.30"), subject)
    run_id = queue(store, recipe(40))
    execute(store, server, run_id, replace(QUICK, ceiling=8), book())
    ended = run_progress.get(store, run_id)
    assert ended.state == "stopped" and says in (ended.reason or "") and "Cost page" in (ended.reason or "")
    assert total(store) <= Decimal("0.30") and 10 <= ended.done < 40 and ended.done + ended.pending == 40


def test_a_run_continues_after_the_budget_is_raised(store: Store, server: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.30"))
    run_id = queue(store, recipe(40))
    execute(store, server, run_id, book=book())
    budget.set_budget(store, LOCAL, "month", Decimal(10))
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id, book=book())
    assert states(store, run_id) == {"done": 40}


def test_the_smaller_of_both_budgets_counts(store: Store, server: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(10))
    run_id = queue(store, recipe(40), budget_usd=Decimal("0.30"))
    execute(store, server, run_id, book=book())
    assert "rest of the $0.30 budget" in (run_progress.get(store, run_id).reason or "")
    budget.set_budget(store, LOCAL, "month", Decimal("0.35"))
    other = queue(store, recipe(40), budget_usd=Decimal(10))
    execute(store, server, other, book=book())
    assert "this month's budget" in (run_progress.get(store, other).reason or "") and total(store) <= Decimal("0.35")


def test_two_runs_at_once_do_not_both_get_the_last_dollar(store: Store, server: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", 4 * _WORST)
    server.default = held()
    both = [queue(store, recipe(8)) for _ in range(2)]
    with ExitStack() as stack:
        for run_id in both:
            stack.enter_context(executing(store, server.registry(), run_id, book=book()))
        server.wait_for(lambda s: s.flying == 4)
        assert total(store) == 4 * _WORST
        for run_id in both:
            runs.request_stop(store, LOCAL, run_id)
    assert len(server.requests) == 4


def test_interrupted_requests_count_at_their_maximum_cost(store: Store, server: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    server.default = held()
    run_id = queue(store, recipe(2))
    with executing(store, server.registry(), run_id, book=book()):
        server.wait_for(lambda s: s.flying == 2)
        runs.request_stop(store, LOCAL, run_id)
    assert [line.cost_usd for line in spends(store)] == [None, None]
    assert budget.remaining(store, LOCAL) == 1 - 2 * _WORST


def test_what_a_killed_executor_had_sent_costs_an_unknown_amount(store: Store, server: FaultServer) -> None:
    """Its rows are requested again; the earlier requests may have been billed, so the total is unknown."""
    run_id = queue(store, recipe(5), budget_usd=Decimal(1))
    context = run_store.begin(store, run_id, "0" * 12 + ":1:2:gone")
    assert context is not None
    with store.session() as session:
        claims, _ = row_store.claim(session, context, 2, lambda prompt: _WORST, None)
        reservations.mark(session, [claim.spend_id for claim in claims])
    execute(store, server, run_id, book=book())
    ended = run_progress.get(store, run_id)
    assert (ended.state, ended.done) == ("done", 5)
    assert sorted(str(line.cost_usd) for line in spends(store)) == ["0.011"] * 5 + ["None"] * 2
    assert (ended.cost_usd, ended.max_usd) == (None, 5 * Decimal("0.011") + 2 * _WORST)
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    assert budget.remaining(store, LOCAL) == 1 - 5 * Decimal("0.011") - 2 * _WORST


def test_what_costs_nothing_costs_nothing_after_a_kill_either(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(5))
    context = run_store.begin(store, run_id, "0" * 12 + ":1:2:gone")
    assert context is not None
    with store.session() as session:
        claims, _ = row_store.claim(session, context, 2, lambda prompt: Decimal(0), None)
        reservations.mark(session, [claim.spend_id for claim in claims])
    execute(store, server, run_id, book=book(per_mtok="0"))
    ended = run_progress.get(store, run_id)
    assert (ended.done, ended.cost_usd, ended.max_usd) == (5, 0, 0)


def marks(store: Store) -> list[bool]:
    """Whether each spend ledger entry is marked as sent; entries with an unknown cost come first."""
    lines = sorted(spends(store), key=lambda line: line.cost_usd is not None)
    return [line.sent_at is not None for line in lines]


@pytest.mark.parametrize(
    ("fault", "counts"),
    [
        (rate_limit(retry_after="120"), False),
        (error(409, "locked", retry_after="120"), False),
        (error(503, "busy", retry_after="120"), False),
        (error(529, "overloaded", retry_after="120"), False),
        (error(500, "oops", retry_after="120"), True),
        (error(502, "bad gateway", retry_after="120"), True),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
def test_a_row_that_waits_counts_only_where_its_last_request_may_be_billed(
    store: Store, server: FaultServer, fault: Answer, counts: bool
) -> None:
    """It stays in the ledger at its worst case; the next attempt has a separate reservation, which is released."""
    server.default = fault
    run_id = queue(store, recipe(2))
    with executing(store, server.registry(), run_id, book=book()):
        until(lambda: run_progress.get(store, run_id).note is not None, "a note of what it waits for")
        until(lambda: marks(store) == [True, True] * counts + [False, False], "the marks")
        runs.request_stop(store, LOCAL, run_id)
    assert states(store, run_id) == {"pending": 2} and len(server.requests) == 2
    assert [(line.cost_usd, line.estimated_usd) for line in spends(store)] == [(None, _WORST)] * 2 * counts


def test_a_row_that_never_reached_the_provider_is_not_marked_as_sent(store: Store, server: FaultServer) -> None:
    run_id = queue(store, recipe(2))
    registry = server.registry()
    server.__exit__()  # the server is closed
    with executing(store, registry, run_id, replace(QUICK, base_s=1_000, cap_s=1_000), book=book()):
        until(lambda: run_progress.get(store, run_id).note is not None, "a note of what it waits for")
        until(lambda: [line.sent_at for line in spends(store)] == [None] * 2, "the marks")
        runs.request_stop(store, LOCAL, run_id)
    assert spends(store) == []


def test_an_unknown_price_is_not_begun_within_a_budget(store: Store, server: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    run_id = queue(store, recipe(3))
    execute(store, server, run_id)
    ended = run_progress.get(store, run_id)
    assert ended.state == "failed" and "price of this model is unknown" in (ended.reason or "")
    assert server.requests == [] and states(store, run_id) == {"pending": 3}


def test_what_costs_nothing_is_written_whatever_the_budget(store: Store, server: FaultServer) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(0))
    run_id = queue(store, recipe(3))
    execute(store, server, run_id, book=book(per_mtok="0"))
    assert states(store, run_id) == {"done": 3}


def test_a_preview_is_not_sent_where_a_budget_is_used_up(store: Store, server: FaultServer) -> None:
    client = server.registry().get("fault")
    budget.set_budget(store, LOCAL, "month", Decimal("0.05"))
    with pytest.raises(OverBudget, match="this month's budget"):
        list(previewing.preview(store, LOCAL, client, recipe(9), book=book()))
    with pytest.raises(OverBudget, match="price of this model is unknown"):
        list(previewing.preview(store, LOCAL, client, recipe(9), book=NO_PRICES))
    assert server.requests == [] and spends(store) == []


def test_previews_are_no_run_whose_budget_they_could_use_up(store: Store, server: FaultServer) -> None:
    client = server.registry().get("fault")
    budget.set_budget(store, LOCAL, "run", 2 * _WORST)
    for _ in range(30):
        list(previewing.preview(store, LOCAL, client, recipe(9), n=1, book=book()))
    assert total(store) == 30 * Decimal("0.011") > 2 * _WORST


def test_a_preview_that_fails_gives_back_what_was_reserved(store: Store, server: FaultServer) -> None:
    server.default = error(400, "no")
    with pytest.raises(BadRequest):
        list(previewing.preview(store, LOCAL, server.registry().get("fault"), recipe(9), n=1, book=book()))
    assert spends(store) == []


def test_a_batch_takes_as_many_rows_as_a_budget_of_the_cost_page_pays_for(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.30"))
    with BatchServer() as server:
        run_id = batch_runs.queue(store, batch_runs.recipe(40))
        ended = batch_runs.execute(store, server, run_id, book=batch_runs.HALF)
    assert ended.state == "stopped" and "this month's budget" in (ended.reason or "")
    paid = [cost for _, _, cost in batch_runs.spends(store)]
    assert None not in paid and sum(cost for cost in paid if cost) <= Decimal("0.30")
    assert 20 <= ended.done < 40 and ended.done + ended.pending == 40


def test_a_batch_of_an_unknown_price_is_not_handed_in_within_a_budget(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    with BatchServer() as server:
        ended = batch_runs.execute(store, server, batch_runs.queue(store, batch_runs.recipe(3)))
        assert server.count(batch_runs.POST) == 0
    assert ended.state == "failed" and "price of this model is unknown" in (ended.reason or "")
