"""Candidates on the page Move: the table, several started with one confirmation, and one that a budget refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.db.store import Store
from core.finetuning import job_views
from core.migrate import accounts, mover
from core.pricing import budget
from core.providers import Registry
from pages.ui.training import candidate_table
from tests.support.app_pages import again, click, field, trouble, visit, words
from tests.support.openai_account import KEY, OpenAIAccount

_TOGETHER = ("together/Qwen/Qwen3-8B", "together/meta-llama/Llama-3.3-70B-Instruct-Reference")
_AZURE = "azure/gpt-4.1-nano-2025-04-14"


@pytest.fixture
def account() -> Iterator[OpenAIAccount]:
    """An account with one tuned model, with enough rows for Azure."""
    with OpenAIAccount() as server:
        server.add_tune(1, rows=12)
        yield server


@pytest.fixture
def opened(store: Store, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page with the candidates of the archived model, with accounts at Together and Azure."""
    for name in ("TOGETHER", "AZURE_OPENAI"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
    monkeypatch.setenv("TOGETHER_BASE_URL", account.url)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", account.url)
    at = click(visit("move", move_provider="", move_key=KEY, move_url=account.url), "move_list")
    _work(store)
    click(again(at), "move_archive")
    _work(store)
    return click(again(at), "move_candidates")


def _work(store: Store) -> None:
    """Do what the worker would do now."""
    for archive_id in accounts.unfinished(store):
        mover.carry_out(store, Registry([]), archive_id, threading.Event())


def _names(store: Store) -> list[str]:
    return sorted(f"{job.provider}/{job.base_model}" for job in job_views.list_jobs(store) if job.remote_id is None)


def test_several_are_started_with_one_confirmation_and_only_once(store: Store, opened: AppTest) -> None:
    table = next(one.value for one in opened.dataframe if "calls" in one.value)
    rows = {f"{row.provider}/{row.model}": row for row in table.itertuples()}
    azure = rows["Azure OpenAI/gpt-4.1-nano-2025-04-14"]
    assert (azure.price, azure.time, str(azure.last)) == ("unknown", "unknown", "2027-10-14")
    assert "an hour" in rows["Together/Qwen3-8B"].calls and rows["Together/Qwen3-8B"].price.startswith("$")
    assert rows["Engine/gemma-3-270m" if "Engine/gemma-3-270m" in rows else "The engine/gemma-3-270m"].note
    assert field(opened, "candidates_train").disabled

    opened.session_state[candidate_table.CHOSEN] = list(_TOGETHER)
    opened.run()
    assert field(opened, "candidates_train").label == "Train 2 models"
    assert any("epoch is one pass" in why for one in opened.dataframe if "why" in one.value for why in one.value["why"])
    click(opened, "candidates_train")
    assert "Sum: $" in words(opened)
    assert field(opened, "candidates_submit").label.replace("\\", "").startswith("Start 2 jobs for $")
    click(opened, "candidates_submit")
    assert _names(store) == sorted(_TOGETHER)
    assert "Started: " in words(opened)
    click(opened, "candidates_open")
    assert len(opened.session_state["training_open"]) == 2


def test_one_that_a_budget_refuses_is_named_and_the_others_start(store: Store, opened: AppTest) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(5))
    opened.session_state[candidate_table.CHOSEN] = [*_TOGETHER, _AZURE]
    click(opened.run(), "candidates_train")
    assert "1 price is unknown" in words(opened)
    click(opened, "candidates_submit")
    assert _names(store) == sorted(_TOGETHER)
    assert "gpt-4.1-nano-2025-04-14 was not started" in trouble(opened) and "price" in trouble(opened)
    assert "not affected" in words(opened)


def test_a_sum_over_the_budget_is_blocked_before_anything_starts(store: Store, opened: AppTest) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.000001"))
    opened.session_state[candidate_table.CHOSEN] = list(_TOGETHER)
    click(opened.run(), "candidates_train")
    assert field(opened, "candidates_submit").disabled and "exceed your budget" in trouble(opened)
    assert _names(store) == []
