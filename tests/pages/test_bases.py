"""Settings, base models: what a visitor sees and does, with a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from streamlit.testing.v1 import AppTest

from core.actor import LOCAL, Actor
from core.errors import NotAllowed
from core.providers import engine_aliases, engine_bases
from core.providers.engine_aliases import AliasStatus, EngineAlias
from core.providers.engine_bases import EngineBase, EngineBases
from pages.ui import cache
from pages.ui.settings import aliases, bases
from tests.support import hub_server
from tests.support.app_pages import again, click, field, labels, trouble, visit, words
from tests.support.engine_process import TINY, TOKEN, EngineUnderTest, running
from tests.support.hub_server import REPO
from tests.support.tiny_models import TinyModel
from tests.support.waiting import until


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    folder = tmp_path_factory.mktemp("bases")
    (folder / "empty").mkdir()
    with hub_server.serving(folder / "empty") as hub, pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_ENDPOINT", hub.url)
        with running(folder / "home") as started:
            yield started


@pytest.fixture(autouse=True)
def _connected(engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABULA_ENGINE_URL", engine.url.removesuffix("/v1"))
    monkeypatch.setenv("FABULA_ENGINE_TOKEN", TOKEN)


def _settings(locale: str = "en-US", **state: object) -> AppTest:
    at = visit("settings", locale, **state)
    until(lambda: "Base models" in words(at) or "基础模型" in words(at) or not again(at), "the engine is up")
    return at


def test_a_file_is_added_by_its_path_shown_with_its_figures_and_removed(tmp_path: Path) -> None:
    path = TinyModel("qwen3").write(tmp_path / "Tiny Qwen.gguf")
    at = _settings(settings_base_source="file")
    assert "Only the packaged model is here" in words(at)
    field(at, "settings_base_origin_file").set_value(str(path))
    click(at, "settings_base_submit")
    remove = "settings_base_remove_tiny-qwen"
    until(lambda: remove in [button.key for button in again(at).button], "the base is ready")
    assert "tiny-qwen" in [model.id for model in cache.quick("engine").models()]
    assert "memory to train" in words(at)
    assert "tiny-qwen" in words(at)
    assert "context: 512 tokens" in words(at)
    assert "licence: unknown" in words(at)
    click(at, remove)
    assert "Only the packaged model is here" in words(again(at))
    assert path.exists()


def test_a_revision_of_a_model_on_a_hub_is_requested() -> None:
    at = _settings()
    field(at, "settings_base_origin_huggingface").set_value(REPO)
    field(at, "settings_base_revision").set_value("-v1")
    click(at, "settings_base_submit")
    assert "is not the name of a revision" in trouble(at)
    field(at, "settings_base_revision").set_value(" v1 ")
    click(at, "settings_base_submit")
    assert not trouble(at) and field(at, "settings_base_revision").value == ""
    field(at, "settings_base_origin_huggingface").set_value(REPO)
    click(at, "settings_base_submit")
    assert "at revision v1" in trouble(at)
    engine_bases.remove(cache.store(), LOCAL, cache.quick("engine"), "model")


def test_a_path_that_does_not_exist_is_named_with_the_next_step(tmp_path: Path) -> None:
    at = _settings(settings_base_source="folder")
    field(at, "settings_base_origin_folder").set_value(str(tmp_path / "nothing"))
    click(at, "settings_base_submit")
    assert "There is no file or folder" in trouble(at)
    assert "Check the spelling" in trouble(at)
    assert field(at, "settings_base_origin_folder").value == str(tmp_path / "nothing")


def test_a_context_below_the_models_own_and_a_missing_checksum_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    base = EngineBase(
        "tiny", "huggingface", "tiny/model", "ready", None, "", "qwen3", "apache-2.0", 10**6, 4096, 32_768, 10, 20, 1,
        1, None, "", no_checksum=True, tuned_models=0,
    )  # fmt: skip
    found = EngineBases((base,), (), 10**9, 10**9, None)
    monkeypatch.setattr(bases, "listed", lambda: found)
    shown = words(_settings())
    assert "context: 4,096 of 32,768 tokens" in shown
    assert "no checksum available" in shown


def test_an_alias_is_saved_led_elsewhere_and_removed() -> None:
    at = _settings()
    field(at, "settings_alias_name").set_value(" gpt-4o-mini ")
    field(at, "settings_alias_model").set_value("storyteller")
    click(at, "settings_alias_save")
    assert not trouble(at) and "`gpt-4o-mini` → `storyteller`" in words(again(at))
    field(at, "settings_alias_name").set_value("gpt-4o-mini")
    field(at, "settings_alias_model").set_value(TINY)
    click(at, "settings_alias_save")
    assert f"`gpt-4o-mini` → `{TINY}`" in words(again(at))
    cache.forget_models("engine")
    assert "gpt-4o-mini" not in [model.id for model in cache.quick("engine").models()]  # pickers show each model once
    click(at, "settings_alias_remove_gpt-4o-mini")
    assert engine_aliases.listed(cache.quick("engine")) == ()


@pytest.mark.parametrize(
    ("name", "reason"),
    [(TINY, "the alias would hide it"), ("", "The alias is empty"), ("两", "An alias has")],
)
def test_an_alias_that_cannot_be_saved_is_kept_in_its_field_with_the_reason(name: str, reason: str) -> None:
    at = _settings()
    field(at, "settings_alias_name").set_value(name)
    click(at, "settings_alias_save")
    assert reason in trouble(at)
    assert field(at, "settings_alias_name").value == name


@pytest.mark.parametrize(
    ("status", "words_"), [("missing_model", "This model was deleted"), ("hidden", "the alias has no effect")]
)
def test_an_alias_without_effect_says_why(status: AliasStatus, words_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "listed", lambda: (EngineAlias("gpt-4o", "ft:gone", status),))
    assert words_ in words(_settings())


def test_suggestions_fit_this_machine_and_are_dated() -> None:
    at = _settings()
    found = cache.quick("engine")
    suggested = engine_bases.listed(found).suggested
    assert suggested
    assert all(one.training_bytes <= engine_bases.listed(found).memory_bytes for one in suggested)
    assert suggested[0].as_of in words(at)
    assert labels(at).count("Download") == len(suggested) + 1


def test_the_page_has_one_primary_button() -> None:
    assert [button.key for button in _settings().button if button.proto.type == "primary"] == ["settings_provider_add"]


def test_the_card_is_chinese_for_a_chinese_visitor() -> None:
    shown = words(_settings("zh-CN"))
    assert "基础模型" in shown
    assert "Base models" not in shown


def test_only_admins_change_the_set_of_bases() -> None:
    editor = Actor(id="e", name="E", role="editor")
    with pytest.raises(NotAllowed):
        engine_bases.remove(cache.store(), editor, cache.quick("engine"), "anything")
