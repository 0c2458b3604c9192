"""Saved providers: added, edited and removed in the ledger, and taken up by every registry at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from core import failures
from core.actor import LOCAL, Actor
from core.db.store import Store
from core.db.tables import Dataset, Evaluation, Run, SavedProvider, Spend, Story, TrainingJob
from core.errors import FabulaError, Misconfigured, NotAllowed, NotFound, ProviderRemoved
from core.pricing import custom_prices
from core.pricing.price_book import PriceBook
from core.providers import CompletionRequest, Provider, Registry, presets, saved
from core.providers.parameters import adjust_body, request_body
from core.providers.saved import ProviderForm
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support import stores
from tests.support.fault_server import FaultServer
from tests.support.tls_server import certificate_for
from tests.support.waiting import until

_CANARY = "sk-canary-0123456789"
_FORM = ProviderForm("compatible", "My server", "http://127.0.0.1:9/v1", _CANARY)


@pytest.fixture
def key(settings: Settings) -> SecretKey:
    return SecretKey(settings)


def _registry(settings: Settings, store: Store, environ: dict[str, str] | None = None) -> Registry:
    return Registry.from_settings(settings, environ or {}, lambda: store)


def test_an_added_provider_can_be_used_at_once(
    store: Store, settings: Settings, key: SecretKey, server: FaultServer
) -> None:
    registry = _registry(settings, store)
    added = saved.add(store, LOCAL, key, replace(_FORM, base_url=server.url))
    registry.refresh()
    assert registry.ids() == ["engine", added]
    assert registry.get(added).complete(CompletionRequest("writer", "x")).texts
    assert server.requests[-1].headers["authorization"] == f"Bearer {_CANARY}"


def test_another_process_takes_up_every_change(store: Store, settings: Settings, key: SecretKey) -> None:
    other = Store(settings.database_url)  # as a worker: nothing in its memory knows of the change
    registry = _registry(settings, other)
    assert registry.ids() == ["engine"]
    added = saved.add(store, LOCAL, key, _FORM)
    until(lambda: registry.ids() == ["engine", added], "the change")
    assert registry.provider(added).api_key == _CANARY
    before = registry.revision()
    saved.edit(store, LOCAL, key, added, replace(_FORM, api_key="sk-another-key", base_url="http://127.0.0.1:8/v1"))
    until(lambda: registry.provider(added).api_key == "sk-another-key", "the change")
    assert registry.provider(added).base_url == "http://127.0.0.1:8/v1" and registry.revision() != before
    saved.remove(store, LOCAL, added)
    until(lambda: registry.ids() == ["engine"], "the change")
    with pytest.raises(NotFound):
        registry.provider(added)
    other.close()


def test_any_number_of_providers_stand_side_by_side(store: Store, settings: Settings, key: SecretKey) -> None:
    ids = [saved.add(store, LOCAL, key, replace(_FORM, name=f"Server {n}"), ["compatible-2"]) for n in range(12)]
    assert ids == ["compatible", *(f"compatible-{n}" for n in range(3, 14))]
    environ = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "http://127.0.0.1:7/v1"}
    registry = _registry(settings, store, environ)
    assert registry.ids() == ["engine", *ids]
    assert registry.provider("compatible").name == "127.0.0.1"  # the environment's comes first
    assert registry.environment_ids() == ["engine", "compatible"]


def test_the_key_is_neither_in_the_database_nor_in_any_view(
    store: Store, settings: Settings, key: SecretKey, home: Path
) -> None:
    added = saved.add(store, LOCAL, key, _FORM)
    view = saved.list_saved(store)[0]
    assert view.has_key and _CANARY not in repr(view) and _CANARY not in repr(_FORM)
    assert _CANARY not in repr(_registry(settings, store).provider(added))
    store.close()
    for path in home.rglob("*"):
        assert path.is_dir() or _CANARY.encode() not in path.read_bytes(), path.name


def test_a_removed_provider_leaves_no_key(store: Store, key: SecretKey) -> None:
    added = saved.add(store, LOCAL, key, _FORM)
    with store.reading() as session:
        sealed = session.scalar(select(SavedProvider.encrypted_key))
    assert sealed
    saved.remove(store, LOCAL, added)
    with store.reading() as session:
        assert session.scalars(select(SavedProvider)).all() == []
    with pytest.raises(NotFound):
        saved.remove(store, LOCAL, added)


def test_the_id_of_a_removed_provider_is_never_used_again(store: Store, settings: Settings, key: SecretKey) -> None:
    added = saved.add(store, LOCAL, key, _FORM)
    for kind in ("input", "output"):
        custom_prices.set_price(store, LOCAL, provider=added, model="writer", kind=kind, amount="2")
    ids = [added]
    for _again in range(3):
        saved.remove(store, LOCAL, ids[-1])
        ids.append(saved.add(store, LOCAL, key, _FORM))
    assert ids == ["compatible", "compatible-2", "compatible-3", "compatible-4"]
    book = PriceBook.load(own=custom_prices.entries(store))
    assert [book.find(one, "writer") is not None for one in ids] == [True, False, False, False]
    with pytest.raises(ProviderRemoved, match="My server was removed") as gone:
        _registry(settings, store).get(added)
    assert "another provider" in gone.value.next_step and failures.of_error(gone.value).cause == "provider_removed"


_BY = {"created_by": "local"}
_WORK = (
    Run(id="r", dataset_id="d", provider="compatible", model="m", **_BY),
    TrainingJob(id="j", name="j", provider="compatible", base_model="m", hyperparameters={}, file_format="chat", **_BY),
    Evaluation(id="e", dataset_id="d", provider="compatible", model="m", kind="text", settings={}, **_BY),
    Story(id="s", actor="local", provider="compatible", model="m", prompt="x", parameters={}, text="t"),
    Spend(actor="local", page="settings", provider="compatible", model="m", reference="x"),
)


@pytest.mark.parametrize("work", _WORK, ids=lambda work: type(work).__name__)
def test_work_of_a_provider_of_the_environment_does_not_pass_to_an_added_one(
    store: Store, key: SecretKey, work: Run | TrainingJob | Evaluation | Story | Spend
) -> None:
    with store.session() as session:
        session.add(Dataset(id="d", name="d", source="upload", columns=[], **_BY))
        session.add(type(work)(**{name: value for name, value in vars(work).items() if not name.startswith("_")}))
    assert saved.add(store, LOCAL, key, _FORM) == "compatible-2"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "  "}, "no name"),
        ({"name": "x" * 61}, "61 characters"),
        ({"name": "my SERVER"}, f"named {_FORM.name} already"),
        ({"base_url": ""}, "no address"),
        ({"base_url": "api.example.com/v1"}, "does not start with http"),
        ({"base_url": "ftp://example.com"}, "begins with ftp://"),
        ({"base_url": "http://"}, "not a web address"),
        ({"base_url": "https://example.com/v1/chat/completions"}, "single endpoint"),
        ({"base_url": "https://example.com/v1?key=1"}, "contains a ?"),
        ({"base_url": "https://user:secret@example.com/v1"}, "user name or password"),
        ({"base_url": "https://<resource>.openai.azure.com", "preset": "azure"}, "still contains <resource>"),
        ({"api_key": "sk-with a space"}, "contains a space"),
        ({"api_key": "sk-first\nsk-second"}, "line break"),
        ({"api_key": "“sk-quoted”"}, "contains the character “"),
        ({"base_url": "https://[::1/v1"}, "not a web address"),
        ({"base_url": "https://[host]/v1"}, "not a web address"),
        ({"certificates": "hello"}, "no certificates"),
        ({"certificates": "0\ufffd\x03 a binary file"}, "no certificates"),
        ({"models": tuple(map(str, range(501)))}, "501 models"),
    ],
)
def test_a_wrong_entry_is_refused_before_it_is_saved(
    store: Store, key: SecretKey, change: dict[str, object], told: str
) -> None:
    saved.add(store, LOCAL, key, replace(_FORM, api_key=""))
    form = replace(_FORM, name="Another", **change) if "name" not in change else replace(_FORM, **change)  # type: ignore[arg-type]
    with pytest.raises(FabulaError) as refused:
        saved.add(store, LOCAL, key, form)
    assert told in refused.value.what and refused.value.next_step
    assert "restart" not in refused.value.next_step and "OPENAI_" not in refused.value.next_step
    assert len(saved.list_saved(store)) == 1


def test_spaces_and_line_breaks_around_a_key_are_dropped(store: Store, settings: Settings, key: SecretKey) -> None:
    added = saved.add(store, LOCAL, key, replace(_FORM, api_key=f" \n{_CANARY}\n"))
    assert _registry(settings, store).provider(added).api_key == _CANARY


def test_a_saved_key_is_kept_only_for_its_host(store: Store, settings: Settings, key: SecretKey) -> None:
    added = saved.add(store, LOCAL, key, _FORM)
    saved.edit(store, LOCAL, key, added, replace(_FORM, api_key=None, base_url="http://127.0.0.1:9/other/v1"))
    assert _registry(settings, store).provider(added).api_key == _CANARY
    for elsewhere in ("http://127.0.0.1:10/v1", "https://127.0.0.1:9/v1", "http://evil.example/v1"):
        with pytest.raises(Misconfigured, match="a different host"):
            saved.edit(store, LOCAL, key, added, replace(_FORM, api_key=None, base_url=elsewhere))
    with store.session() as session:  # an address that was changed in the database gets no key either
        session.execute(update(SavedProvider).values(base_url="http://evil.example/v1", revision="x"))
    with pytest.raises(Misconfigured, match="damaged"):
        _registry(settings, store).provider(added)


def test_a_saved_key_is_kept_only_for_its_ca_file(
    store: Store, settings: Settings, key: SecretKey, tmp_path: Path
) -> None:
    own, other = (_ca(tmp_path / f"{name}.pem") for name in ("own", "other"))
    added = saved.add(store, LOCAL, key, replace(_FORM, certificates=own))
    for certificates in ("", other, own + other):
        with pytest.raises(Misconfigured, match="CA file of My server has changed"):
            saved.edit(store, LOCAL, key, added, replace(_FORM, api_key=None, certificates=certificates))
    saved.edit(store, LOCAL, key, added, replace(_FORM, api_key=None, certificates=f"{own}\n", name="Renamed"))
    assert _registry(settings, store).provider(added).api_key == _CANARY
    saved.edit(store, LOCAL, key, added, replace(_FORM, api_key="sk-entered-again", certificates=other))
    saved.edit(store, LOCAL, key, added, replace(_FORM, api_key="", certificates=own))
    saved.edit(store, LOCAL, key, added, replace(_FORM, api_key=None, certificates=other))  # there is no key to keep
    assert _registry(settings, store).provider(added).certificates == other.strip()


def _ca(path: Path) -> str:
    return (
        "-----BEGIN CERTIFICATE-----"
        + certificate_for(path, "127.0.0.1").read_text().split("-----BEGIN CERTIFICATE-----")[1]
    )


def test_an_unreadable_address_is_refused_when_a_provider_is_edited(store: Store, key: SecretKey) -> None:
    added = saved.add(store, LOCAL, key, _FORM)
    for api_key in (None, "sk-entered-again"):
        with pytest.raises(Misconfigured):
            saved.edit(store, LOCAL, key, added, replace(_FORM, base_url="https://[::1/v1", api_key=api_key))


def test_a_provider_whose_key_cannot_be_read_is_listed_and_says_so(
    store: Store, settings: Settings, key: SecretKey
) -> None:
    added = saved.add(store, LOCAL, key, _FORM)
    other = replace(settings, secret_key="another secret of many characters")
    registry = _registry(other, store)
    assert registry.ids() == ["engine", added]
    with pytest.raises(Misconfigured, match="another secret key"):
        registry.get(added)
    saved.edit(store, LOCAL, SecretKey(other), added, _FORM)  # entering it again helps
    registry.refresh()
    assert registry.provider(added).api_key == _CANARY


def test_only_admins_change_providers(store: Store, key: SecretKey) -> None:
    editor = Actor("e", "E", "editor")
    added = saved.add(store, LOCAL, key, _FORM)
    for attempt in (
        lambda: saved.add(store, editor, key, replace(_FORM, name="B")),
        lambda: saved.edit(store, editor, key, added, _FORM),
        lambda: saved.remove(store, editor, added),
    ):
        with pytest.raises(NotAllowed, match="admins"):
            attempt()
    assert [view.name for view in saved.list_saved(store)] == ["My server"]


def test_findings_of_an_older_version_are_not_saved(store: Store, key: SecretKey) -> None:
    added = saved.add(store, LOCAL, key, _FORM)
    tested = saved.list_saved(store)[0].revision
    saved.edit(store, LOCAL, key, added, replace(_FORM, name="Renamed"))
    saved.save_findings(store, LOCAL, added, tested, {"models": 1})
    assert saved.list_saved(store)[0].found is None
    saved.save_findings(store, LOCAL, added, saved.list_saved(store)[0].revision, {"models": 1})
    assert saved.list_saved(store)[0].found == {"models": 1}
    saved.remove(store, LOCAL, added)
    saved.save_findings(store, LOCAL, added, tested, {"models": 1})  # removed during the test: nothing to save to


def test_without_the_database_the_last_known_providers_stay(settings: Settings, key: SecretKey) -> None:
    store = stores.fresh(settings)
    added = saved.add(store, LOCAL, key, _FORM)
    registry = _registry(settings, store)
    assert registry.provider(added).name == "My server"
    store.close()
    os.rename(settings.home / "fabula.db", settings.home / "gone.db")
    registry.refresh()
    assert registry.ids() == ["engine", added] and registry.provider(added).api_key == _CANARY
    fresh = _registry(settings, store)
    assert fresh.ids() == ["engine"] and fresh.revision() == ("engine",)


def test_a_saved_provider_works_on_postgres(on_postgres: Settings) -> None:
    store = Store.open(on_postgres)
    added = saved.add(store, LOCAL, SecretKey(on_postgres), replace(_FORM, models=("a", "b")))
    provider = _registry(on_postgres, store).provider(added)
    assert provider.api_key == _CANARY and provider.models == ("a", "b")
    store.close()


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", presets.all_presets(), ids=lambda preset: preset.id)
def test_every_preset_can_be_added(
    store: Store, settings: Settings, key: SecretKey, preset: presets.ProviderPreset
) -> None:
    address = (preset.base_url or "https://example.com/v1").replace("<resource>", "mine")
    added = saved.add(store, LOCAL, key, ProviderForm(preset.id, preset.name, address, "sk-12345678"))
    provider = _registry(settings, store).provider(added)
    assert (provider.id, provider.kind) == (preset.id, preset.kind)
    assert provider.base_url.startswith(("https://", "http://127.0.0.1:")) and preset.source.startswith("https://")
    assert preset.self_hosted is not provider.capabilities.billed


def test_the_presets_that_were_asked_for_are_there() -> None:
    wanted = "openai azure together deepseek dashscope zhipu moonshot mistral groq openrouter fireworks"
    assert [preset.id for preset in presets.all_presets() if not preset.self_hosted][:-1] == wanted.split()
    ports = {preset.id: preset.local_port for preset in presets.all_presets() if preset.local_port}
    assert ports == {"ollama": 11434, "lmstudio": 1234, "llamacpp": 8080, "vllm": 8000}
    assert presets.find("no longer there").id == presets.CUSTOM


def test_a_preset_leaves_out_what_its_models_refuse() -> None:
    groq, request = presets.find("groq"), CompletionRequest("m", "x", n=4, seed=7)
    provider = Provider("groq", "compatible", "Groq", groq.base_url, "sk", groq.capabilities)
    body = adjust_body(provider, request_body(request, provider.capabilities))
    assert "n" not in body and body["seed"] == 7


def test_a_preset_of_a_hosted_provider_has_prices() -> None:
    book = PriceBook.load()
    priced = {preset.id for preset in presets.all_presets() if book.rows([preset.id])}
    assert {"openai", "deepseek", "moonshot", "mistral", "groq", "openrouter", "fireworks", "together"} <= priced
