"""Stored chat completions: they replace a training file that is lost, and are stored next to one that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.migrate import completions, tunes, zip_file
from core.migrate.account_views import AccountView
from core.migrate.workspace import Workspace
from core.settings import Settings
from tests.support.openai_account import Fault, OpenAIAccount

Move = Callable[..., AccountView]


def test_they_become_the_data_set_of_a_model_whose_file_is_lost(
    store: Store, account: OpenAIAccount, move: Move, tmp_path: Path
) -> None:
    lost, kept = (str(account.add_tune(number)["fine_tuned_model"]) for number in (1, 2))
    account.delete_file("file-train1")
    for number in range(130):  # more than a page
        account.complete(lost, f"Question {number}", ("refund", "order")[number % 2])
    account.complete(lost, "Call a tool", None)
    account.complete(kept, "Hello", "other")
    account.complete("gpt-4o-mini-2024-07-18", "Not a tuned model", "x")
    account.messages["chatcmpl-3"] = []  # deleted meanwhile
    shown = move("archive")
    by_model = {one.model: one for one in tunes.list_tunes(store, shown.id)}
    assert [by_model[one].state for one in (lost, kept)] == ["data", "data"]
    assert "stored chat completions" in (by_model[lost].reason or "")
    dataset = datasets.summary(store, by_model[lost].dataset_id or "")
    assert dataset.done == 129
    assert datasets.system_message(store, dataset.id) == "Name the intent."
    assert datasets.summary(store, by_model[kept].dataset_id or "").done == 4
    stored = Workspace(Settings.from_env(), shown.id).file(completions.file_id(kept))
    row = json.loads(stored.read_text())
    assert (row["temperature"], row["seed"], len(row["messages"])) == (0.2, 7, 3)
    assert not account.count("Not a tuned model")

    account.requests.clear()
    move("archive")
    assert account.count("/messages") == 0
    zip_file.write(store, LOCAL, Settings.from_env(), shown.id, tmp_path / "a.zip")


def test_a_key_that_may_not_read_them_is_no_error(account: OpenAIAccount, move: Move) -> None:
    account.complete(str(account.add_tune(1)["fine_tuned_model"]), "Hello", "other")
    account.when("/chat/completions", Fault(403), Fault(403))
    assert move("archive").state == "archived"
