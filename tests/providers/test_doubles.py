"""The doubles of tests keep the contract of the real thing: its calls, OpenAI's schema, and the engine's answers.

Streams have a contract of their own: `tests/providers/test_stream_contract.py`.
"""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from core.providers import Client, JobRequest, Provider, Registry, TextStream
from tests.support import engine_process
from tests.support.batch_server import BatchServer
from tests.support.engine_process import TINY, TOKEN, EngineUnderTest, pairs
from tests.support.fakes import FakeClient, FakeRegistry, FakeStream
from tests.support.fault_server import FaultServer
from tests.support.job_server import JobServer
from tests.support.purchase_counter import PurchaseCounter
from tests.support.story_server import StreamingServer
from tests.support.streamed_stories import StoryClient
from tests.support.waiting import WAIT_LIMIT_S, until

_ROOT = Path(__file__).parents[2]

# --- the calls of a client -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("double", "real"),
    [(FakeClient, Client), (StoryClient, Client), (FakeRegistry, Registry), (FakeStream, TextStream)],
    ids=lambda one: one.__name__,
)
def test_a_double_takes_every_call_that_the_real_one_takes(double: type, real: type) -> None:
    shared = [name for name, _ in inspect.getmembers(double, inspect.isfunction) if hasattr(real, name)]
    shared = [name for name in shared if not name.startswith("_")]
    assert shared and {name: _calls(double, name) for name in shared} == {name: _calls(real, name) for name in shared}


def _calls(owner: type, method: str) -> list[tuple[str, bool]]:
    """Name of each parameter, and whether it may be left out."""
    parameters = list(inspect.signature(getattr(owner, method)).parameters.values())[1:]
    return [(one.name.removeprefix("_"), one.default is not one.empty) for one in parameters]


# --- servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")
    with engine_process.running(tmp_path_factory.mktemp("doubles") / "home") as started:
        yield started


@dataclass(frozen=True)
class _Served:
    """A server with its model; `sdk` rejects every answer that does not match OpenAI's schema."""

    sdk: OpenAI
    model: str


@contextmanager
def _double(name: str) -> Iterator[_Served]:
    servers: dict[str, type[Any]] = {
        "faults": FaultServer, "jobs": JobServer, "batches": BatchServer, "stories": StreamingServer,
        "purchases": PurchaseCounter,
    }  # fmt: skip
    with servers[name]() as server:
        url = server.url if server.url.endswith("/v1") else f"{server.url}/v1"
        key = server.provider().api_key if hasattr(server, "provider") else "any"
        yield _Served(_strict(url, key), "writer")


def _strict(url: str, key: str) -> OpenAI:
    return OpenAI(base_url=url, api_key=key, max_retries=0, timeout=WAIT_LIMIT_S, _strict_response_validation=True)


def _upload(served: _Served, purpose: Any = "fine-tune") -> Any:
    return served.sdk.files.create(file=("a.jsonl", pairs(10)), purpose=purpose)


def _job(served: _Served) -> Any:
    return served.sdk.fine_tuning.jobs.create(
        model=served.model, training_file=_upload(served).id, metadata={"intent": "1"}, seed=1
    )


def _batch(served: _Served) -> Any:
    line = b'{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a", "model": "writer"}}'
    file = served.sdk.files.create(file=("b.jsonl", line), purpose="batch")
    return served.sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h", metadata={"intent": "1"}
    )


def _chat(served: _Served, **more: Any) -> Any:
    messages = [{"role": "user", "content": "a"}]
    return served.sdk.chat.completions.create(model=served.model, messages=messages, max_tokens=3, **more)  # type: ignore[arg-type]  # a plain dict


def _jobs(served: _Served) -> Any:
    return served.sdk.fine_tuning.jobs


_CALLS: dict[str, Callable[[_Served], Any]] = {
    "models": lambda served: served.sdk.models.list().data[0],
    "model": lambda served: served.sdk.models.retrieve(served.model),
    "completion": lambda served: served.sdk.completions.create(model=served.model, prompt="a", max_tokens=3),
    "chat": _chat,
    "chat stream": lambda served: next(iter(_chat(served, stream=True))),
    "the end of a chat stream": lambda served: list(_chat(served, stream=True))[-1],
    "the usage of a chat stream": lambda served: list(
        _chat(served, stream=True, stream_options={"include_usage": True})
    )[-1],
    "file": _upload,
    "job": _job,
    "job later": lambda served: _jobs(served).retrieve(_job(served).id),
    "jobs": lambda served: _job(served) and _jobs(served).list(limit=1).data[0],
    "events": lambda served: _jobs(served).list_events(_job(served).id),
    "checkpoints": lambda served: _jobs(served).checkpoints.list(_job(served).id),
    "cancelled job": lambda served: _jobs(served).cancel(_job(served).id),
    "batch": _batch,
    "batch later": lambda served: served.sdk.batches.retrieve(_batch(served).id),
    "batches": lambda served: _batch(served) and served.sdk.batches.list(limit=1).data[0],
    "cancelled batch": lambda served: served.sdk.batches.cancel(_batch(served).id),
}
_OF_JOBS = ("file", "job", "job later", "jobs", "events", "checkpoints")
_OF_CHATS = ("chat stream", "the end of a chat stream")
_TEXTS = ("models", "model", "completion", "chat", *_OF_CHATS, "the usage of a chat stream")
_SERVED = {
    "faults": (*_TEXTS, *_OF_JOBS, "cancelled job"),
    "jobs": _OF_JOBS,
    "batches": ("batch", "batch later", "batches", "cancelled batch"),
    "stories": ("models", *_OF_CHATS),
    "purchases": ("completion", "chat"),
}


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, calls in _SERVED.items() for call in calls])
def test_an_answer_of_a_double_follows_openais_schema(name: str, call: str) -> None:
    with _double(name) as served:
        assert _CALLS[call](served).to_dict()


