"""The page Move: connect an account, see its tuned models, archive them, and what a visitor sees when that fails."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import ModelShadow, ShadowPair, TrainingJob, utcnow
from core.errors import FabulaError, Unavailable
from core.migrate import account_views, accounts, mover, sources, tunes
from core.migrate.sources import AccountForm
from core.providers import ModelInfo, Registry, saved
from core.settings import Settings
from pages.ui import cache, visible
from pages.ui.cache import OfferedModels
from pages.ui.settings import aliases
from tests.support.alias_api import AliasApi
from tests.support.app_pages import again, click, field, opened, trouble, visit, words
from tests.support.azure_account import AzureAccount
from tests.support.ledger_rows import put_job
from tests.support.openai_account import KEY, Content, Fault, OpenAIAccount, training_lines


@pytest.fixture
def account() -> Iterator[OpenAIAccount]:
    """An account with three tuned models, one of which has lost its training file."""
    with OpenAIAccount() as server:
        for number in range(1, 4):
            server.add_tune(number)
        server.delete_file("file-train2")
        yield server


def _tunes(store: Store) -> list[tunes.Tune]:
    return tunes.list_tunes(store, account_views.list_accounts(store)[0].id)


def _keys(at: AppTest) -> list[str | None]:
    return [one.key for one in at.button]


def _work(store: Store) -> None:
    """Do what the worker would do now."""
    for archive_id in accounts.unfinished(store):
        try:
            mover.carry_out(store, Registry([]), archive_id, threading.Event())
        except FabulaError as error:
            accounts.give_up(store, archive_id, error)


def _connected(account: OpenAIAccount, locale: str = "en-US") -> AppTest:
    at = visit("move", locale, move_key=KEY, move_url=account.url)
    return click(at, "move_list")


def test_from_the_key_to_the_archive(store: Store, account: OpenAIAccount) -> None:
    at = _connected(account)
    assert field(at, "move_stop") is not None
    assert not at.session_state["move_key"]
    _work(store)
    at = again(at)
    table = at.dataframe[0].value
    assert list(table["state"]) == ["Found"] * 3
    assert "admin key" in words(at)

    click(at, "move_archive")
    _work(store)
    at = again(at)
    assert sorted(at.dataframe[0].value["state"]) == ["Archived", "Data set ready", "Data set ready"]
    assert "1 file could not be archived" in at.expander[0].label
    assert "file-train2" in words(at)
    assert field(at, "move_archive").label == "Archive what is new"


def test_a_key_is_saved_if_the_person_wants_that(store: Store, account: OpenAIAccount) -> None:
    typed = {"move_key": KEY, "move_url": account.url, "move_keep": True, "move_provider": "", "move_adding": True}
    for _time in range(2):  # the second time, the provider is there already
        at = visit("move", "en-US", **typed)
        click(at, "move_list")
        (shown,) = account_views.list_accounts(store)
        (added,) = saved.list_saved(store)
        assert (shown.provider, added.has_key, shown.key_missing) == (added.id, True, False)
    assert not at.session_state["move_key"]


def test_an_archived_model_leads_to_training_on_its_data_set(store: Store, account: OpenAIAccount) -> None:
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user", "assistant")]
    account.contents["file-train3"] = Content(f"{json.dumps({'messages': turns})}\n".encode())
    at = _connected(account)
    _work(store)
    click(again(at), "move_archive")
    _work(store)
    at = again(at)
    chosen = field(at, "move_next_model")
    assert [one.partition(" ")[0] for one in chosen.options] == ["intents"] * 3 and "Data set ready" in words(at)
    lost = next(
        one for one in tunes.list_tunes(store, account_views.list_accounts(store)[0].id) if one.dataset_id is None
    )
    chosen.set_value(lost.id).run()
    assert "move_retrain" not in [one.key for one in at.button] and "file-train2" in words(at)
    field(at, "move_next_model").set_value("ftjob-3").run()
    assert "Its rows are conversations." in words(at) and "move_prompts" not in _keys(at)
    ready = next(
        one for one in tunes.list_tunes(store, account_views.list_accounts(store)[0].id) if one.id == "ftjob-1"
    )
    field(at, "move_next_model").set_value(ready.id).run()
    assert "Its rows are conversations." not in words(at) and "move_prompts" in _keys(at)
    click(at, "move_retrain")
    assert field(at, "training_dataset").value == ready.dataset_id
    assert not at.session_state[f"training_version_{ready.dataset_id}"]  # no validation rows: the job keeps some


def test_a_model_that_was_trained_again_is_compared_with_the_old_one(store: Store, account: OpenAIAccount) -> None:
    at = _connected(account)
    _work(store)
    click(again(at), "move_archive")
    _work(store)
    ready = next(one for one in tunes.list_tunes(store, account_views.list_accounts(store)[0].id) if one.dataset_id)
    made = "ft:writer:fabula:x:1"
    job_id = put_job(store, status="succeeded", dataset_id=ready.dataset_id, fine_tuned_model=made)
    at = again(at)
    field(at, "move_next_model").set_value(ready.id).run()
    assert "no key for the old model" in words(at)
    click(at, "move_compare")
    assert at.session_state["training_tab"] == "evaluation" and job_id in str(at.query_params)


def test_a_training_on_its_data_is_followed_and_its_end_shown(store: Store, account: OpenAIAccount) -> None:
    at = _connected(account)
    _work(store)
    click(again(at), "move_archive")
    _work(store)
    ready = next(one for one in _tunes(store) if one.dataset_id)
    job_id = put_job(store, status="running", name="again", dataset_id=ready.dataset_id)
    at = again(at)
    field(at, "move_next_model").set_value(ready.id).run()
    assert "again · training" in words(at) and "move_follow" in _keys(at) and "move_compare" not in _keys(at)
    with store.session() as session:
        job = session.get_one(TrainingJob, job_id)
        job.status, job.fine_tuned_model, job.finished_at = "succeeded", "ft:writer:fabula:x:1", utcnow()
    at = again(at)
    assert "again · training" not in words(at) and "move_compare" in _keys(at) and "Retrained" in words(at)
    click(at, "move_retrain")  # the chosen model is kept when the visitor comes back
    assert field(again(opened(at, "move")), "move_next_model").value == ready.id


def test_programs_are_switched_over_and_back(
    store: Store, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = AliasApi()
    monkeypatch.setenv("FABULA_ENGINE_URL", "https://engine.example")
    monkeypatch.setattr(cache, "quick", lambda _id: engine)
    models = (ModelInfo("tuned-here", "engine", None, "both", None), ModelInfo("gpt-5", "openai", None, "chat", None))
    offered = OfferedModels(models, {})
    monkeypatch.setattr(visible, "models", lambda: offered)
    at = _connected(account)
    _work(store)
    click(again(at), "move_archive")
    _work(store)
    at = again(at)
    assert "move_switch_back" not in _keys(at)
    code = next(one.value for one in at.code if "ChatOpenAI" in one.value)
    assert 'base_url="https://engine.example/v1"' in code
    assert at.button(key="move_switch_on").disabled  # nothing was trained on its data: the visitor has to choose
    field(at, f"move_switch_to_{field(at, 'move_next_model').value}").set_value("tuned-here").run()
    click(at, "move_switch_on")
    assert not trouble(at) and list(engine.models.values()) == ["tuned-here"]
    (old,) = engine.models
    at = again(at)
    field(at, "move_next_model").set_value(next(one.id for one in _tunes(store) if one.model == old)).run()
    assert "Switched" in list(at.dataframe[0].value["state"]) and at.button(key="move_switch_on").disabled
    assert f"`{old}` → `tuned-here`" in words(at) and "Switched just now." in words(at)
    assert [one.value for one in at.metric if one.label == "Switched"] == ["1 / 3"]
    engine.models[old] = "elsewhere"  # someone else, at the same moment
    click(at, "move_switch_back")
    assert "Someone else" in trouble(at) and engine.models == {old: "elsewhere"}
    click(again(at), "move_switch_back")
    assert not trouble(at) and engine.models == {}
    assert "Switched" not in list(again(at).dataframe[0].value["state"])


def test_a_comparison_on_calls_shows_its_counts_and_what_differs(
    store: Store, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = AliasApi()
    monkeypatch.setenv("FABULA_ENGINE_URL", "https://engine.example")
    monkeypatch.setattr(cache, "quick", lambda _id: engine)
    at = _connected(account)
    _work(store)
    click(again(at), "move_archive")
    _work(store)
    at = again(at)
    assert "Add the account under Settings" in words(at)  # its key was typed
    chosen = field(at, "move_next_model").value
    old = next(one.model for one in _tunes(store) if one.id == chosen)
    row = ModelShadow(
        id="s1", alias=old, model="new", provider="openai", share=30, threshold=0.9, min_calls=50, fallback=True,
        relayed=7, failed=1, dropped=0, lost=2, compared=4, agreed=3.0, created_by="local",
    )  # fmt: skip
    pair = ShadowPair(
        shadow_id="s1", remote_id="c1", created_at=utcnow(), prompt='[{"role": "user", "content": "Where is it?"}]',
        old="order", new="refund", old_s=1.0, new_s=0.5, score=0.0, error="",
    )  # fmt: skip
    with store.session() as session:
        session.add(row)
        session.flush()
        session.add(pair)
    at = again(at)
    shown = words(at)
    assert "on 30 % of the calls" in shown and "Where is it?" in shown and "1 call failed" in shown
    assert "1 call stored · kept for 30 days" in shown and "2 calls lost: their costs are unknown" in shown
    assert {one.label: one.value for one in at.metric}["Agreement"] == "75.0 %"
    assert field(at, "move_shadow_flip") is not None and field(at, "move_shadow_share").value == 30
    field(at, "move_shadow_share").set_value(60).run()
    click(at, "move_shadow_save")
    with store.reading() as session:
        assert session.get_one(ModelShadow, "s1").share == 60
    with store.session() as session:
        session.get_one(ModelShadow, "s1").state = "stopping"

    def down(_id: str) -> Any:
        raise Unavailable("The engine does not respond", "")

    monkeypatch.setattr(cache, "quick", down)
    aliases.listed.clear()
    at = again(at)
    assert "may still relay" in words(at) and field(at, "move_shadow_stop") is not None


def test_a_key_that_may_not_read_is_said_and_the_page_goes_on(store: Store, account: OpenAIAccount) -> None:
    account.when("/models", Fault(401))
    at = _connected(account)
    _work(store)
    at = again(at)
    assert "401" in trouble(at)
    assert field(at, "move_refresh") is not None


def test_after_a_restart_the_key_is_asked_for_again(
    store: Store, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = _connected(account)
    _work(store)
    at = click(again(at), "move_archive")
    monkeypatch.setattr(sources, "_keys", {})
    at = again(at)
    assert field(at, "move_enter_key") is not None
    at = click(at, "move_enter_key")
    assert field(at, "move_key") is not None


def test_in_chinese(store: Store, account: OpenAIAccount) -> None:
    at = _connected(account, "zh-CN")
    _work(store)
    assert list(again(at).dataframe[0].value["state"]) == ["发现"] * 3


def test_the_old_model_writes_a_new_data_set_with_what_is_known(
    store: Store, account: OpenAIAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.add_file("file-val", training_lines(9, 2))
    tune = account.add_tune(5, training_file="file-gone", validation_file="file-val")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", account.url)
    registry = Registry.from_settings(Settings.from_env(), os.environ)
    form = AccountForm(registry.provider("compatible"), stored=True)
    archive_id = accounts.connect(store, LOCAL, form)
    accounts.start(store, LOCAL, archive_id, "archive")
    mover.carry_out(store, registry, archive_id, threading.Event())
    at = visit("move", move_next_model="ftjob-5")
    assert "file-gone" in words(at)
    click(at, "move_distil")
    assert field(at, "dataset_prompts_model").value == f"compatible/{tune['fine_tuned_model']}"
    assert field(at, "dataset_prompts_system").value == "Name the intent."


def test_downloaded_files_are_a_source(store: Store) -> None:
    at = visit("move", move_source="files")
    at.file_uploader(key="move_files").upload("train.jsonl", training_lines(1, 4)).run()
    click(at, "move_read")
    _work(store)
    click(again(at), "move_archive")
    _work(store)
    at = again(at)
    assert list(at.dataframe[0].value["state"]) == ["Data set ready"]
    assert "A folder has no usage." in words(at)


def test_an_azure_resource_is_read_with_its_address_and_key(store: Store) -> None:
    with AzureAccount() as azure:
        azure.add_tune(1)
        at = visit("move", move_company="azure", move_key=KEY)
        click(at, "move_list")
        assert "no address" in trouble(at)
        at = visit("move", move_company="azure", move_key=KEY, move_resource=azure.url.removesuffix("/openai/v1"))
        click(at, "move_list")
        _work(store)
        assert str(again(at).dataframe[0].value["dark"][0]) == "2027-10-14"
