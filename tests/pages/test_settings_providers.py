"""The providers on the settings page: add, test, edit, remove; local servers with one click; the key is never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets, presets
from core.db.store import Store
from core.db.tables import Story
from core.generation import runs
from core.jobs import local_servers
from core.providers import presets as presets_of_providers
from core.providers import saved
from core.providers.presets import ProviderPreset, find
from core.secret_key import SecretKey
from core.settings import Settings
from pages.ui import cache
from pages.ui.cost import price_choice
from tests.support import fault_server
from tests.support.app_pages import click, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

_CANARY = "sk-canary-page-0123456789"


@pytest.fixture
def endpoint() -> Iterator[FaultServer]:
    """A server that can be added."""
    with FaultServer() as running:
        yield running


@pytest.fixture
def settings_page(store: Store, server: FaultServer) -> AppTest:
    """The settings page of a studio whose engine runs."""
    return visit("settings")


def _add(at: AppTest, url: str, key: str = _CANARY, name: str = "My server") -> AppTest:
    click(at, "settings_provider_add")
    at.selectbox(key="settings_provider_preset").set_value("compatible").run()
    at.text_input(key="settings_provider_name").set_value(name)
    at.text_input(key="settings_provider_url").set_value(url)
    at.text_input(key="settings_provider_key").set_value(key)
    return click(at, "settings_provider_save")


def _tested(at: AppTest) -> AppTest:
    """The page once no test is running."""

    def done() -> AppTest | None:
        at.run()
        assert not at.exception
        return None if at.progress or any("Testing" in str(bar) for bar in at.progress) else at

    return until(done, "the end of the test")


def test_a_provider_is_added_tested_and_usable_at_once(settings_page: AppTest, endpoint: FaultServer) -> None:
    at = _tested(_add(settings_page, endpoint.url))
    shown = words(at)
    assert "My server" in shown and endpoint.url in shown and "Ready: 1 model" in shown
    assert "with a key" in shown and "Streaming" in shown
    assert [(info.provider, info.id) for info in cache.models().found] == [
        ("engine", "writer"),
        ("compatible", "writer"),
    ]
    for page in ("story", "dataset"):
        options = [option for box in visit(page).selectbox for option in box.options]
        assert any("compatible" in option or "My server" in option for option in options), page


def test_the_key_is_nowhere_on_the_page(settings_page: AppTest, endpoint: FaultServer, store: Store) -> None:
    endpoint.enqueue(fault_server.error(401, f"Incorrect API key provided: {_CANARY}"))
    at = _tested(_add(settings_page, endpoint.url))
    click(at, "settings_edit_compatible")
    assert at.text_input(key="settings_provider_key").value == ""
    assert _CANARY not in words(at) and _CANARY not in json.dumps(at.session_state._state.filtered_state, default=repr)
    assert _CANARY not in json.dumps(saved.list_saved(store), default=repr)


def test_editing_keeps_the_key_unless_the_host_changes(
    settings_page: AppTest, endpoint: FaultServer, settings: Settings
) -> None:
    at = _tested(_add(settings_page, endpoint.url))
    click(at, "settings_edit_compatible")
    at.text_input(key="settings_provider_name").set_value("Renamed")
    at = _tested(click(at, "settings_provider_save"))
    assert "Renamed" in words(at)
    assert cache.registry().provider("compatible").api_key == _CANARY
    click(at, "settings_edit_compatible")
    at.text_input(key="settings_provider_url").set_value("https://evil.example/v1")
    click(at, "settings_provider_save")
    assert "a different host" in at.error[-1].value and cache.registry().provider("compatible").base_url == endpoint.url


def test_the_dialog_opens_without_a_choice_and_lists_what_people_have_first(settings_page: AppTest) -> None:
    at = click(settings_page, "settings_provider_add")
    picker = at.selectbox(key="settings_provider_preset")
    assert picker.value is None and not any(str(one.key).startswith("settings_provider_url") for one in at.text_input)
    names = [preset.name for preset in presets_of_providers.in_order(["ollama"])]
    assert names[:4] == ["OpenAI", "Ollama", "Your own server", "Another OpenAI-compatible address"]
    assert names[4:] == sorted(names[4:], key=str.casefold) and len(set(names)) == len(names)
    shown = [preset.name for preset in presets_of_providers.in_order()]
    assert picker.options == ["Your own server (OpenAI-compatible)" if name == names[2] else name for name in shown]
    picker.set_value("groq").run()
    assert at.text_input(key="settings_provider_url").value == "https://api.groq.com/openai/v1"


def test_a_wrong_entry_is_told_in_the_dialog_and_nothing_is_saved(settings_page: AppTest, store: Store) -> None:
    at = _add(settings_page, "api.example.com/v1")
    assert "does not start with" in at.error[-1].value
    at.text_input(key="settings_provider_url").set_value("https://api.example.com/v1")
    at.text_input(key="settings_provider_key").set_value("two words")
    click(at, "settings_provider_save")
    assert "contains a space" in at.error[-1].value and saved.list_saved(store) == []
    click(at, "settings_provider_cancel")
    assert not at.error and "settings_provider_key" not in at.session_state._state.filtered_state


def test_a_refused_key_is_told_and_only_tried_again_when_asked(
    store: Store, server: FaultServer, endpoint: FaultServer
) -> None:
    key = SecretKey(Settings.from_env())
    saved.add(store, LOCAL, key, saved.ProviderForm("compatible", "My server", endpoint.url, _CANARY))
    endpoint.enqueue(fault_server.error(401, "Invalid API key"))
    at = visit("settings")
    assert "My server refused the key (401)" in trouble(at) and "Settings → Providers" in trouble(at)
    assert "Invalid API key. Check the key" in trouble(at)  # the server's message has no full stop
    assert not any(word in words(at) for word in ("is kept", "is lost"))  # nothing has run yet
    for page in ("settings", "story", "dataset"):
        cache.models.clear()  # as after its few seconds
        visit(page)
    assert len(endpoint.requests) == 1
    at = click(at, "settings_again_compatible")
    assert not at.error and ("compatible", "writer") in [(info.provider, info.id) for info in cache.models().found]


def test_removing_names_what_uses_the_provider(settings_page: AppTest, endpoint: FaultServer, store: Store) -> None:
    at = _tested(_add(settings_page, endpoint.url))
    recipe = replace(presets.get().recipe, name="Night stories", provider="compatible", model="writer")
    runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, recipe))
    click(at, "settings_remove_compatible")
    assert "1 unfinished run uses it: Night stories" in at.warning[-1].value
    assert "batch" not in at.warning[-1].value
    click(at, "settings_removal_cancel")
    assert saved.list_saved(store)
    click(at, "settings_remove_compatible")
    click(at, "settings_removal_confirm")
    assert saved.list_saved(store) == [] and "My server" not in words(at.run())
    assert cache.registry().ids() == ["engine"]


def test_what_belongs_to_a_removed_provider_says_so_and_what_to_do(
    store: Store, server: FaultServer, endpoint: FaultServer
) -> None:
    key = SecretKey(Settings.from_env())
    added = saved.add(store, LOCAL, key, saved.ProviderForm("groq", "My Groq", endpoint.url, _CANARY))
    recipe = replace(presets.get().recipe, provider=added, model="writer")
    with store.session() as session:
        session.add(
            Story(id="s1", actor="local", provider=added, model="writer", prompt="x", parameters={}, text="Once")
        )
    saved.remove(store, LOCAL, added)
    cache.forget_models()
    at = click(visit("story", story_part="shelf"), "story_resume_s1")
    assert "The provider My Groq was removed" in trouble(at) and "Choose another provider" in trouble(at)
    assert datasets.create(store, LOCAL, recipe)
    visit("dataset")  # a recipe that names it opens with another model
    assert endpoint.requests == []


def test_a_provider_of_the_environment_is_shown_as_such(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", _CANARY)
    at = visit("settings")
    assert "from the environment" in words(at) and _CANARY not in words(at)
    assert not [button for button in at.button if button.key in ("settings_edit_openai", "settings_remove_openai")]


def test_a_lost_secret_key_is_told_with_a_next_step(
    settings_page: AppTest, endpoint: FaultServer, store: Store, settings: Settings
) -> None:
    at = _tested(_add(settings_page, endpoint.url))
    (settings.home / "secret.key").unlink()
    cache.registry.clear()
    click(at, "settings_test_compatible")
    at = _tested(at)
    assert "key file" in at.error[-1].value and "is missing" in at.error[-1].value
    visit("story")  # other pages still work


def test_a_local_server_is_used_with_one_click(
    store: Store, server: FaultServer, endpoint: FaultServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.models = [{"id": f"m{n}", "object": "model", "created": 1} for n in range(4)]
    port = int(endpoint.url.split(":")[2].split("/")[0])
    real = local_servers.find
    ollama = _at(find("ollama"), port)
    monkeypatch.setenv("FABULA_FIND_LOCAL_SERVERS", "1")
    monkeypatch.setattr(local_servers, "find", lambda settings, used=(): real(settings, used, [ollama]))
    at = visit("settings")
    assert "Ollama" in words(at) and "is running here with 4 models" in words(at)
    at = _tested(click(at, "settings_use_ollama"))
    assert [view.name for view in saved.list_saved(store)] == ["Ollama"] and "Ready: 4 models" in words(at)
    assert "is running here" not in words(at)


def test_the_chinese_page_has_no_english_left(store: Store, server: FaultServer, endpoint: FaultServer) -> None:
    saved.add(store, LOCAL, SecretKey(Settings.from_env()), saved.ProviderForm("groq", "Groq", endpoint.url, _CANARY))
    at = visit("settings", "zh-CN")
    click(at, "settings_test_groq")
    assert "可用：1 个模型" in words(_tested(at))


def _at(preset: ProviderPreset, port: int) -> ProviderPreset:
    return replace(preset, local_port=port)


def test_the_status_of_the_sidebar_decrypts_a_key_once(
    store: Store, server: FaultServer, endpoint: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SecretKey(Settings.from_env())
    added = saved.add(store, LOCAL, key, saved.ProviderForm("groq", "Groq", endpoint.url, _CANARY))
    decrypted: list[str] = []
    real = SecretKey.decrypt
    monkeypatch.setattr(SecretKey, "decrypt", lambda *given: (decrypted.append(added), real(*given))[1])
    for _second in range(3):
        cache.status.clear()
        assert [(one.id, one.name) for one in cache.status().providers][1:] == [(added, "Groq")]
    assert decrypted == [added]


def test_the_models_of_an_added_provider_are_on_the_cost_page(
    store: Store, server: FaultServer, endpoint: FaultServer
) -> None:
    key = SecretKey(Settings.from_env())
    endpoint.models = [{"id": name, "object": "model", "created": 1} for name in ("deepseek-v4-flash", "unheard-of")]
    for preset in ("deepseek", "ollama"):
        saved.add(store, LOCAL, key, saved.ProviderForm(preset, preset, endpoint.url, _CANARY))
    book = cache.prices()
    shown = {price.key: price for price in price_choice.rows(book, ["deepseek", "ollama"])}
    assert shown["deepseek", "deepseek-v4-flash"].output_per_mtok
    assert shown["deepseek", "unheard-of"].output_per_mtok is None
    assert shown["ollama", "unheard-of"].output_per_mtok == 0
    at = visit("cost")
    assert {"deepseek", "ollama"} <= set(at.multiselect(key="cost_lists").value)