@pytest.mark.parametrize("call", [*_TEXTS, *_OF_JOBS, "cancelled job"])
def test_a_double_invents_nothing_that_the_engine_does_not_send(engine: EngineUnderTest, call: str) -> None:
    sent = _fields(_CALLS[call](_Served(engine.client(), TINY)).to_dict())
    for name, calls in _SERVED.items():
        if call in calls:
            with _double(name) as served:
                assert _fields(_CALLS[call](served).to_dict()) - sent == set(), name


def _fields(answer: dict[str, Any]) -> set[str]:
    """Names of the fields, also of the first choice and of what it holds."""
    found = set(answer)
    for choice in answer.get("choices", [])[:1]:
        found |= {f"choices.{name}" for name in choice}
        for part in ("message", "delta"):
            found |= {f"choices.{part}.{name}" for name in choice.get(part, {})}
    return found


# --- fine-tuning -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["engine", "fake", "faults", "jobs"])
def tuning(request: pytest.FixtureRequest) -> Iterator[tuple[Client | FakeClient, str]]:
    """A client with the name of a model that can be tuned there."""
    if request.param == "fake":
        yield FakeClient(), "gemma-3-270m"
    elif request.param == "engine":
        url = request.getfixturevalue("engine").url
        yield Client(Provider("engine", "engine", "The engine", url, TOKEN)), TINY
    else:
        with _double(request.param) as served:
            url = str(served.sdk.base_url)
            yield Client(Provider("engine", "engine", "The engine", url, served.sdk.api_key)), "writer"


def test_a_job_is_found_by_the_intent_that_it_was_created_with(
    tuning: tuple[Client | FakeClient, str], tmp_path: Path
) -> None:
    client, model = tuning
    (tmp_path / "a.jsonl").write_bytes(pairs(10))
    request = JobRequest(model, client.upload(tmp_path / "a.jsonl"), seed=1)
    intent = os.urandom(8).hex()
    assert client.find_job(intent) is None
    made = client.create_job(request, intent)
    found = client.find_job(intent)
    assert found is not None and (found.id, found.intent) == (made.id, intent)
    assert (made.training_file, made.model) == (request.training_file, request.model)
    events = [event.id for event in client.events(made.id)]
    assert len(events) == len(set(events))
    steps = [checkpoint.step for checkpoint in client.checkpoints(made.id)]
    assert steps == sorted(steps)
    assert client.job(made.id).id == made.id


# --- the engine's process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["core.engine", "tests.support.fake_engine"])
def test_an_engine_process_says_its_health_to_everyone_and_more_to_those_with_its_token(
    module: str, tmp_path: Path
) -> None:
    if module == "core.engine":
        pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")
    (tmp_path / "home").mkdir()
    with _process(module, tmp_path / "home") as url:
        brief = httpx2.get(f"{url}/health", trust_env=False).json()
        full = httpx2.get(f"{url}/health", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False).json()
        health = Client(Provider("engine", "engine", "The engine", f"{url}/v1", TOKEN)).health()
    assert brief.keys() == {"status", "version"} and brief["status"] == "ok" and full.keys() > brief.keys()
    assert full.keys() <= {*brief, "models", "training", "training_speeds", "queue", "generating", "tokens_per_s"}
    assert (health.queue, health.training) == (0, None) and health.models and health.version == brief["version"]


@contextmanager
def _process(module: str, home: Path) -> Iterator[str]:
    """The process as the supervisor starts it; ended with SIGTERM."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port), "--home", str(home)]
    process = subprocess.Popen(command, cwd=_ROOT, env=os.environ | {"FABULA_ENGINE_TOKEN": TOKEN})
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(url, process), "the engine")
        yield url
    finally:
        process.terminate()
        process.wait(WAIT_LIMIT_S)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "it ended"
    try:
        return httpx2.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False
