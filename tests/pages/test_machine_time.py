"""The engine's work costs hours × the price of a machine hour on every page, and is not priced without one."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row, Run, Spend, Story, Tour, Utc, utcnow
from core.evaluation import evaluations
from core.finetuning import job_views
from core.pricing import budget, custom_prices, machine_time, spend, spend_history
from core.settings import Settings
from core.stories import exports, library
from tests.support.app_pages import visit, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_job, put_labelled_rows, run_evaluation
from tests.support.stores import fresh

_RESULTS = (
    "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"
    "1,625,1,0.88,0.0,0.75\n2,1258,2,0.81,0.0,0.78\n"
)
_RECIPE = Recipe("heroes", (Column("hero", ("唐", "宋")),), "写{hero}的故事", model="writer")
_START = datetime(2026, 11, 20, 8, tzinfo=UTC)
_PAGES = Path(__file__).parents[2] / "pages"


@pytest.fixture(params=[None, ("0.36", "USD"), ("0", "USD")], ids=["no price", "$0.36 an hour", "free"])
def amount(request: pytest.FixtureRequest, store: Store) -> str:
    """The cost of 100 seconds of the engine as shown on pages: without a cost per hour, with one, and free."""
    if request.param is None:
        return "not priced"
    custom_prices.set_machine_hour(store, LOCAL, *request.param)
    return "free" if request.param[0] == "0" else "$0.0100"


def _trained(store: Store, **values: object) -> str:
    return put_job(store, status="succeeded", training_s=100.0, cost_usd=Decimal(0), results_csv=_RESULTS, **values)


def _call(store: Store, reference: str, page: spend.Page, sent_at: datetime) -> None:
    with store.session() as session:
        line = spend.record(
            session, LOCAL, page, provider="engine", model="writer", reference=reference, prompt_tokens=10,
            completion_tokens=5, cost_usd=Decimal(0),
        )  # fmt: skip
        session.get_one(Spend, line).sent_at = sent_at


def _run(store: Store) -> str:
    """A finished run of the engine: two requests 60 s apart, the last one answered after 40 s."""
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    start = utcnow() - timedelta(minutes=10)
    with store.session() as session:
        for row in session.query(Row):
            row.state, row.text = "done", "从前"
        session.add(Run(
            id="run-1", dataset_id=dataset_id, state="done", provider="engine", model="writer", created_by="local",
            created_at=start, started_at=start, finished_at=start + timedelta(seconds=100),
        ))  # fmt: skip
    for seconds in (0, 60):
        _call(store, "run-1", "dataset", start + timedelta(seconds=seconds))
    return "run-1"


def _story(store: Store) -> None:
    with store.session() as session:
        session.add(Story(
            id="s1", actor="local", provider="engine", model="writer", parameters={}, prompt="p", text="一位英雄",
            finish_reason="stop", cost_usd=Decimal(0), duration_s=100.0,
        ))  # fmt: skip


# --- pages ----------------------------------------------------------------------------------------------------------


def test_a_job_page_has_the_machine_time(server: FaultServer, store: Store, amount: str) -> None:
    _trained(store)
    assert f"cost: {amount}" in words(visit("training", training_part="jobs"))


def test_a_comparison_has_the_machine_time(server: FaultServer, store: Store, amount: str) -> None:
    ids = [_trained(store, name=name, hyperparameters={"n_epochs": n}) for n, name in enumerate(("a", "b"), 1)]
    at = visit("home")
    at.query_params["jobs"] = ",".join(ids)
    at.switch_page(str(_PAGES / "training.py")).run()
    costs = [table.value.loc[name] for table in at.table for name in table.value.index if "Cost" in str(name)]
    if amount == "not priced":
        assert not costs  # a figure that no job has gets no row
    else:
        shown = {"free": "$0"}.get(amount, amount)
        assert {one.replace("\\", "") for one in costs[0]} == {shown}


def test_a_story_line_has_the_machine_time(server: FaultServer, store: Store, amount: str) -> None:
    _story(store)
    assert f" · {amount}" in words(visit("story", story_part="shelf"))


def test_the_tour_has_the_machine_time(server: FaultServer, store: Store, amount: str) -> None:
    job_id = _trained(store, fine_tuned_model="ft:writer:fabula:tour:1")
    with store.session() as session:
        session.add(Tour(
            id="tour-1", state="done", step="story", job_id=job_id, created_by="local", finished_at=utcnow(),
        ))  # fmt: skip
    assert f"**{amount}** here" in words(visit("home"))


def test_the_run_panel_has_the_machine_time(server: FaultServer, store: Store, amount: str) -> None:
    _run(store)
    shown = words(visit("dataset", dataset_part="rows"))
    said = {"not priced": "machine time, not priced", "free": "free on this machine"}
    assert said.get(amount, "machine time: $0.0100") in shown


def test_an_evaluation_has_the_machine_time(server: FaultServer, store: Store, amount: str) -> None:
    dataset_id = put_labelled_rows(store, held_out=12)
    job_id = _trained(store, fine_tuned_model="ft:writer:fabula:x:1", dataset_id=dataset_id)
    tuned, _base = evaluations.start_pair(store, LOCAL, job_views.get(store, job_id), limit=12)
    run_evaluation(store, tuned, lambda expected: expected)
    shown = words(visit("training", training_tab="evaluation"))
    # 12 answers at the same time take a few hundredths of a second, or seconds on a busy machine
    cost = r"(under )?\$0\.00\d\d" if amount == "$0.0100" else re.escape(amount)
    assert re.search(f"cost: {cost}", shown)


# --- spent, and files -------------------------------------------------------------------------------------------------


def test_spent_counts_the_machine_time_of_runs_and_stories(server: FaultServer, store: Store, amount: str) -> None:
    _run(store)
    _story(store)
    _call(store, "s1", "story", utcnow())
    at = visit("cost", cost_part="spent")
    assert {metric.label: metric.value for metric in at.metric}["Calls with an unknown cost"] == (
        "3" if amount == "not priced" else "0"
    )
    total = {"free": "$0"}.get(amount, amount.replace("$0.0100", "$0.0200"))
    assert f"Spent this month: **{total}**" in words(at)
    assert ("has no price yet" in words(at)) is (amount == "not priced")
    cost = {"not priced": None, "free": 0.0}.get(amount, 0.01)
    for table in (at.dataframe[0].value, at.dataframe[1].value):
        assert [None if pd.isna(spent) else spent for spent in table["spent"]] == [cost, cost]
    assert set(at.dataframe[1].value["took"]) == {"2 min"}
    home = visit("home")
    card = {metric.label: metric.value.replace("\\", "") for metric in home.metric}
    assert card["Spent this month"] == total
    assert ("3 calls, all of them machine time" in words(home)) is (amount == "not priced")


def test_a_budget_counts_bills_and_the_machine_time_is_told_apart(server: FaultServer, store: Store) -> None:
    custom_prices.set_machine_hour(store, LOCAL, "0.36")
    _run(store)
    with store.session() as session:
        spend.record(
            session, LOCAL, "story", provider="openai", model="m", reference="x", prompt_tokens=1, completion_tokens=1,
            cost_usd=Decimal(2),
        )  # fmt: skip
    budget.set_budget(store, LOCAL, "month", Decimal(8))
    shown = words(visit("cost", cost_part="spent"))
    assert "**$2.00** of **$8.00** spent this month, $6.00 left" in shown
    assert "Engine machine time: $0.0100. Budgets don't include it." in shown


def test_the_csv_of_calls_has_each_calls_share_of_the_machine_time(store: Store, amount: str) -> None:
    _run(store)
    since = utcnow() - timedelta(days=1)
    table = csv.DictReader(
        io.StringIO(spend_history.export(store, since, utcnow() + timedelta(days=1)).decode("utf-8-sig"))
    )
    each = [row["cost_usd"] for row in table]
    assert each == {"not priced": ["", ""], "free": ["0", "0"]}.get(amount, ["0.005", "0.005"])


def test_the_csv_and_jsonl_of_stories_have_the_machine_time(store: Store, amount: str) -> None:
    _story(store)
    kept = library.recent(store)
    (row,) = csv.DictReader(io.StringIO(exports.as_csv(kept).removeprefix("\ufeff")))
    cost = {"not priced": None, "free": Decimal(0)}.get(amount, Decimal("0.01"))
    assert (Decimal(row["cost_usd"]) if row["cost_usd"] else None) == cost
    (line,) = exports.jsonl(kept)
    assert ('"cost_usd": null' in line) is (amount == "not priced")


_SENT: list[tuple[list[float], float, float | None]] = [
    ([], 100, None),  # no request was sent
    ([0], 40, 40.0),
    ([0, 60], 100, 100.0),
    ([60, 0], 100, 100.0),  # written down in another order
    ([0, 0, 0], 30, 30.0),  # at the same time: the machine is busy once
    ([0, 60], 30, 60.0),  # the end was written down by another clock
    ([0, 3_600], 3_640, 340.0),  # an hour's pause counts as one long request, 5 minutes
    ([0, 3_600, 7_200], 99_999, 900.0),
    ([0, 0.25, 0.5], 1, 1.0),
]


def _requests(store: Store) -> None:
    """One run per line of `_SENT`, with its requests."""
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    for number, (sent, ended, _seconds) in enumerate(_SENT):
        run = f"run-{number}"
        with store.session() as session:
            session.add(Run(
                id=run, dataset_id=dataset_id, state="done", provider="engine", model="writer", created_by="local",
                finished_at=_START + timedelta(seconds=ended),
            ))  # fmt: skip
        for each in sent:
            _call(store, run, "dataset", _START + timedelta(seconds=each))


def _expected() -> dict[str, Any]:
    return {f"run-{number}": pytest.approx(seconds, abs=0.002) for number, (_, _, seconds) in enumerate(_SENT)}


def test_the_time_of_requests_leaves_pauses_out(store: Store) -> None:
    _requests(store)
    assert machine_time.engine_seconds(store, list(_expected())) == _expected()
    for run, seconds in _expected().items():
        assert machine_time.engine_seconds(store, [run]) == {run: seconds}


def test_the_time_of_requests_is_the_same_on_postgresql(on_postgres: Settings) -> None:
    ledger = fresh(on_postgres)
    _requests(ledger)
    assert machine_time.engine_seconds(ledger, list(_expected())) == _expected()
    ledger.close()


def test_the_time_of_a_run_is_added_up_by_the_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a run of a thousand requests takes as many rows as reading a run of two."""
    run = _run(store)
    with store.session() as session:
        session.add_all(
            Spend(
                actor="local", page="dataset", provider="engine", model="writer", reference=run,
                sent_at=_START + timedelta(seconds=number),
            )
            for number in range(1_000)
        )  # fmt: skip
    read: list[object] = []
    real = Utc.process_result_value
    monkeypatch.setattr(Utc, "process_result_value", lambda *given: (read.append(1), real(*given))[1])
    assert machine_time.engine_seconds(store, [run])[run]
    assert len(read) < 10


def test_a_run_in_progress_shows_its_machine_time(server: FaultServer, store: Store) -> None:
    custom_prices.set_machine_hour(store, LOCAL, "0.36")
    run = _run(store)
    with store.session() as session:
        going_on = session.get_one(Run, run)
        going_on.state, going_on.finished_at = "running", None
        dataset_id = going_on.dataset_id
        session.query(Spend).update({"sent_at": utcnow() - timedelta(seconds=100)})
    assert "machine time: $0.01" in words(visit("dataset", dataset_part="rows", dataset_open=dataset_id))


def test_work_that_is_not_in_the_ledger_is_unknown_not_free(store: Store) -> None:
    custom_prices.set_machine_hour(store, LOCAL, "0.36")
    assert machine_time.engine_seconds(store, ["gone"]) == {}
    assert machine_time.usd_per_call(store, ["gone"]) == {"gone": None}
