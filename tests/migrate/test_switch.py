"""Switching programs over, with a real engine: the alias, the way back, the state, and the code for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core.actor import LOCAL, Actor
from core.db.store import Store
from core.db.tables import AliasChange
from core.errors import ChangedMeanwhile, ModelNotFound, NotAllowed, NotFound
from core.migrate import snippets, switch, tunes
from core.migrate.account_views import AccountView
from core.providers import Registry, engine_aliases
from core.providers.client import Client
from core.providers.engine_aliases import Expected
from core.settings import Settings
from tests.support.engine_process import TINY, TOKEN, EngineUnderTest, running
from tests.support.openai_account import OpenAIAccount

Move = Callable[..., AccountView]
_OLD = "ft:gpt-4o-mini-2024-07-18:org:my 'app':AbC1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("switch") / "home") as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The engine as this installation's; its aliases are removed afterwards."""
    monkeypatch.setenv("FABULA_ENGINE_URL", engine.url.removesuffix("/v1"))
    monkeypatch.setenv("FABULA_ENGINE_TOKEN", TOKEN)
    found = Registry.from_settings(Settings.from_env(), os.environ).get("engine")
    yield found
    with engine.http() as http:
        for one in engine_aliases.listed(found):
            http.delete(f"/fabula/v1/aliases/{one.id}")


def _target(store: Store, client: Client, old: str) -> tuple[str | None, str | None, str | None]:
    found = engine_aliases.listed(client)
    switch.note_changes(store, LOCAL, found)
    now = switch.view(store, found, old)
    return now.model, now.by, now.previous


def test_there_and_back_also_where_no_alias_was_before(store: Store, client: Client) -> None:
    old = "ft:gpt-4o-mini:org::abc"
    assert _target(store, client, old) == (None, None, None)
    switch.switch(store, LOCAL, client, old, TINY, Expected(None))
    assert _target(store, client, old) == (TINY, LOCAL.id, None)
    switch.switch(store, LOCAL, client, old, "storyteller", Expected(TINY))
    assert _target(store, client, old) == ("storyteller", LOCAL.id, TINY)
    assert switch.back(store, LOCAL, client, old) == TINY
    engine_aliases.remove(store, LOCAL, client, old)
    switch.switch(store, LOCAL, client, old, TINY)
    assert switch.back(store, LOCAL, client, old) is None
    assert engine_aliases.listed(client) == ()
    with pytest.raises(NotFound, match="is not switched"):
        switch.back(store, LOCAL, client, old)


def test_two_people_do_not_undo_each_others_switch(store: Store, client: Client) -> None:
    old = "ft:gpt-4o-mini:org::two"
    seen = switch.view(store, (), old).expected
    switch.switch(store, LOCAL, client, old, TINY, seen)
    with pytest.raises(ChangedMeanwhile, match="Someone else"):
        switch.switch(store, LOCAL, client, old, "storyteller", seen)
    with pytest.raises(ChangedMeanwhile, match="Someone else"):
        switch.back(store, LOCAL, client, old, seen)
    assert _target(store, client, old)[0] == TINY


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"id": "gpt-4o", "model": TINY, "if_model": "storyteller"}),
        ("POST", "", {"id": "gpt-4o", "model": TINY, "if_model": None}),
        ("DELETE", "/gpt-4o?if_model=storyteller", None),
    ],
)
def test_the_engine_refuses_a_change_of_an_alias_that_is_not_as_expected(
    client: Client, engine: EngineUnderTest, method: str, path: str, body: dict[str, str] | None
) -> None:
    with engine.http() as http:
        created = http.post("/fabula/v1/aliases", json={"id": "gpt-4o", "model": TINY, "if_model": None})
        assert created.status_code == 200
        answer = http.request(method, f"/fabula/v1/aliases{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (412, "alias_changed")
    assert [(one.id, one.model) for one in engine_aliases.listed(client)] == [("gpt-4o", TINY)]


def test_only_admins_switch_and_a_model_must_exist(store: Store, client: Client) -> None:
    with pytest.raises(NotAllowed):
        switch.switch(store, Actor("e", "E", "editor"), client, "gpt-4o", TINY)
    with pytest.raises(ModelNotFound):
        switch.switch(store, LOCAL, client, "gpt-4o", "ft:gone")


def test_a_change_through_the_engines_api_is_noticed_once(
    store: Store, client: Client, engine: EngineUnderTest
) -> None:
    with engine.http() as http:
        http.post("/fabula/v1/aliases", json={"id": "gpt-4o", "model": TINY})
    for _ in range(2):
        assert _target(store, client, "gpt-4o") == (TINY, "", None)
    with store.reading() as session:
        assert session.query(AliasChange).count() == 1


def test_a_tune_is_switched_as_soon_as_an_alias_of_its_id_leads_here(
    store: Store, client: Client, account: OpenAIAccount, move: Move
) -> None:
    for number in range(2):
        account.add_tune(number)
    archive_id = move("archive").id
    old = str(tunes.list_tunes(store, archive_id)[0].model)
    switch.switch(store, LOCAL, client, old, TINY)
    assert {one.model: one.state for one in tunes.list_tunes(store, archive_id)}[old] == "switched"
    command = [sys.executable, "-m", "core.migrate"]
    said = subprocess.run([*command, "status"], capture_output=True, text=True, check=True).stdout
    assert "1 of 2 tuned models switched." in said
    done = subprocess.run([*command, "back", old, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["model"] is None
    done = subprocess.run([*command, "switch", old, TINY], capture_output=True, text=True, check=True)
    assert done.stdout == f"{old} -> {TINY}\n"


@pytest.mark.parametrize("sdk", ["OpenAI Python", "curl"])
def test_the_code_for_programs_works_as_it_is(
    sdk: str, store: Store, client: Client, engine: EngineUnderTest, tmp_path: Path
) -> None:
    old = "ft:gpt-4o-mini:org:app:code"
    switch.switch(store, LOCAL, client, old, TINY)
    (found,) = [one for one in snippets.snippets(engine.url, old) if one.sdk == sdk]
    script = tmp_path / "program"
    script.write_text(found.code)
    done = subprocess.run(
        [sys.executable if found.language == "python" else "bash", script], capture_output=True, text=True, check=True
    )
    if sdk == "curl":
        assert json.loads(done.stdout)["model"] == old
    else:
        assert done.stdout.strip()


def test_code_quotes_a_model_with_any_characters() -> None:
    for one in snippets.snippets("https://engine.example/v1", _OLD):
        if one.language == "python":
            compile(one.code, one.sdk, "exec")
        elif one.language == "bash":
            assert subprocess.run(["bash", "-n"], input=one.code, text=True, check=False).returncode == 0
