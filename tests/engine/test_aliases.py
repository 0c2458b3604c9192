"""Aliases: a program that asks for a model of OpenAI gets one of this engine; names that lead nowhere are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from openai import OpenAI

from core.engine.store import EngineStore
from core.providers.connection import request_headers
from core.providers.schemas import Provider
from tests.support.engine_process import TINY, EngineUnderTest, finished, pairs, poll, running, upload
from tests.support.tiny_models import TinyModel

_PATH = "/fabula/v1/aliases"
_DEAD = "ft:gpt-4o-mini-2024-07-18:my-org:ultraman:AbC123xy"
_MESSAGES: Any = [{"role": "user", "content": "a"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("aliases") / "home") as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


@pytest.fixture(autouse=True)
def _no_aliases(engine: EngineUnderTest) -> Iterator[None]:
    yield
    with engine.http() as http:
        for alias in http.get(_PATH).json()["data"]:
            assert http.delete(f"{_PATH}/{alias['id']}").json()["deleted"]


def _create(engine: EngineUnderTest, alias: str, model: str) -> dict[str, Any]:
    with engine.http() as http:
        answer = http.post(_PATH, json={"id": alias, "model": model})
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


def test_a_program_gets_its_answer_under_the_name_that_it_asked_for(engine: EngineUnderTest, client: OpenAI) -> None:
    made = _create(engine, "gpt-4o-mini", TINY)
    assert (made["object"], made["id"], made["model"], made["status"]) == (
        "fabula.alias",
        "gpt-4o-mini",
        TINY,
        "active",
    )
    options: Any = {"model": "gpt-4o-mini", "max_tokens": 4, "temperature": 0}
    chat = client.chat.completions.with_raw_response.create(messages=_MESSAGES, **options)
    assert (chat.parse().model, chat.headers["fabula-model"]) == ("gpt-4o-mini", TINY)
    text = client.completions.with_raw_response.create(prompt="a", **options)
    assert (text.parse().model, text.headers["fabula-model"]) == ("gpt-4o-mini", TINY)
    assert text.parse().choices == client.completions.create(**{**options, "model": TINY}, prompt="a").choices
    stream = client.chat.completions.with_raw_response.create(messages=_MESSAGES, stream=True, **options)
    assert stream.headers["fabula-model"] == TINY
    assert {chunk.model for chunk in stream.parse()} == {"gpt-4o-mini"}
    listed = {model.id: model for model in client.models.list()}
    assert listed["gpt-4o-mini"].to_dict()["fabula"]["alias_of"] == TINY  # type: ignore[index]  # not in OpenAI's type
    assert "alias_of" not in listed[TINY].to_dict()["fabula"]  # type: ignore[operator]
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"


def test_a_client_that_wants_none_gets_models_by_their_own_id_only(engine: EngineUnderTest, client: OpenAI) -> None:
    """As the studio: otherwise an alias would lead around the list of people who may use a model."""
    _create(engine, "gpt-4o-mini", TINY)
    headers = request_headers(Provider("engine", "engine", "Engine", engine.url, "x"))
    named = {name: value for name, value in headers.items() if name.startswith("fabula-")}
    studio = client.with_options(default_headers=named)
    for ask in (
        lambda model: studio.completions.create(model=model, prompt="a", max_tokens=1),
        lambda model: studio.chat.completions.create(model=model, messages=_MESSAGES, max_tokens=1),
        lambda model: studio.models.retrieve(model),
        lambda model: studio.fine_tuning.jobs.create(model=model, training_file="none"),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            ask("gpt-4o-mini")
        assert refused.value.code == "model_not_found"
    assert studio.completions.create(model=TINY, prompt="a", max_tokens=1).model == TINY


@pytest.mark.parametrize(
    "alias", [_DEAD, "openai/gpt-4o", "curie:ft-org:ultraman-2023-04-04-03-03-26", "text-davinci-003"]
)
def test_any_name_of_a_model_elsewhere_can_be_an_alias(engine: EngineUnderTest, client: OpenAI, alias: str) -> None:
    _create(engine, alias, TINY)
    assert client.completions.create(model=alias, prompt="a", max_tokens=1).model == alias
    assert client.models.retrieve(alias).id == alias
    with engine.http() as http:
        assert http.get(f"{_PATH}/{alias}").json()["model"] == TINY
        assert http.delete(f"{_PATH}/{alias}").json() == {"id": alias, "object": "fabula.alias", "deleted": True}
        assert http.get(f"{_PATH}/{alias}").status_code == 404
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(alias)


def test_a_job_may_start_from_an_alias_and_its_model_may_be_deleted_later(
    engine: EngineUnderTest, client: OpenAI
) -> None:
    _create(engine, "gpt-4o-mini-2024-07-18", TINY)
    hyperparameters: Any = {"n_epochs": 1, "batch_size": 4}
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18", training_file=upload(client, pairs(4)), hyperparameters=hyperparameters
    )
    assert job.model == "gpt-4o-mini-2024-07-18"
    ended = finished(engine.client(strict=False), job.id)
    assert ended.fine_tuned_model is not None
    assert ended.fine_tuned_model.startswith(f"ft:{TINY}:")
    _create(engine, _DEAD, TINY)
    assert _create(engine, _DEAD, ended.fine_tuned_model)["model"] == ended.fine_tuned_model  # the same name again
    answer = client.completions.with_raw_response.create(model=_DEAD, prompt="a", max_tokens=1)
    assert answer.headers["fabula-model"] == ended.fine_tuned_model

    with pytest.raises(openai.BadRequestError) as kept:
        client.models.delete(_DEAD)
    assert kept.value.code == "model_is_alias"
    client.models.delete(ended.fine_tuned_model)
    with pytest.raises(openai.NotFoundError) as gone:
        client.completions.create(model=_DEAD, prompt="a", max_tokens=1)
    assert gone.value.code == "model_not_found"
    assert ended.fine_tuned_model in gone.value.message
    assert _DEAD not in [model.id for model in client.models.list()]
    with engine.http() as http:
        assert http.get(f"{_PATH}/{_DEAD}").json()["status"] == "missing_model"


@pytest.mark.parametrize(
    ("alias", "model", "status", "param", "code"),
    [
        ("gpt-4o-mini", "gpt-5", 404, "model", "model_not_found"),
        ("gpt-4o-mini", "gpt-4o-mini", 400, "model", "alias_loop"),
        ("a-2", "taken", 400, "model", "alias_loop"),
        ("taken", "taken", 400, "model", "alias_loop"),
        (TINY, "gemma-3-270m", 409, "id", "alias_hides_model"),
        ("gemma-3-270m", TINY, 409, "id", "alias_hides_model"),
        (TINY, TINY, 409, "id", "alias_hides_model"),
        ("storyteller", TINY, 409, "id", "alias_hides_model"),
        ("", TINY, 400, "id", "missing_required_parameter"),
        ("gpt-4o-mini", "", 400, "model", "missing_required_parameter"),
        (" gpt", TINY, 400, "id", "invalid_value"),
        ("gpt\n", TINY, 400, "id", "invalid_value"),
        ("模型", TINY, 400, "id", "invalid_value"),
        ("a" * 201, TINY, 400, "id", "invalid_value"),
        (4, TINY, 400, "id", "invalid_value"),
        ("gpt-4o-mini", [TINY], 400, "model", "invalid_value"),
    ],
)
def test_an_alias_that_leads_nowhere_is_refused(
    engine: EngineUnderTest, alias: object, model: object, status: int, param: str, code: str
) -> None:
    _create(engine, "taken", TINY)
    with engine.http() as http:
        answer = http.post(_PATH, json={"id": alias, "model": model})
        assert (answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["code"]) == (
            status, param, code,
        )  # fmt: skip
        assert [one["id"] for one in http.get(_PATH).json()["data"]] == ["taken"]
        unknown = http.post(_PATH, json={"id": "b", "model": TINY, "weight": 1}).json()["error"]
        assert (unknown["param"], unknown["code"]) == ("weight", "unknown_parameter")
        assert http.delete(f"{_PATH}/nothing").json()["error"]["code"] == "alias_not_found"


def test_a_base_cannot_be_added_under_the_name_of_an_alias(engine: EngineUnderTest, tmp_path: Path) -> None:
    _create(engine, "my-model", TINY)
    path = TinyModel("qwen3").write(tmp_path / "other.gguf")
    with engine.http() as http:
        answer = http.post("/fabula/v1/bases", json={"source": "file", "path": str(path), "id": "my-model"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "base_exists")
        http.post("/fabula/v1/bases", json={"source": "file", "path": str(path), "id": "other"})
        poll(lambda: http.get("/fabula/v1/bases/other").json()["state"] == "ready")
        hidden = http.post(_PATH, json={"id": "other", "model": TINY})
        assert (hidden.status_code, hidden.json()["error"]["code"]) == (409, "alias_hides_model")
        http.delete("/fabula/v1/bases/other")


def test_aliases_survive_kill_9_and_a_later_model_of_the_same_name_wins(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        _create(engine, "gpt-4o-mini", "gemma-3-270m")
        _create(engine, "small", TINY)
        engine.kill()
        engine.start()
        with engine.http() as http:
            assert [one["id"] for one in http.get(_PATH).json()["data"]] == ["gpt-4o-mini", "small"]
        engine.stop()
    other = EngineUnderTest(tmp_path / "home")
    other.models = f"{other.models},small={tmp_path / 'tiny.gguf'}"
    other.start()
    try:
        with other.http() as http:
            states = {one["id"]: one["status"] for one in http.get(_PATH).json()["data"]}
        assert states == {"gpt-4o-mini": "active", "small": "hidden"}
        answer = other.client().completions.with_raw_response.create(model="small", prompt="a", max_tokens=1)
        assert answer.headers["fabula-model"] == "small"
        assert [model.id for model in other.client().models.list()].count("small") == 1
    finally:
        other.stop()


def test_a_database_from_before_aliases_and_batches_gets_them(tmp_path: Path) -> None:
    store, tables = (
        EngineStore(tmp_path / "engine.db"),
        ("aliases", "batches", "batch_lines", "uploads", "shadow_calls"),
    )
    with store.transaction() as transaction:
        for table in tables:
            transaction.execute(f"DROP TABLE {table}")
        for column in ("integrations", "beta"):
            transaction.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        transaction.execute("PRAGMA user_version = 4")
    with EngineStore(tmp_path / "engine.db").transaction() as transaction:
        for table in tables:
            assert transaction.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        assert transaction.execute("SELECT count(integrations) FROM jobs").fetchone() == (0,)
