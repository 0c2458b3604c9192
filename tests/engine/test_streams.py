"""Streams of a real engine: immediate headers, and a disconnect in any state stops the generation."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from tests.support.engine_process import DEADLINE_S, TINY, TOKEN, EngineUnderTest, poll, running
from tests.support.tiny_gemma import write_tiny_gemma

_ENDLESS = {"max_tokens": 4_000, "logit_bias": {"1": -100, "6": -100}}  # the text does not end before the context does
_ASKED = [
    ("/v1/completions", {"model": TINY, "prompt": "a", **_ENDLESS}),
    ("/v1/completions", {"model": TINY, "prompt": ["a", "b"], "n": 3, **_ENDLESS}),
    ("/v1/completions", {"model": TINY, "prompt": "a", "n": 3, "seed": 1, **_ENDLESS}),
    ("/v1/chat/completions", {"model": TINY, "messages": [{"role": "user", "content": "a"}], **_ENDLESS}),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    folder = tmp_path_factory.mktemp("streams")
    base = write_tiny_gemma(folder / "long.gguf", context=4_096)
    with running(folder / "home", base) as started:
        yield started


@contextmanager
def _busy(engine: EngineUnderTest) -> Iterator[None]:
    """Occupy every slot of the model, with many requests waiting."""
    body = {"model": TINY, "prompt": "a", "n": 128, "stream": True, **_ENDLESS}
    with engine.http() as http, http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()  # keep a reference: the connection is closed with it
        next(lines)
        yield
    _idle(engine)


def _generating(engine: EngineUnderTest) -> int:
    with engine.http() as http:
        return int(http.get("/health").json()["generating"])


def _idle(engine: EngineUnderTest) -> None:
    poll(lambda: _generating(engine) == 0)


@contextmanager
def _sent(engine: EngineUnderTest, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A connection on which this request was sent, without reading the response."""
    port = int(engine.url.removesuffix("/v1").rpartition(":")[2])
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(content)}"
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + content)
        yield connection


@pytest.mark.parametrize(("path", "body"), _ASKED)
def test_headers_come_while_the_request_is_queued(engine: EngineUnderTest, path: str, body: dict[str, Any]) -> None:
    with _busy(engine), engine.http() as http:
        with http.stream("POST", path, json={**body, "stream": True}) as stream:
            assert stream.status_code == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert _generating(engine) == 2  # nothing was read, and it is still waiting
        poll(lambda: _generating(engine) == 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), _ASKED)
def test_a_client_that_leaves_the_queue_is_noticed(
    engine: EngineUnderTest, path: str, body: dict[str, Any], stream: bool
) -> None:
    with _busy(engine):
        with _sent(engine, path, {**body, "stream": stream}):
            poll(lambda: _generating(engine) == 2)
        poll(lambda: _generating(engine) == 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), _ASKED)
def test_a_client_that_leaves_while_text_is_written_is_noticed(
    engine: EngineUnderTest, path: str, body: dict[str, Any], stream: bool
) -> None:
    endless = {**body, "n": 128}
    with _sent(engine, path, {**endless, "stream": stream}) as connection:
        poll(lambda: _generating(engine) == 1)
        if stream:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    _idle(engine)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_the_model_is_loaded_is_noticed(tmp_path: Path, stream: bool) -> None:
    with running(tmp_path / "home") as engine:  # nothing is loaded yet
        path, body = _ASKED[0]
        with _sent(engine, path, {**body, "stream": stream}):
            pass
        _idle(engine)
        with engine.http() as http:
            assert http.post(path, json={**body, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/completions", {"prompt": "a " * 5_000}, "context_length_exceeded"),
        ("/v1/completions", {"prompt": ["a", "光" * 5_000]}, "context_length_exceeded"),
        ("/v1/completions", {"prompt": [7] * 4_096}, "context_length_exceeded"),
        ("/v1/completions", {"prompt": [[7], [999_999]]}, "invalid_value"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a " * 5_000}]}, "context_length_exceeded"),
        ("/v1/completions", {"prompt": "a", "temperature": 9}, "invalid_value"),
    ],
)
def test_what_is_refused_has_its_own_status_also_while_others_wait(
    engine: EngineUnderTest, path: str, body: dict[str, Any], code: str
) -> None:
    with _busy(engine), engine.http() as http:
        answer = http.post(path, json={"model": TINY, "stream": True, **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_a_prompt_that_just_fits_is_taken(engine: EngineUnderTest) -> None:
    client = engine.client(strict=False)
    chunks = list(client.completions.create(model=TINY, prompt=[7] * 4_095, max_tokens=1, stream=True, temperature=0))
    assert chunks[-1].choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=TINY, prompt=[7] * 4_096, max_tokens=1)
