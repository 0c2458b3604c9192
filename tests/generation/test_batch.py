"""Runs through a Batch API, against a local server: every row is paid for once, also after faults."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from bench._scripted_provider import KINDS
from core.actor import LOCAL
from core.db import repair_spend_totals
from core.db.store import Store
from core.db.tables import Batch, Row, Run, Spend, utcnow
from core.errors import BadRequest, FabulaError, NotFound, RateLimited, Refused, StorageFull, Unavailable
from core.failures import of_run
from core.generation import run_progress, run_store, runs
from core.generation.batch import batch_lifecycle, batch_runner, batch_store
from core.generation.batch.batch_runner import BatchTiming
from core.generation.run_budget import TEMPLATE_TOKENS
from core.jobs import task_runner
from core.pricing import budget, spend_history
from core.providers import Client, CompletionRequest, Provider, Registry, client
from core.providers.batches import read_answer
from core.settings import Settings
from tests.support.batch_runs import (
    EACH,
    HALF,
    NO_PRICES,
    POST,
    QUICK,
    UPLOAD,
    Died,
    execute,
    queue,
    recipe,
    rows,
    spends,
    states,
)
from tests.support.batch_server import KEY, BatchServer
from tests.support.fault_server import FaultServer, error
from tests.support.spending import spent
from tests.support.waiting import WAIT_LIMIT_S, run_to_end

WORST = Decimal(TEMPLATE_TOKENS + 5 + 99) / 2000  # of one request: prompt of five bytes, 99 tokens of text
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as running:
        yield running


def set_run(store: Store, run_id: str, **values: object) -> None:
    with store.session() as session:
        session.execute(update(Run).where(Run.id == run_id).values(**values))


def lines_of(store: Store) -> list[Spend]:
    with store.reading() as session:
        return list(session.scalars(select(Spend).order_by(Spend.id)))


def dataset_of(store: Store, run_id: str) -> str:
    return run_progress.get(store, run_id).dataset_id


# --- success --------------------------------------------------------------------------------------------------------


def test_a_run_hands_in_one_file_and_collects_every_row(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe(30, system="Be brief.", temperature=0.5, seed=3))
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, done.reason, done.done, done.failed, done.pending) == ("done", None, 30, 0, 0)
    found = rows(store, run_id)
    assert [(r.text, r.finish_reason, r.cost_usd) for r in found] == [
        (f"A story of n{i:04}.", "stop", EACH) for i in range(30)
    ]
    assert (server.count(UPLOAD), server.count(POST)) == (1, 1)
    lines = server.lines()
    assert [line["custom_id"] for line in lines] == [row.key for row in found]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert lines[0]["body"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "n0000"},
    ]
    assert {line["body"]["max_completion_tokens"] for line in lines} == {99}
    assert len({line["body"]["seed"] for line in lines}) == 30
    assert spends(store) == [(300, 150, 30 * EACH)]
    (batch,) = batch_store.batches_of_run(store, run_id)
    assert (batch.state, batch.remote_status, batch.total, batch.completed, batch.failed) == (
        "done",
        "completed",
        30,
        30,
        0,
    )
    assert next(iter(server.batches.values()))["metadata"] == {"fabula_intent": batch.id}
    assert done.cost_usd == 30 * EACH and done.tokens == 450


def test_a_completion_model_is_asked_at_its_own_endpoint(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe(2, model="davinci-002"))
    assert execute(store, server, run_id).done == 2
    assert server.lines()[0]["url"] == "/v1/completions" and server.lines()[0]["body"]["prompt"] == "n0000"


@pytest.mark.parametrize(
    ("timing", "sizes"),
    [
        (replace(QUICK, max_requests=5), [5, 5, 2]),
        (replace(QUICK, max_requests=5, max_open=1), [5, 5, 2]),
        (replace(QUICK, max_bytes=1000), [4, 4, 4]),
    ],
)
def test_a_large_grid_is_split_into_files(
    store: Store, server: BatchServer, timing: BatchTiming, sizes: list[int]
) -> None:
    run_id = queue(store, recipe(12))
    assert execute(store, server, run_id, timing).done == 12
    assert [len(server.lines(i)) for i in range(len(server.batches))] == sizes
    assert sorted(server.bought) == sorted(row.key for row in rows(store, run_id))


def test_the_recipe_may_say_how_the_model_is_asked(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe(2, endpoint="completion"))
    assert execute(store, server, run_id).done == 2 and server.lines()[0]["url"] == "/v1/completions"


def test_a_grid_larger_than_a_transaction_is_one_file(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe(2300))
    assert execute(store, server, run_id).done == 2300
    assert server.count(POST) == 1


# --- lines that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "cost_usd", "lost"),
    [
        ("length", "The text was cut off at 99 tokens.", EACH, 0),
        ("content_filter", "The provider's content filter blocked the text.", EACH, 0),
        ((400, "Too long."), "rejected the request (400): Too long.", Decimal(0), 0),
        ((400, "a\0b \ud800"), "rejected the request (400): ab ?", Decimal(0), 0),
        ((400, "Flagged.", "content_filter"), "rejected the request (400): Flagged.", None, 1),
        ((500, "Sorry."), "has a server error (500): Sorry.", None, 3),
        ((504, "Timed out."), "gave up waiting for the model (504): Timed out.", None, 3),
        ((503, "Overloaded."), "has a server error (503): Overloaded.", Decimal(0), 0),
        ((429, "Slow down."), "asks to slow down: Slow down.", Decimal(0), 0),
        (None, "The provider ended the batch before it reached this row.", Decimal(0), 0),
    ],
)
def test_a_failed_line_is_reported_on_its_row(
    store: Store, server: BatchServer, answer: Any, reason: str, cost_usd: Decimal | None, lost: int
) -> None:
    """`cost_usd` None: unknown. `lost`: requests for the row that may be billed; each counts at its maximum cost."""
    server.answers["n0003"] = answer
    run_id = queue(store, recipe())
    done = execute(store, server, run_id, book=HALF)
    row = rows(store, run_id)[3]
    assert (done.state, done.done, done.failed) == ("done", 11, 1)
    assert row.state == "failed" and reason in (row.reason or "")
    assert row.cost_usd == cost_usd
    assert done.cost_usd == (None if lost else 11 * EACH + (cost_usd or 0))
    assert done.max_usd == 11 * EACH + (cost_usd or 0) + lost * WORST


@pytest.mark.parametrize(
    ("answer", "billed"),
    [
        ((500, "Sorry."), True),
        ((502, "Bad gateway."), True),
        ((504, "Timed out generating response."), True),
        ((408, "Timed out."), True),
        ((424, "The model failed."), True),
        ((500, "Overloaded.", "overloaded_error"), True),
        ((503, "Overloaded."), False),
        ((529, "Overloaded."), False),
        ((409, "Locked."), False),
        ((429, "Slow down."), False),
        ((400, "Unsupported parameter: 'top_p' is not supported with this model."), False),
        ({"error": {"message": "The upstream server timed out"}}, True),
        ({"error": {"message": "Slow down", "code": 429}}, False),
    ],
)
def test_a_line_that_may_be_billed_counts_at_its_maximum_cost_and_its_row_is_sent_again(
    store: Store, server: BatchServer, answer: Any, billed: bool
) -> None:
    """Unknown, not 0, wherever it is shown: in the run, its budget, the spend page and the CSV."""
    server.answers["n0003"] = answer
    server.on = lambda what: server.answers.clear() if server.count(POST) == 1 and what == UPLOAD else None
    run_id = queue(store, recipe(top_p=0.5), budget_usd=Decimal(5))
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, done.done, server.count(POST)) == ("done", 12, 2)
    lost = [line for line in lines_of(store) if line.cost_usd is None]
    assert [(line.reference, line.estimated_usd, line.completion_tokens) for line in lost] == [
        (run_id, WORST, None)
    ] * billed
    assert done.cost_usd == (None if billed else 12 * EACH)
    assert done.max_usd == 12 * EACH + billed * WORST
    with store.reading() as session:
        assert budget.spent_on(session, run_id) == done.max_usd
    since, until = utcnow() - timedelta(days=1), utcnow() + timedelta(days=1)
    found = spent(store, since)
    assert (found.calls, found.unknown, found.cost_usd) == (2 + billed, int(billed), 12 * EACH)
    (day,) = [line for line in spend_history.by_period(store, [since], until) if line.calls]
    assert (day.calls, day.unknown, day.cost_usd) == (2 + billed, int(billed), 12 * EACH)
    cells = list(csv.DictReader(io.StringIO(spend_history.export(store, since, until).decode("utf-8-sig"))))
    assert sorted(line["cost_usd"] for line in cells)[:billed] == [""] * billed
    assert sum(Decimal(line["cost_usd"] or 0) for line in cells) == 12 * EACH


def test_a_row_that_may_be_billed_is_booked_once_though_its_file_is_read_twice(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers |= {"n0003": (500, "Sorry."), "n0005": (500, "Sorry.")}
    run_id = queue(store, recipe())

    def die(*_: Any, **__: Any) -> None:
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(batch_lifecycle.BatchLifecycle, "close", die)
        execute(store, server, run_id, book=HALF)
    with store.reading() as session:  # the batch reserves so much less
        assert budget.spent_on(session, run_id) == 12 * WORST
    server.answers.clear()
    done = execute(store, server, run_id, book=HALF)
    assert (done.done, done.max_usd) == (12, 12 * EACH + 2 * WORST)
    with store.reading() as session:
        assert budget.spent_on(session, run_id) == done.max_usd
        assert repair_spend_totals.recomputed(session)["reference", run_id, ""] == done.max_usd


def test_a_budget_limits_what_failing_lines_may_cost(store: Store, server: BatchServer) -> None:
    server.answers |= {f"n{i:04}": (500, "Sorry.") for i in range(12)}
    run_id = queue(store, recipe(), budget_usd=4 * WORST)
    done = execute(store, server, run_id, book=HALF)
    assert done.state == "stopped" and "requests with an unknown cost" in (done.reason or "")
    assert sum(len(server.lines(i)) for i in range(len(server.batches))) == 4


def test_lines_of_an_earlier_runs_batch_that_may_be_billed_count_in_that_run(store: Store, server: BatchServer) -> None:
    server.answers |= {"n0003": (500, "Sorry."), "n0004": (400, "Flagged.", "content_filter"), "n0005": (400, "No.")}
    first = queue(store, recipe())
    during(server, POST, lambda: set_run(store, first, state="pausing"))
    assert execute(store, server, first, book=HALF).state == "paused"
    set_run(store, first, state="stopped")
    server.on = lambda what: server.answers.clear() if server.count(POST) == 1 and what == UPLOAD else None
    second = queue(store, recipe(), dataset_id=dataset_of(store, first))
    done = execute(store, server, second, book=HALF)
    assert (done.done, done.cost_usd) == (12, 3 * EACH)
    assert run_progress.get(store, first).max_usd == 9 * EACH + 2 * WORST
    assert run_progress.get(store, first).cost_usd is None


@pytest.mark.parametrize("line", [b"not json", b'{"custom_id": 7}', b'["a"]', b'{"custom_id": "n0003", "respon'])
def test_a_line_that_cannot_be_read_is_an_answer_at_an_unknown_cost(
    store: Store, server: BatchServer, line: bytes
) -> None:
    """The line was processed: its row is not requested again, and counts at its maximum cost."""
    server.answers["n0003"] = line
    run_id = queue(store, recipe())
    done = execute(store, server, run_id, book=HALF)
    row = rows(store, run_id)[3]
    assert (done.state, done.done, done.failed, server.count(POST)) == ("done", 11, 1, 1)
    assert row.state == "failed" and "can't be read" in (row.reason or "") and row.cost_usd is None
    (spent,) = lines_of(store)
    assert spent.cost_usd is None and spent.estimated_usd is not None and spent.estimated_usd > 12 * EACH


def test_answers_of_every_shape_are_read_and_paid_once(store: Store, server: BatchServer) -> None:
    kinds = [kind for kind in KINDS if kind.took and (kind.whole or kind.final) and isinstance(kind.body, dict)]
    server.answers = {f"n{number:04}": kind.body for number, kind in enumerate(kinds)}
    run_id = queue(store, recipe(len(kinds)))
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, server.count(POST), len(server.bought)) == ("done", 1, len(kinds))
    for kind, row in zip(kinds, rows(store, run_id), strict=True):
        if kind.whole:
            assert kind.took is not None
            assert (row.state, row.finish_reason, row.reason) == ("done", "stop", None), kind.name
            assert row.cost_usd == (kind.took[0] + kind.took[1]) * Decimal("0.0005"), kind.name
        assert row.cost_usd is None or row.cost_usd > 0, kind.name
    (line,) = lines_of(store)
    assert line.cost_usd is None and line.estimated_usd is not None  # some have no usage: the maximum cost counts
    assert line.estimated_usd >= sum((row.cost_usd or EACH for row in rows(store, run_id)), Decimal(0))


def test_rows_that_failed_at_the_provider_are_submitted_again(store: Store, server: BatchServer) -> None:
    server.answers["n0003"] = (503, "Overloaded.")
    server.on = lambda what: server.answers.clear() if server.count(POST) == 1 and what == UPLOAD else None
    run_id = queue(store, recipe())
    assert execute(store, server, run_id).done == 12
    assert [len(server.lines(i)) for i in range(2)] == [12, 1]
    assert Counter(server.bought).most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, "Bad key."), "refused the key (401)"),
        ((429, "No credit.", "insufficient_quota"), "has no credit left"),
        ((404, "The model `writer` does not exist"), "does not have this model"),
        ((400, "response_format is not supported"), "refuses every request"),
    ],
)
def test_a_cause_that_all_rows_share_ends_the_run(store: Store, server: BatchServer, answer: Any, words: str) -> None:
    server.answers |= {f"n{i:04}": answer for i in range(12)}
    run_id = queue(store, recipe())
    done = execute(store, server, run_id, replace(QUICK, max_requests=6), HALF)
    assert done.state == "failed" and words in (done.reason or "")
    assert KEY not in (done.reason or "")
    assert server.bought == [] and sum(states(store, run_id).values()) == 12
    server.answers.clear()
    second_id = queue(store, recipe(), dataset_id=dataset_of(store, run_id))
    assert execute(store, server, second_id, book=HALF).state == "done"
    assert states(store, second_id) == {"done": 12} and len(server.bought) == 12


def test_a_batch_run_whose_model_has_stopped_says_since_when(store: Store, server: BatchServer) -> None:
    server.answers |= {f"n{i:04}": (404, "The model `writer` has been deprecated") for i in range(4)}
    stopped = replace(HALF, last_days={("openai", "writer"): date(2026, 10, 23)})
    done = execute(store, server, queue(store, recipe(4)), book=stopped)
    assert done.state == "failed" and (done.reason or "").startswith("writer stopped on 2026-10-23.")


def test_a_run_that_ended_on_a_refused_key_is_resumed_with_what_is_there(store: Store, server: BatchServer) -> None:
    server.answers |= {f"n{i:04}": (401, "Bad key.") for i in range(12)}
    run_id = queue(store, recipe())
    assert execute(store, server, run_id, replace(QUICK, max_requests=4), HALF).state == "failed"
    server.answers.clear()
    runs.resume(store, LOCAL, run_id)
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, done.done, len(server.bought)) == ("done", 12, 12)
    assert sum(s[2] or 0 for s in spends(store)) == 12 * EACH


# --- batches that do not complete -----------------------------------------------------------------------------------


def test_an_expired_batch_keeps_what_it_wrote_and_hands_in_the_rest(store: Store, server: BatchServer) -> None:
    server.fates = ["expired"]
    run_id = queue(store, recipe())
    assert execute(store, server, run_id, book=HALF).done == 12
    assert [len(server.lines(i)) for i in range(2)] == [12, 6]
    assert len(server.bought) == 12 and sum(s[2] or 0 for s in spends(store)) == 12 * EACH
    assert [b.remote_status for b in batch_store.batches_of_run(store, run_id)] == ["completed", "expired"]


def test_a_batch_that_always_expires_ends_with_a_reason_on_its_rows(store: Store, server: BatchServer) -> None:
    server.fates, server.done_share = ["expired"] * 9, 0.0
    run_id = queue(store, recipe(3))
    done = execute(store, server, run_id)
    assert (done.state, done.failed, server.count(POST)) == ("done", 3, 3)
    assert rows(store, run_id)[0].reason == "The batch server did not process this request: Out of time."


def test_rejected_lines_fail_and_the_others_are_submitted(store: Store, server: BatchServer) -> None:
    server.fates = ["failed"]
    server.errors = [(2, "invalid_request", "Line 2 is wrong."), (5, "invalid_request", "Line 5 is too long.")]
    run_id = queue(store, recipe())
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, done.done, done.failed) == ("done", 10, 2)
    assert [r.position for r in rows(store, run_id) if r.reason] == [1, 4]
    assert [b.reason for b in batch_store.batches_of_run(store, run_id)] == [None, "Line 2 is wrong."]
    assert len(spends(store)) == 1, "a refused batch costs nothing"


@pytest.mark.parametrize(
    "errors",
    [
        [(None, "invalid_model", "The model is not supported in batches.")],
        [(line, "model_not_found", f"Line {line}: no such model.") for line in range(1, 13)],
        [],
    ],
)
def test_a_rejected_file_ends_the_run(
    store: Store, server: BatchServer, errors: list[tuple[int | None, str, str]]
) -> None:
    server.fates, server.errors = ["failed"], errors
    run_id = queue(store, recipe())
    done = execute(store, server, run_id)
    assert done.state == "failed" and (done.reason or "").startswith("The provider refused the batch.")
    assert of_run(done.reason).cause == "bad_request"
    assert states(store, run_id) == {"pending": 12}
    assert spends(store) == []


def test_too_much_in_the_queue_makes_files_smaller(store: Store, server: BatchServer) -> None:
    server.limit = 4
    run_id = queue(store, recipe())
    assert execute(store, server, run_id).done == 12
    sizes = [len(server.lines(i)) for i in range(len(server.batches))]
    assert sizes[:2] == [12, 6] and len(sizes) <= 8 and {3} == set(sizes[3:])
    assert len(server.bought) == 12


def test_a_batch_cancelled_at_the_provider_is_not_submitted_again_automatically(
    store: Store, server: BatchServer
) -> None:
    server.fates = ["cancelled"]
    run_id = queue(store, recipe())
    done = execute(store, server, run_id)
    assert done.state == "stopped" and "cancelled at the provider" in (done.reason or "")
    assert of_run(done.reason).cause == "job_gone"
    assert states(store, run_id) == {"done": 6, "pending": 6}
    second_id = queue(store, recipe(), dataset_id=dataset_of(store, run_id))
    assert execute(store, server, second_id).done == 12 and len(server.bought) == 12


# --- stop, pause, money ---------------------------------------------------------------------------------------------


def during(server: BatchServer, request: str, act: Any) -> None:
    """Run an action at the first occurrence of this request."""
    waiting = [act]

    def on(what: str) -> None:
        if what == request and waiting:
            waiting.pop()()

    server.on = on


def test_stop_cancels_the_batch_and_keeps_what_it_wrote(store: Store, server: BatchServer) -> None:
    server.fates = ["endless"]
    run_id = queue(store, recipe())
    during(server, "GET /v1/batches/batch_1", lambda: runs.request_stop(store, LOCAL, run_id))
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, done.done) == ("stopped", 6)
    assert states(store, run_id) == {"done": 6, "pending": 6}
    assert server.count("POST /v1/batches/batch_1/cancel") == 1
    assert spends(store) == [(60, 30, 6 * EACH)]
    assert batch_store.batches_of_run(store, run_id)[0].state == "cancelled"


def test_stop_before_the_post_sends_nothing(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    server.faults[UPLOAD] = [503]
    during(server, UPLOAD, lambda: runs.request_stop(store, LOCAL, run_id))
    assert execute(store, server, run_id, book=HALF).state == "stopped"
    assert server.count(POST) == 0 and states(store, run_id) == {"pending": 12} and spends(store) == []


def test_a_paused_batch_continues_at_the_provider_and_is_resumed(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    during(server, "GET /v1/batches/batch_1", lambda: set_run(store, run_id, state="pausing"))
    assert execute(store, server, run_id).state == "paused"
    assert states(store, run_id) == {"sent": 12}
    set_run(store, run_id, state="queued")
    assert execute(store, server, run_id).done == 12
    assert (server.count(POST), len(server.bought)) == (1, 12)


def test_stop_of_a_paused_run_cancels_what_is_with_the_provider(store: Store, server: BatchServer) -> None:
    server.fates = ["endless"]
    run_id = queue(store, recipe())
    during(server, "GET /v1/batches/batch_1", lambda: runs.request_pause(store, LOCAL, run_id))
    assert execute(store, server, run_id).state == "paused"
    runs.request_stop(store, LOCAL, run_id)
    assert run_progress.get(store, run_id).state == "stopping"
    assert execute(store, server, run_id).state == "stopped"
    assert server.count("POST /v1/batches/batch_1/cancel") == 1
    assert states(store, run_id) == {"done": 6, "pending": 6}


def test_a_live_run_collects_the_batch_of_an_earlier_run_first(store: Store, server: BatchServer) -> None:
    first = queue(store, recipe())
    during(server, "GET /v1/batches/batch_1", lambda: runs.request_pause(store, LOCAL, first))
    assert execute(store, server, first).state == "paused"
    live = runs.enqueue(store, LOCAL, dataset_of(store, first), retry_failed=False, mode="live")
    assert live != first and batch_runner.has_work(store, live)
    halt, carry_out = threading.Event(), task_runner.KINDS["run"].carry_out
    run_to_end(lambda: carry_out(store, server.registry(), live, halt), lambda _: batch_runner._waiting_runs.clear())
    assert run_progress.get(store, live).state == "done" and states(store, live) == {"done": 12}
    assert len(server.bought) == 12


def test_a_run_that_is_resumed_while_it_is_being_paused_goes_on(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queue(store, recipe())
    during(server, "GET /v1/batches/batch_1", lambda: set_run(store, run_id, state="pausing"))
    real = run_store.finish

    def finish(session: Any, run: str, state: str, reason: str | None) -> None:
        if state == "paused":
            session.get_one(Run, run).state = "running"
            session.flush()
        real(session, run, state, reason)

    monkeypatch.setattr(run_store, "finish", finish)
    assert execute(store, server, run_id).done == 12


def test_a_budget_is_kept_by_the_worst_case_and_used_by_the_true_one(store: Store, server: BatchServer) -> None:
    worst = TEMPLATE_TOKENS + 5 + 99  # tokens of one request at most
    run_id = queue(store, recipe(), budget_usd=Decimal(worst) / 2000 * 4)
    held: list[Decimal | None] = []
    during(server, POST, lambda: held.append(spends(store)[0][2]))
    done = execute(store, server, run_id, book=HALF)
    assert held == [Decimal(worst) / 2000 * 4], "four fit at first"
    assert len(server.lines()) == 4 and server.count(POST) > 1, "and more once those had cost less"
    assert (done.state, done.done) == ("done", 12)
    assert done.cost_usd == 12 * EACH <= (done.budget_usd or 0)


def test_a_budget_that_is_used_up_stops_the_run_without_overshoot(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe(), budget_usd=Decimal("0.08"))
    done = execute(store, server, run_id, book=HALF)
    assert done.state == "stopped" and "rest of the $0.08 budget" in (done.reason or "")
    assert done.cost_usd is not None and 0 < done.cost_usd <= Decimal("0.08")


def test_a_raised_budget_applies_immediately(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe(), budget_usd=Decimal("0.3"))
    during(server, POST, lambda: runs.raise_budget(store, LOCAL, run_id, Decimal(5)))
    assert execute(store, server, run_id, book=HALF).done == 12
    assert [len(server.lines(i)) for i in range(len(server.batches))] == [4, 8]


def test_unknown_costs_count_at_their_maximum(store: Store, server: BatchServer) -> None:
    server.usage = lambda prompt: False
    run_id = queue(store, recipe(), budget_usd=Decimal("0.3"))
    done = execute(store, server, run_id, book=HALF)
    assert done.state == "stopped" and done.done == 4, "each may have cost 0.068"
    assert done.cost_usd is None and rows(store, run_id)[0].cost_usd is None


def test_one_answer_without_token_counts_does_not_make_the_others_free(store: Store, server: BatchServer) -> None:
    server.usage = lambda prompt: prompt != "n0000"
    run_id = queue(store, recipe(), budget_usd=Decimal("0.14"))
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, done.done) == ("stopped", 2), "0.068 + 0.0075: a third may cost another 0.068"


def test_a_batch_unknown_to_the_provider_counts_at_its_maximum_cost(store: Store, server: BatchServer) -> None:
    server.fates = ["endless"]
    run_id = queue(store, recipe(), budget_usd=Decimal("0.3"))
    during(server, "GET /v1/batches/batch_1", lambda: server.batches.clear())
    assert execute(store, server, run_id, book=HALF).state == "failed"
    runs.resume(store, LOCAL, run_id)
    done = execute(store, server, run_id, book=HALF)
    assert done.state == "stopped" and server.count(POST) == 1, "four rows at $0.068 each may be on the bill"


def test_without_a_price_no_budget_can_be_kept(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe(), budget_usd=Decimal(1))
    done = execute(store, server, run_id)
    assert done.state == "failed" and "price of writer is unknown" in (done.reason or "")
    assert server.requests == []


def test_an_unknown_price_stays_unknown(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    assert execute(store, server, run_id).cost_usd is None
    assert spends(store) == [(120, 60, None)]


def test_a_provider_without_a_batch_price_is_counted_at_the_live_one(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    assert execute(store, server, run_id, book=replace(HALF, batch_factors={})).cost_usd == 24 * EACH


# --- temporary errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        {UPLOAD: [503, 429, "drop"]},
        {POST: [500, 503, 429]},
        {POST: ["drop"]},
        {POST: ["cut", "drop"]},
        {"GET /v1/batches/batch_1": [500, "drop", 429, "cut"]},
        {"GET /v1/files/file-batch_1-output/content": ["cut", 500, "drop"]},
        {"GET /v1/files/file-batch_1-error/content": ["cut"]},
    ],
)
def test_temporary_errors_are_retried_and_nothing_is_paid_twice(
    store: Store, server: BatchServer, faults: dict[str, list[Any]]
) -> None:
    server.faults |= faults
    server.answers["n0005"] = (400, "Too long.")
    run_id = queue(store, recipe())
    done = execute(store, server, run_id, book=HALF)
    assert (done.state, done.done, done.failed, done.note) == ("done", 11, 1, None)
    assert len(server.batches) == 1 and len(server.bought) == 11
    assert sum(s[2] or 0 for s in spends(store)) == 11 * EACH


def test_a_temporary_error_is_shown_while_it_lasts(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    server.faults["GET /v1/batches/batch_1"] = [503, 503]
    notes: list[str | None] = []
    server.on = lambda what: notes.append(run_progress.get(store, run_id).note)
    execute(store, server, run_id)
    assert any((note or "").startswith("Waiting 1 s. The batch server has a server error (503)") for note in notes)


@pytest.mark.parametrize(
    ("request_", "fault", "words", "left"),
    [
        (UPLOAD, 401, "refused the key", "sent"),
        (POST, 402, "no credit left", "pending"),
        (POST, 400, "rejected the request (400)", "pending"),
        ("GET /v1/batches/batch_1", 401, "are collected when you resume", "sent"),
    ],
)
def test_a_refusal_ends_the_run_and_the_next_run_continues(
    store: Store, server: BatchServer, request_: str, fault: int, words: str, left: str
) -> None:
    server.faults[request_] = [fault]
    run_id = queue(store, recipe())
    done = execute(store, server, run_id, book=HALF)
    assert done.state == "failed" and words in (done.reason or "")
    assert states(store, run_id) == {left: 12}
    second_id = queue(store, recipe(), dataset_id=dataset_of(store, run_id))
    assert execute(store, server, second_id, book=HALF).done == 12
    assert len(server.bought) == 12 and sum(s[2] or 0 for s in spends(store)) == 12 * EACH


def test_a_batch_unknown_to_the_provider_is_reported_with_an_unknown_cost(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    during(server, "GET /v1/batches/batch_1", server.batches.clear)
    done = execute(store, server, run_id, book=HALF)
    assert done.state == "failed" and "no longer has this batch" in (done.reason or "")
    assert of_run(done.reason).cause == "job_gone"
    assert states(store, run_id) == {"pending": 12} and spends(store) == [(None, None, None)]


@pytest.mark.parametrize(("gone", "kept"), [("output", 0), ("error", 11)])
def test_results_that_the_provider_has_deleted_do_not_block_the_data_set(
    store: Store, server: BatchServer, gone: str, kept: int
) -> None:
    """The run said that they are collected when it is resumed, at every resume. Their cost is unknown."""
    server.answers["n0003"] = (400, "No.")
    run_id = queue(store, recipe())

    def delete_results(_request: str) -> None:
        server.files.pop(f"file-batch_1-{gone}", None)

    server.on = delete_results
    done = execute(store, server, run_id, book=HALF)
    assert done.state == "failed" and "no longer has the results of this batch" in (done.reason or "")
    assert states(store, run_id) == Counter({"pending": 12 - kept, "done": kept})
    (line,) = lines_of(store)
    assert (line.cost_usd, line.estimated_usd) == (None, 12 * WORST)
    server.answers.clear()
    runs.resume(store, LOCAL, run_id)
    assert execute(store, server, run_id, book=HALF).done == 12


def test_a_provider_that_is_not_set_up_any_more_ends_the_run(store: Store) -> None:
    run_id = queue(store, recipe())
    batch_runner.carry_out(store, Registry([]), run_id, threading.Event(), timing=QUICK, book=NO_PRICES)
    done = run_progress.get(store, run_id)
    assert done.state == "failed" and "There is no provider 'openai'" in (done.reason or "")


def test_a_run_that_is_over_is_left_alone(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    set_run(store, run_id, state="stopped")
    assert execute(store, server, run_id).state == "stopped" and server.requests == []
    with pytest.raises(NotFound):
        execute(store, server, "no such run")


# --- the worker dies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["upload", "create_batch", "batch", "download"])
@pytest.mark.parametrize("done", [False, True])
def test_the_next_worker_continues_after_a_crash_and_nothing_is_paid_twice(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch, call: str, done: bool
) -> None:
    run_id = queue(store, recipe())
    real = getattr(Client, call)

    def die(client: Client, *args: Any, **named: Any) -> None:
        if done:
            real(client, *args, **named)
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(Client, call, die)
        execute(store, server, run_id, book=HALF)
    assert states(store, run_id) == {"sent": 12}
    assert execute(store, server, run_id, book=HALF).done == 12
    assert server.count(POST) == 1 and len(server.bought) == 12
    assert spends(store) == [(120, 60, 12 * EACH)]


def test_a_crash_while_collecting_loses_and_duplicates_nothing(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queue(store, recipe(30))
    monkeypatch.setattr(batch_lifecycle, "ANSWERS_PER_TRANSACTION", 7)
    real, groups = batch_store.settle, list[int]()

    def keep(session: Any, dataset_id: str, batch_id: str, outcomes: Any, worst_case: Any) -> None:
        if len(groups) == 2:
            raise Died
        groups.append(len(outcomes))
        real(session, dataset_id, batch_id, outcomes, worst_case)

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(batch_store, "settle", keep)
        execute(store, server, run_id, book=HALF)
    assert states(store, run_id) == {"done": 14, "sent": 16}
    assert execute(store, server, run_id, book=HALF).done == 30
    assert len(server.bought) == 30 and spends(store) == [(300, 150, 30 * EACH)]


@pytest.mark.parametrize("then", ["_settle_missing", "close"])
@pytest.mark.parametrize(("fate", "unnamed"), [("completed", 0), ("expired", 6)])
def test_after_a_crash_unreadable_lines_are_counted_once(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch, then: str, fate: str, unnamed: int
) -> None:
    """Collecting again, the same two lines mark no further rows: the others are submitted again, and paid for once."""
    left_out = [f"n{number:04}" for number in range(12 - unnamed, 12)]  # in neither file: never processed
    server.fates, server.done_share = [fate], 1.0
    server.answers |= {"n0001": b"not json", "n0003": b"not json", **dict.fromkeys(left_out)}
    run_id = queue(store, recipe())

    def die(*_: Any, **__: Any) -> None:
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(batch_lifecycle.BatchLifecycle, then, die)
        execute(store, server, run_id, book=HALF)
    before = states(store, run_id)
    assert (before["done"], before["failed"]) == (10 - unnamed, 2)
    server.answers = {}
    ended = execute(store, server, run_id, book=HALF)
    assert (ended.state, ended.done, ended.failed) == ("done", 10, 2)
    assert server.count(POST) == 1 + bool(unnamed)
    assert len(server.bought) == len(set(server.bought)) == 10  # and two whose lines cannot be read
    known = [s.cost_usd for s in lines_of(store)]
    assert known == [None] + ([unnamed * EACH] if unnamed else [])


def test_after_a_crash_while_claiming_the_claimed_rows_are_submitted(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = queue(store, recipe(2300))
    real, calls = batch_store.claim, list[int]()

    def claim(*args: Any, **named: Any) -> Any:
        if calls:
            raise Died
        calls.append(1)
        return real(*args, **named)

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(batch_store, "claim", claim)
        execute(store, server, run_id)
    assert execute(store, server, run_id).done == 2300
    assert sorted(len(server.lines(i)) for i in range(2)) == [1000, 1300]


def test_kill_9_during_the_post(store: Store, server: BatchServer, settings: Settings) -> None:
    run_id = queue(store, recipe())
    script = (
        "import sys, threading\n"
        "from core.generation.batch import batch_runner\nfrom core.db.store import Store\n"
        "from core.providers import Provider, Registry\n"
        "url, key, database, run_id = sys.argv[1:]\n"
        "registry = Registry([Provider('openai', 'openai', 'x', url, key)])\n"
        "batch_runner.carry_out(Store(database), registry, run_id, threading.Event())\n"
    )
    arguments = [server.url, KEY, settings.database_url, run_id]
    environment = {**os.environ, "FABULA_HOME": str(settings.home)}
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT, env=environment)
    during(server, POST, lambda: process.send_signal(signal.SIGKILL))
    assert process.wait(WAIT_LIMIT_S) == -signal.SIGKILL
    assert execute(store, server, run_id, replace(QUICK, settle_s=60.0), HALF).done == 12
    assert server.count(POST) == 1 and len(server.bought) == 12


def dying(store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch, at: str, moved: timedelta) -> str:
    """A run whose worker died in this step of its batch; then the clock was changed."""
    run_id = queue(store, recipe())

    create = Client.create_batch

    def dies(*given: Any) -> None:
        if at != "POST":
            create(*given)
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(Client, "create_batch", dies)
        execute(store, server, run_id, book=HALF)
    with store.session() as session:
        session.scalars(select(Batch)).one().updated_at -= moved
    return run_id


def test_a_clock_set_forward_submits_no_batch_twice(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = dying(store, server, monkeypatch, "its answer", timedelta(hours=3))
    real, late = Client.find_batch, [None] * 3  # it is listed a little later
    monkeypatch.setattr(Client, "find_batch", lambda self, mark: late.pop() if late else real(self, mark))
    assert execute(store, server, run_id, replace(QUICK, settle_s=60.0), HALF).done == 12
    assert server.count(POST) == 1 and len(server.bought) == 12


def test_a_clock_set_back_does_not_delay_a_batch(
    store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = dying(store, server, monkeypatch, "POST", timedelta(hours=-3))
    assert execute(store, server, run_id, replace(QUICK, settle_s=0.05), HALF).done == 12
    assert server.count(POST) == 1


def test_a_worker_that_stops_leaves_the_run_as_it_is(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    halt = threading.Event()
    during(server, "GET /v1/batches/batch_1", halt.set)
    batch_runner.carry_out(store, server.registry(), run_id, halt, timing=QUICK, book=NO_PRICES)
    assert run_progress.get(store, run_id).state == "running"
    assert execute(store, server, run_id).done == 12 and server.count(POST) == 1


def test_a_full_disk_loses_nothing(store: Store, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = queue(store, recipe())

    def full(*_: Any, **__: Any) -> None:
        raise StorageFull("The disk is full.", "Free some space.")

    with monkeypatch.context() as patched, pytest.raises(StorageFull):
        patched.setattr(batch_store, "settle", full)
        execute(store, server, run_id)
    assert execute(store, server, run_id).done == 12 and len(server.bought) == 12


def test_a_live_run_collects_what_an_earlier_batch_has_bought_and_hands_nothing_in(
    store: Store, server: BatchServer
) -> None:
    run_id = queue(store, recipe(), budget_usd=Decimal("0.3"))
    server.faults["GET /v1/batches/batch_1"] = [401]
    assert execute(store, server, run_id, book=HALF).state == "failed"
    assert states(store, run_id) == {"sent": 4, "pending": 8}
    live = queue(store, recipe(), dataset_id=dataset_of(store, run_id))
    set_run(store, live, mode="live")
    assert batch_runner.has_work(store, live)
    assert execute(store, server, live, book=HALF).state == "running"
    assert states(store, live) == {"done": 4, "pending": 8} and server.count(POST) == 1
    assert not batch_runner.has_work(store, live)


def test_rows_of_a_killed_live_run_are_handed_in_too(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    with store.session() as session:
        first = select(func.min(Row.id)).scalar_subquery()
        session.execute(update(Row).where(Row.id == first).values(state="sent", claimed_by="a dead executor"))
    assert execute(store, server, run_id).done == 12


# --- the client -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"custom_id": "a", "response": {"status_code": 401, "body": {"error": {"message": "x"}}}}', Refused),
        (b'{"custom_id": "a", "response": {"status_code": 422, "body": {"error": {"message": "x"}}}}', BadRequest),
        (b'{"custom_id": "a", "response": {"status_code": 429, "body": {}}}', RateLimited),
        (b'{"custom_id": "a", "response": {"status_code": 502, "body": "<html>"}}', Unavailable),
        (b'{"custom_id": "a", "response": null, "error": {"code": "batch_expired", "message": "x"}}', Unavailable),
        (b'{"custom_id": "a", "response": null, "error": {"code": "content_filter"}}', BadRequest),
        (b'{"custom_id": "a"}', Unavailable),
        (b'{"custom_id": "a", "response": {"status_code": 0, "body": ""}}', Unavailable),
    ],
)
def test_an_error_in_a_line_is_the_one_that_a_live_request_would_have_raised(
    line: bytes, kind: type[FabulaError]
) -> None:
    answer = read_answer(Provider("openai", "openai", "OpenAI", "https://x/v1", KEY), line)
    assert answer is not None and isinstance(answer.error, kind) and answer.completion is None


@pytest.mark.parametrize(
    ("error", "billed"),
    [
        ({"code": "batch_expired", "message": "This request could not be executed in time."}, False),
        ({"code": "batch_cancelled", "message": "The batch was cancelled."}, False),
        ({"code": "rate_limit_exceeded", "message": "Slow down."}, False),
        ({"code": "insufficient_quota", "message": "No credit."}, False),
        ({"code": "invalid_request_error", "message": "No."}, False),
        ({"code": "model_not_found", "message": "No such model."}, False),
        ({"code": "request_timeout", "message": "The call to the model timed out."}, True),
        ({"code": "server_error", "message": "Sorry."}, True),
        ({"code": "content_filter", "message": "Flagged."}, True),
        ({"code": "unheard_of", "message": "Something went wrong."}, True),
        ({"code": ["odd"], "message": "Something went wrong."}, True),
        ("broken", True),
        (None, True),
    ],
)
def test_a_line_without_a_response_is_free_only_if_its_code_proves_it(error: object, billed: bool) -> None:
    line = json.dumps({"custom_id": "a", "response": None, "error": error}).encode()
    answer = read_answer(Provider("openai", "openai", "OpenAI", "https://x/v1", KEY), line)
    assert answer is not None and answer.error is not None and answer.error.may_be_billed is billed


@pytest.mark.parametrize("line", [b"", b"\n", b"null", b"[]", b"\xff\xfe", b'{"custom_id": null}', b'{"response": {}}'])
def test_a_line_that_is_none_is_as_if_it_had_not_come(line: bytes) -> None:
    assert read_answer(Provider("openai", "openai", "OpenAI", "https://x/v1", KEY), line) is None


@pytest.mark.parametrize("body", ["null", "[]", "7", "{}", '{"model": "m", "choices": [7]}', '{"choices": null}'])
def test_an_answer_of_another_shape_is_an_empty_one(body: str) -> None:
    line = '{"custom_id": "a", "response": {"status_code": 200, "body": %s}}' % body  # noqa: UP031  # braces
    answer = read_answer(Provider("openai", "openai", "OpenAI", "https://x/v1", KEY), line.encode())
    assert answer is not None and answer.completion is not None
    assert "".join(choice.text for choice in answer.completion.texts) == ""


@pytest.mark.parametrize(
    ("kind", "url"),
    [("openai", "/v1/chat/completions"), ("compatible", "/v1/chat/completions"), ("azure", "/chat/completions")],
)
def test_the_path_in_a_line_is_the_providers(kind: Any, url: str) -> None:
    client = Client(Provider("x", kind, "X", "https://x/v1", KEY))
    assert f'"url":"{url}"'.encode() in client.batch_line("a", CompletionRequest("m", "p"))


@pytest.mark.parametrize("kind", ["openai", "azure", "engine"])
def test_known_providers_need_no_request(kind: Any) -> None:
    assert client.supports_batch(Provider("x", kind, "X", "http://127.0.0.1:9/v1", KEY))


def test_another_endpoint_is_asked_once(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_batch_support", {})
    provider = server.provider("compatible", "other")
    assert [client.supports_batch(provider), client.supports_batch(provider)] == [True, True]
    assert server.requests == ["GET /v1/batches"]


def test_an_endpoint_that_has_no_batches_or_does_not_answer_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_batch_support", {})
    with FaultServer(error(404, "Not found")) as other:
        assert not client.supports_batch(other.provider())
    assert not client.supports_batch(Provider("x", "compatible", "X", "http://127.0.0.1:9/v1", KEY))


def test_batches_of_a_run_are_listed_newest_first(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    execute(store, server, run_id, replace(QUICK, max_requests=4))
    found = batch_store.batches_of_run(store, run_id)
    assert [b.remote_id for b in found] == ["batch_3", "batch_2", "batch_1"] and all(b.over for b in found)
    assert batch_store.batches_of_run(store, "no such run") == ()


def test_the_ledger_says_where_a_batch_is(store: Store, server: BatchServer) -> None:
    run_id = queue(store, recipe())
    seen: list[tuple[str, str | None]] = []

    def on(what: str) -> None:
        with store.reading() as session:
            seen.extend((state, status) for state, status in session.execute(select(Batch.state, Batch.remote_status)))

    server.on = on
    execute(store, server, run_id)
    assert list(dict.fromkeys(seen)) == [
        ("preparing", None),
        ("submitting", None),
        ("waiting", "validating"),
        ("waiting", "in_progress"),
        ("waiting", "finalizing"),
        ("collecting", "completed"),
    ]


def test_rows_that_were_refused_for_a_parameter_go_again_without_it(store: Store, server: BatchServer) -> None:
    refusal = (400, "Unsupported value: 'temperature' does not support 0.5 with this model.")
    answer = lambda body: refusal if "temperature" in body else "stop"  # noqa: E731
    server.answers |= {f"n{i:04}": answer for i in range(6)}
    run_id = queue(store, recipe(6))
    done = execute(store, server, run_id)
    assert (done.state, done.done, done.failed) == ("done", 6, 0)
    assert [["temperature" in line["body"] for line in server.lines(n)] for n in range(2)] == [[True] * 6, [False] * 6]
