"""Shadow: calls for an old model are relayed to its provider, and a share of them is answered by the new one too."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import openai
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core.engine.serving.priority import Priority
from core.engine.shadow import answer_texts, shadow_store, upstream
from core.engine.shadow.copies import Copies
from core.engine.shadow.recorder import Recorder
from core.engine.shadow.relay import Relay
from core.engine.shadow.shadow_store import Shadow, ShadowCall
from core.engine.store import EngineStore
from tests.support import fault_server
from tests.support.engine_process import DEADLINE_S, TINY, TOKEN, EngineUnderTest, running
from tests.support.fault_server import FaultServer
from tests.support.tls_server import certificate_for, serving
from tests.support.waiting import until

_OLD = "ft:gpt-4o-mini:org::abc"
_KEY = "sk-the-key-of-the-old-model"
_labels = ["s0"]  # of each test; one that has ended cannot start again
_LONG_BYTES = 33 << 20  # longer answers than 32 MiB are not read
_MESSAGES: Any = [{"role": "user", "content": "a"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("shadow") / "home") as started:
        yield started


@pytest.fixture
def provider() -> Iterator[FaultServer]:
    """The old model's provider."""
    with FaultServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _clean(engine: EngineUnderTest) -> Iterator[None]:
    _labels.append(f"s{len(_labels)}")
    yield
    with engine.http() as http:
        for kind in ("shadows", "aliases"):
            for one in http.get(f"/fabula/v1/{kind}").json()["data"]:
                http.delete(f"/fabula/v1/{kind}/{one['id']}")


@cache
def _client(url: str) -> openai.OpenAI:
    """The SDK's client for an engine; creating one takes a while."""
    return openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0, timeout=DEADLINE_S)


def _start(engine: EngineUnderTest, url: str, **values: Any) -> dict[str, Any]:
    form = {"id": _OLD, "model": TINY, "base_url": url, "api_key": _KEY, "share": 100, "fallback": True}
    form |= {"label": _labels[-1]}
    with engine.http() as http:
        answer = http.post("/fabula/v1/shadows", json=form | values)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _shadow(engine: EngineUnderTest) -> dict[str, Any]:
    with engine.http() as http:
        (found,) = http.get("/fabula/v1/shadows").json()["data"]
    return dict(found)


def _calls(engine: EngineUnderTest, count: int, after: int = 0) -> list[dict[str, Any]]:
    """Wait until so many calls have ended."""

    with engine.http() as http:

        def look() -> list[dict[str, Any]]:
            return list(http.get(f"/fabula/v1/shadow_calls?label={_labels[-1]}&after={after}&limit=500").json()["data"])

        until(lambda: len(look()) >= count, "the calls have ended")
        return look()


def _ask(engine: EngineUnderTest, **options: Any) -> Any:
    return _client(engine.url).chat.completions.create(model=_OLD, messages=_MESSAGES, max_tokens=4, **options)


def test_the_caller_gets_the_old_models_answer_and_the_new_one_is_asked_too(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    started = _start(engine, provider.url)
    assert started["has_key"] and not {"api_key", "label"} & started.keys()
    provider.enqueue(fault_server.text("refund"))
    assert _ask(engine).choices[0].message.content == "refund"
    (sent,) = provider.requests
    assert (sent.body["model"], sent.headers["authorization"]) == (_OLD, f"Bearer {_KEY}")
    (call,) = _calls(engine, 1)
    assert (call["state"], call["copy"], call["old"], call["error"]) == ("answered", "answered", "refund", "")
    assert call["new"] and call["new_s"] > 0 and call["old_s"] > 0 and call["prompt_tokens"] > 0
    assert json.loads(call["request"]) == _MESSAGES
    assert [_shadow(engine)[name] for name in ("relayed", "copied", "failed", "dropped")] == [1, 1, 0, 0]


def test_a_stream_is_passed_on_and_its_answer_is_recorded(engine: EngineUnderTest, provider: FaultServer) -> None:
    _start(engine, provider.url)
    provider.enqueue(fault_server.text("order", " status"))
    stream = _ask(engine, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "order status"
    (call,) = _calls(engine, 1)
    assert (call["old"], call["copy"], call["completion_tokens"]) == (
        "order status",
        "answered",
        chunks[-1].usage.completion_tokens,
    )


@pytest.mark.parametrize(("share", "copied"), [(0, 0), (100, 3)])
def test_the_share_decides_how_many_calls_are_copied(
    engine: EngineUnderTest, provider: FaultServer, share: int, copied: int
) -> None:
    _start(engine, provider.url, share=share)
    for _ in range(3):
        _ask(engine)
    calls = _calls(engine, 3)
    assert sum(call["copy"] == "answered" for call in calls) == copied
    assert all(call["request"] == "" and call["old"] is None for call in calls) is not bool(copied)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (fault_server.rate_limit(retry_after="7"), openai.RateLimitError),
        (fault_server.error(500, "Overloaded"), openai.InternalServerError),
        (fault_server.unauthorized(), openai.AuthenticationError),
        (fault_server.error(404, "Invalid URL", "unknown_url"), openai.NotFoundError),
        (fault_server.drop(), openai.InternalServerError),
    ],
)
def test_errors_of_the_old_model_are_passed_on_and_no_copy_is_asked_for(
    engine: EngineUnderTest, provider: FaultServer, answer: fault_server.Answer, error: type[openai.APIStatusError]
) -> None:
    _start(engine, provider.url)
    provider.enqueue(answer)
    with pytest.raises(error) as raised:
        _ask(engine)
    assert raised.value.response.headers.get("retry-after") == answer.headers.get("retry-after")
    (call,) = _calls(engine, 1)
    assert call["state"] in ("failed", "unknown") and (call["copy"], call["old"]) == ("none", None)
    assert _shadow(engine)["state"] == "on" and _shadow(engine)["failed"] == 1


@pytest.mark.parametrize("answer", [fault_server.cut("ref"), fault_server.error_in_stream("ref")])
def test_a_stream_that_is_cut_is_not_compared(
    engine: EngineUnderTest, provider: FaultServer, answer: fault_server.Answer
) -> None:
    _start(engine, provider.url)
    provider.enqueue(answer)
    with engine.http() as http:
        body = {"model": _OLD, "messages": _MESSAGES, "stream": True}
        assert "ref" in http.post("/v1/chat/completions", json=body).text
    (call,) = _calls(engine, 1)
    assert (call["state"], call["copy"]) == ("unknown", "none")


def test_a_caller_who_leaves_ends_the_call_at_the_provider_too(engine: EngineUnderTest, provider: FaultServer) -> None:
    _start(engine, provider.url)
    provider.enqueue(fault_server.stalled("ref"))
    with _ask(engine, stream=True) as stream:
        next(iter(stream))
    (call,) = _calls(engine, 1)
    assert (call["state"], call["copy"]) == ("unknown", "none") and "caller left" in call["error"]


@pytest.mark.parametrize("fallback", [True, False])
def test_once_the_old_model_has_stopped_the_new_one_answers_if_that_is_allowed(
    engine: EngineUnderTest, provider: FaultServer, fallback: bool
) -> None:
    _start(engine, provider.url, fallback=fallback)
    provider.enqueue(fault_server.error(404, f"The model `{_OLD}` does not exist", "model_not_found"))
    if fallback:
        answered = _client(engine.url).chat.completions.with_raw_response.create(
            model=_OLD, messages=_MESSAGES, max_tokens=2
        )
        assert (answered.headers["fabula-model"], answered.parse().model) == (TINY, _OLD)
    else:
        with pytest.raises(openai.NotFoundError):
            _ask(engine)
    assert _shadow(engine)["state"] == ("dark" if fallback else "on")
    assert "does not exist" in _shadow(engine)["reason"]
    asked = len(provider.requests)
    if fallback:
        _ask(engine)
    assert len(provider.requests) == asked


def test_an_alias_takes_the_place_of_a_relay_and_the_other_way_round(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    _start(engine, provider.url)
    with engine.http() as http:
        http.post("/fabula/v1/aliases", json={"id": _OLD, "model": TINY})
        assert http.get("/fabula/v1/shadows").json()["data"] == []
        _ask(engine)
        assert provider.requests == []
        _labels.append(f"s{len(_labels)}")
        _start(engine, provider.url)
        assert http.get("/fabula/v1/aliases").json()["data"] == []
    _ask(engine)
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("values", "status", "code"),
    [
        ({"model": "ft:gone"}, 404, "model_not_found"),
        ({"id": TINY}, 409, "alias_hides_model"),
        ({"id": "两"}, 400, "invalid_value"),
        ({"share": 101}, 400, "invalid_value"),
        ({"share": -1}, 400, "invalid_value"),
        ({"base_url": "ftp://x/v1"}, 400, "invalid_value"),
        ({"base_url": "https://key@x/v1"}, 400, "invalid_value"),
        ({"api_key": ""}, 400, "missing_required_parameter"),
        ({"api_key": "sk-one\nsk-two"}, 400, "invalid_value"),
        ({"if_model": "other"}, 412, "alias_changed"),
    ],
)
def test_a_shadow_that_cannot_work_is_refused(
    engine: EngineUnderTest, values: dict[str, Any], status: int, code: str
) -> None:
    form = {"id": _OLD, "model": TINY, "base_url": "https://x/v1", "api_key": _KEY, "label": _labels[-1], "share": 1}
    with engine.http() as http:
        answer = http.post("/fabula/v1/shadows", json=form | values)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_other_models_and_collected_calls(engine: EngineUnderTest, provider: FaultServer) -> None:
    _start(engine, provider.url)
    for _ in range(3):
        _ask(engine)
    _client(engine.url).chat.completions.create(model=TINY, messages=_MESSAGES, max_tokens=1)
    assert len(provider.requests) == 3
    first, second, third = _calls(engine, 3)
    with engine.http() as http:
        http.delete(f"/fabula/v1/shadow_calls?label={_labels[-1]}&until={second['ended']}")
    assert [call["id"] for call in _calls(engine, 1)] == [third["id"]]
    assert first["ended"] < second["ended"] < third["ended"]


def test_after_kill_9_counts_are_right_and_calls_wait_for_the_key(provider: FaultServer, tmp_path: Path) -> None:
    engine = EngineUnderTest(tmp_path / "home")
    engine.start()
    try:
        _start(engine, provider.url)
        _ask(engine)
        _calls(engine, 1)
        provider.enqueue(fault_server.stalled("ref"))
        with _ask(engine, stream=True) as stream:
            next(iter(stream))
            engine.kill()
        engine.start()
        assert not _shadow(engine)["has_key"]
        with pytest.raises(openai.InternalServerError, match="waits for the old model's key") as raised:
            _ask(engine)
        assert raised.value.response.headers["retry-after"]
        _start(engine, provider.url, share=50)
        _ask(engine)
        calls = _calls(engine, 3)
        assert [call["state"] for call in calls] == ["answered", "unknown", "answered"]
        found = _shadow(engine)
        assert (found["relayed"], found["failed"], found["share"]) == (3, 1, 50)
        database = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("engine.db*"))
        assert _KEY.encode() not in database
    finally:
        engine.stop()


def test_the_callers_answer_does_not_depend_on_what_can_be_recorded(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    _start(engine, provider.url)
    answer = {"choices": [{"message": {"content": "x", "tool_calls": 5}}], "usage": {"prompt_tokens": 9}}
    provider.enqueue(fault_server.raw(json.dumps(answer).encode()))
    database = sqlite3.connect(engine.home / "engine.db")
    database.execute("CREATE TRIGGER full BEFORE UPDATE ON shadow_calls BEGIN SELECT RAISE(ABORT, 'no space'); END")
    try:
        with engine.http() as http:
            body = {"model": _OLD, "messages": _MESSAGES}
            assert http.post("/v1/chat/completions", json=body).json() == answer
            found = http.get(f"/fabula/v1/shadow_calls?label={_labels[-1]}").json()
        assert (found["data"], found["in_progress"]) == ([], 1)
    finally:
        database.execute("DROP TRIGGER full")
        database.close()
    (call,) = _calls(engine, 1)
    assert (call["state"], call["prompt_tokens"]) == ("answered", 9)
    assert len(provider.requests) == 1


def test_a_long_answer_is_passed_on_unread(engine: EngineUnderTest, provider: FaultServer) -> None:
    _start(engine, provider.url)
    choices = [{"message": {"content": "x" * _LONG_BYTES}}]
    body = json.dumps({"choices": choices, "usage": {"prompt_tokens": 9}}).encode()
    provider.enqueue(fault_server.raw(body, "application/json; charset=utf-8"))
    with engine.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": _OLD, "messages": _MESSAGES})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert answer.content == body
    (call,) = _calls(engine, 1)
    assert (call["state"], call["status"], call["copy"], call["old"]) == ("answered", 200, "dropped", None)
    assert call["prompt_tokens"] is None and call["old_s"] > 0


def test_a_long_answer_that_is_cut_ends_with_an_error_and_is_not_recorded_as_an_answer(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    _start(engine, provider.url)
    provider.enqueue(replace(fault_server.raw(b" " * _LONG_BYTES), end="cut"))
    with engine.http() as http, pytest.raises(httpx2.RemoteProtocolError):
        http.post("/v1/chat/completions", json={"model": _OLD, "messages": _MESSAGES})
    (call,) = _calls(engine, 1)
    assert (call["state"], call["copy"]) == ("unknown", "none") and "before the answer was complete" in call["error"]


def test_a_long_error_is_passed_on_with_its_status_and_without_the_key(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    _start(engine, provider.url)
    provider.enqueue(replace(fault_server.raw(_KEY.encode() * (_LONG_BYTES // len(_KEY))), status=500))
    with engine.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": _OLD, "messages": _MESSAGES})
    assert answer.status_code == 500 and answer.text.startswith("[key]") and _KEY[:3] not in answer.text
    (call,) = _calls(engine, 1)
    assert (call["state"], call["status"], call["copy"]) == ("failed", 500, "none") and _KEY not in call["error"]


def test_a_call_with_a_lone_surrogate_is_relayed_and_not_copied(engine: EngineUnderTest, provider: FaultServer) -> None:
    _start(engine, provider.url)
    provider.enqueue(fault_server.text("refund"))
    body = {"model": _OLD, "messages": [{"role": "user", "content": "x\ud800"}]}
    with engine.http() as http:
        answer = http.post("/v1/chat/completions", content=json.dumps(body).encode())
    assert answer.json()["choices"][0]["message"]["content"] == "refund"
    assert [seen.body for seen in provider.requests] == [body]
    (call,) = _calls(engine, 1)
    assert (call["state"], call["copy"], call["request"], call["old"]) == ("answered", "none", "", None)


def test_a_stopped_model_whose_error_has_a_lone_surrogate_is_replaced(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    _start(engine, provider.url)
    provider.enqueue(fault_server.error(404, "The model \ud800 does not exist", "model_not_found"))
    assert _ask(engine).model == _OLD
    assert (_shadow(engine)["state"], _shadow(engine)["reason"]) == ("dark", "The model ? does not exist")
    (call,) = _calls(engine, 1)
    assert (call["state"], call["status"], call["error"]) == ("failed", 404, "The model ? does not exist")


def test_a_stream_with_an_odd_part_is_recorded_and_its_connection_closed(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    _start(engine, provider.url)
    part = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": "one", "function": 1}]}}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    lines = "".join(f"data: {json.dumps(one)}\n\n" for one in (part, usage)) + "data: [DONE]\n\n"
    provider.enqueue(fault_server.raw(lines.encode(), "text/event-stream"))
    with engine.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": _OLD, "messages": _MESSAGES, "stream": True})
    assert answer.text == lines
    (call,) = _calls(engine, 1)
    assert (call["state"], call["prompt_tokens"]) == ("answered", 7)


def test_a_stream_whose_caller_left_before_it_began_is_recorded(provider: FaultServer, tmp_path: Path) -> None:
    provider.enqueue(fault_server.stalled("ref"))
    store = EngineStore(tmp_path / "engine.db")
    store.add(Shadow(_OLD, 1, TINY, provider.url, "s1", 0, 1))
    body = json.dumps({"model": _OLD, "messages": _MESSAGES, "stream": True}).encode()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": answer_texts.CHAT,
        "query_string": b"",
        "headers": [],
    }

    async def call() -> None:
        recorder, left = Recorder(store), asyncio.Event()
        relay = Relay(store, Copies(recorder, {}, Priority()), recorder, {})
        relay.set_key("s1", _KEY)

        async def receive() -> Message:
            if not messages:
                await left.wait()
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            await asyncio.get_running_loop().create_future()  # the client does not read

        async def refuse(request: Request) -> Response:
            raise AssertionError

        response = await relay.handle(answer_texts.CHAT, refuse, Request(scope, receive))
        left.set()
        await response(scope, receive, send)
        await relay.stop()

    asyncio.run(call())
    (row,) = store.select(ShadowCall, "1")
    assert (row.state, row.ended > 0) == ("unknown", True) and "caller left" in row.error


def test_headers_that_name_the_account_and_a_key_in_an_error_are_not_passed_on(
    engine: EngineUnderTest, provider: FaultServer
) -> None:
    _start(engine, provider.url)
    named = {"openai_organization": "acme", "openai_project": "p", "openai_version": "1", "x_request_id": "r1"}
    provider.enqueue(fault_server.error(401, f"Wrong key: {_KEY}", "invalid_api_key", **named))
    with pytest.raises(openai.AuthenticationError) as raised:
        _ask(engine)
    response = raised.value.response
    assert _KEY not in response.text and "Wrong key" in response.text
    assert {"openai-version", "x-request-id"} <= response.headers.keys()
    assert not {"openai-organization", "openai-project"} & response.headers.keys()
    (call,) = _calls(engine, 1)
    assert _KEY not in call["error"]


def test_what_has_ended_stays_ended_and_can_still_be_collected(engine: EngineUnderTest, provider: FaultServer) -> None:
    _start(engine, provider.url)
    provider.enqueue(fault_server.held())
    name, label = quote(_OLD, safe=""), _labels[-1]
    with ThreadPoolExecutor() as pool, engine.http() as http:
        call = pool.submit(_ask, engine)
        provider.wait_for(lambda server: server.flying == 1)
        assert http.delete(f"/fabula/v1/shadows/{name}?label=another").status_code == 200
        assert _shadow(engine)["has_key"]
        for _ in range(2):
            assert http.delete(f"/fabula/v1/shadows/{name}?label={label}").status_code == 200
        assert http.get("/fabula/v1/shadows").json()["data"] == []
        assert http.get(f"/fabula/v1/shadow_calls?label={label}").json()["in_progress"] == 1
        provider.release()
        assert call.result().usage
        form = {"id": _OLD, "model": TINY, "base_url": provider.url, "api_key": _KEY, "label": label, "share": 1}
        assert http.post("/fabula/v1/shadows", json=form).json()["error"]["code"] == "shadow_ended"
        alias = {"id": _OLD, "model": TINY, "if_shadow": label}
        assert http.post("/fabula/v1/aliases", json=alias).json()["error"]["code"] == "alias_changed"
        (found,) = _calls(engine, 1)
        assert found["state"] == "answered" and found["prompt_tokens"] and found["request"]
        http.delete(f"/fabula/v1/shadow_calls?label={label}")
        (found,) = _calls(engine, 1)
        assert found["prompt_tokens"] and not (found["request"] or found["old"] or found["new"])


def test_the_texts_of_calls_that_wait_are_bounded_and_so_is_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_store, "MAX_WAITING_BYTES", 1000)
    monkeypatch.setattr(shadow_store, "MAX_PAGE_BYTES", 500)
    store = EngineStore(tmp_path / "engine.db")
    store.add(Shadow("old", 1, TINY, "https://x/v1", "s1", 100, 1))
    (shadow,) = store.select(Shadow, "1")
    for _ in range(5):
        call_id = shadow_store.begin(store, shadow, answer_texts.CHAT, copies=True)
        shadow_store.answered(store, call_id, copies=True, old="x" * 200, request="[]", prompt_tokens=1)
        shadow_store.copied(store, call_id, copy="answered", new="x" * 100)
    first = shadow_store.collect(store, "s1", 0, 100)
    assert [(row.copy, row.old is None, row.prompt_tokens) for row in first] == [
        ("dropped", True, 1), ("dropped", True, 1), ("answered", False, 1),
    ]  # fmt: skip
    assert len(shadow_store.collect(store, "s1", first[-1].ended, 100)) == 1
    (shadow,) = store.select(Shadow, "1")
    assert (shadow.copied, shadow.dropped) == (3, 2)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_copy_that_is_dropped_leaves_no_texts_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    monkeypatch.setattr(shadow_store, "MAX_WAITING_BYTES", 100)
    store = EngineStore(tmp_path / "engine.db")
    shadow = Shadow("old", 1, TINY, "https://x/v1", "s1", 100, 1)
    store.add(shadow)
    call_id = shadow_store.begin(store, shadow, answer_texts.CHAT, copies=True)
    shadow_store.answered(store, call_id, copies=True, old="x" * 200, request="[]", prompt_tokens=1)
    if restarts:
        shadow_store.end_interrupted(store)
    else:
        shadow_store.copied(store, call_id, copy="dropped")
    (found,) = store.select(ShadowCall, "1")
    assert (found.request, found.old, found.prompt_tokens, found.copy) == ("", None, 1, "dropped")
    (shadow,) = store.select(Shadow, "1")
    assert (shadow.copied, shadow.dropped) == (0, 1)


def test_a_copy_that_ends_after_the_texts_were_deleted_leaves_none(tmp_path: Path) -> None:
    store = EngineStore(tmp_path / "engine.db")
    shadow = Shadow("old", 1, TINY, "https://x/v1", "s1", 100, 1)
    store.add(shadow)
    call_id = shadow_store.begin(store, shadow, answer_texts.CHAT, copies=True)
    shadow_store.answered(store, call_id, copies=True, old="x", request="[]", prompt_tokens=1)
    shadow_store.forget_texts(store, "s1")
    shadow_store.copied(store, call_id, copy="answered", new="y", new_s=1.0)
    (found,) = store.select(ShadowCall, "1")
    assert (found.request, found.old, found.new, found.bytes) == ("", None, None, 0)
    assert (found.copy, found.new_s, found.prompt_tokens, found.ended > 0) == ("answered", 1.0, 1, True)


def test_calls_that_are_not_collected_are_bounded_and_the_lost_ones_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_store, "MAX_WAITING_CALLS", 3)
    store = EngineStore(tmp_path / "engine.db")
    shadow = Shadow("old", 1, TINY, "https://x/v1", "s1", 100, 1)
    store.add(shadow)
    ids = [shadow_store.begin(store, shadow, answer_texts.CHAT, copies=False) for _ in range(5)]
    for call_id in [*ids, ids[-1]]:  # the last one twice: counted once
        shadow_store.answered(store, call_id, copies=False, old_s=1.0)
    assert [row.id for row in store.select(ShadowCall, "1")] == ids[2:]
    (found,) = store.select(Shadow, "1")
    assert (found.relayed, found.lost) == (5, 2)


_TOOL = {"function": {"name": "find", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("endpoint", "body", "text"),
    [
        (answer_texts.CHAT, {"choices": [{"message": {"content": "x"}}, {"message": {"content": "y"}}]}, "x"),
        (answer_texts.CHAT, {"choices": [{"message": {"content": None, "refusal": "no"}}]}, "no"),
        (
            answer_texts.CHAT,
            {"choices": [{"message": {"content": None, "tool_calls": [_TOOL]}}]},
            '{"tool_calls": [{"name": "find", "arguments": {"a": 1}}]}',
        ),
        (answer_texts.COMPLETIONS, {"choices": [{"text": "x"}]}, "x"),
        (
            answer_texts.RESPONSES,
            {"output": [{"type": "reasoning"}, {"type": "message", "content": [{"text": "x"}]}]},
            "x",
        ),
        (answer_texts.CHAT, {"choices": []}, None),
        (answer_texts.CHAT, [1], None),
        (answer_texts.RESPONSES, {"output": None}, None),
    ],
)
def test_the_text_of_an_answer(endpoint: str, body: Any, text: str | None) -> None:
    assert answer_texts.of_body(endpoint, body).text == text


def _streamed(endpoint: str, *events: Any, end: str = "data: [DONE]\n\n") -> answer_texts.AnswerText:
    reader = answer_texts.StreamReader(endpoint)
    raw = ("".join(f"data: {json.dumps(event)}\n\n" for event in events) + end).encode()
    for at in range(0, len(raw), 1000):
        reader.feed(raw[at : at + 1000])
    return reader.answer()


def test_tool_calls_of_a_stream_are_joined() -> None:
    parts = [
        {"index": 0, "function": {"name": "find", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    found = _streamed(answer_texts.CHAT, *({"choices": [{"index": 0, "delta": {"tool_calls": [p]}}]} for p in parts))
    whole = {"choices": [{"message": {"tool_calls": [_TOOL]}}]}
    assert found.text == answer_texts.of_body(answer_texts.CHAT, whole).text


@pytest.mark.parametrize("odd", [5, "x", [5], [{"index": "two", "function": 7}], [{"index": -1}], {"a": 1}, None])
def test_an_odd_answer_is_read_as_far_as_possible(odd: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": True}
    body = {"choices": [{"message": {"content": "x", "tool_calls": odd}}], "usage": usage}
    assert answer_texts.of_body(answer_texts.CHAT, body).prompt_tokens == 3
    assert answer_texts.of_body(answer_texts.RESPONSES, {"output": [{"type": "message", "content": odd}]}).text in (
        None,
        "",
    )
    delta = {"content": "x", "tool_calls": odd}
    streamed = _streamed(
        answer_texts.CHAT, {"choices": [{"index": 0, "delta": delta}]}, {"choices": odd, "usage": usage}
    )
    assert (streamed.prompt_tokens, streamed.completion_tokens) == (3, None) and streamed.text is not None


def test_the_tokens_of_a_long_stream_are_known_and_its_end_without_the_last_line() -> None:
    piece = {"choices": [{"index": 0, "delta": {"content": "x" * 10_000}}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    found = _streamed(answer_texts.CHAT, *[piece] * 110, usage)
    assert (found.text, found.prompt_tokens, found.completion_tokens) == (None, 1, 2)
    last = {"choices": [{"index": 0, "delta": {"content": "x\ud800"}, "finish_reason": "stop"}]}
    assert _streamed(answer_texts.CHAT, last, end="").text == "x?"
    assert _streamed(answer_texts.CHAT, piece, end="").text is None
    ended = {"type": "response.incomplete", "response": {"output": [], "usage": {"input_tokens": 1}}}
    assert _streamed(answer_texts.RESPONSES, ended, end="").prompt_tokens == 1


@pytest.mark.parametrize(
    ("status", "message", "code", "is_stopped"),
    [
        (404, "The model `ft:x` does not exist or you do not have access to it.", "model_not_found", True),
        (410, "The model gpt-4o has been deprecated", None, True),
        (400, "The model ft:x was shut down on 2027-01-14", None, True),
        (404, "Invalid URL (POST /chat/completions)", None, False),
        (400, "max_tokens is too large", "invalid_value", False),
        (400, "Invalid value: 'my model does not exist'. Supported values are: 'user'.", "invalid_value", False),
        (400, "Invalid value: 'my model does not exist'.", None, False),  # a caller's words
        (400, "For this model, the parameter 'max_tokens' is deprecated.", "unsupported_parameter", False),
        (401, "The model does not exist", "invalid_api_key", False),
        (503, "The model does not exist", None, False),
    ],
)
def test_only_a_model_that_is_gone_has_stopped(status: int, message: str, code: str | None, is_stopped: bool) -> None:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    assert (upstream.stopped(status, body) is not None) is is_stopped


def test_in_team_mode_a_relay_leads_into_the_internet_only() -> None:
    assert upstream.rules_of({"FABULA_MODE": "team"}).refuses_host("169.254.169.254")
    assert not upstream.rules_of({"FABULA_MODE": "team", "FABULA_INTERNAL_SERVERS": "10.0.0.5"}).refuses_host(
        "10.0.0.5"
    )
    assert not upstream.rules_of({}).refuses_host("127.0.0.1")


_NAME, _OTHER_NAME = "llm.example.com", "other.example.com"


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets both names lead to these addresses, one more for each look-up; the last one stays."""

    def lead_to(*addresses: str) -> None:
        left, real = list(addresses), socket.getaddrinfo

        def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host not in (_NAME, _NAME.encode(), _OTHER_NAME, _OTHER_NAME.encode()):
                return real(host, port, *args, **kwargs)
            return real(left.pop(0) if len(left) > 1 else left[0], port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return lead_to


def _relayed_for_a_team(folder: Path, allowed: str, *urls: str) -> list[int]:
    """The status that a caller gets from a relay in team mode, for each of the providers' addresses."""
    store = EngineStore(folder / "engine.db")

    async def refuse(request: Request) -> Response:
        raise AssertionError

    async def ask(relay: Relay, model: str) -> int:
        body = json.dumps({"model": model, "messages": _MESSAGES}).encode()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not messages:
                await asyncio.get_running_loop().create_future()  # the caller stays
            return messages.pop()

        scope = {"type": "http", "method": "POST", "path": answer_texts.CHAT, "query_string": b"", "headers": []}
        return (await relay.handle(answer_texts.CHAT, refuse, Request(scope, receive))).status_code

    async def ask_all() -> list[int]:
        recorder = Recorder(store)
        environ = {"FABULA_MODE": "team", "FABULA_INTERNAL_SERVERS": allowed}
        relay = Relay(store, Copies(recorder, {}, Priority()), recorder, environ)
        for number, url in enumerate(urls):
            store.add(Shadow(f"old-{number}", 1, TINY, url, f"s{number}", 0, 1))
            relay.set_key(f"s{number}", _KEY)
        found = [await ask(relay, f"old-{number}") for number in range(len(urls))]
        await relay.stop()
        return found

    return asyncio.run(ask_all())


@pytest.mark.parametrize(
    ("allowed", "addresses", "status"),
    [
        ("", ["127.0.0.1"], 502),
        ("127.0.0.2", ["127.0.0.2", "127.0.0.1"], 502),  # DNS rebinding: the name changes after it was checked
        (_NAME, ["127.0.0.1"], 200),
        ("127.0.0.1", ["127.0.0.1"], 200),
    ],
)
def test_in_team_mode_the_connection_is_made_to_the_address_that_was_checked(
    provider: FaultServer, tmp_path: Path, named: Callable[..., None], allowed: str, addresses: list[str], status: int
) -> None:
    named(*addresses)
    url = provider.url.replace("127.0.0.1", _NAME)
    assert _relayed_for_a_team(tmp_path, allowed, url) == [status]
    assert [seen.headers["host"].partition(":")[0] for seen in provider.requests] == [_NAME] * (status == 200)


def test_in_team_mode_each_name_needs_its_certificate_also_at_the_same_address(
    tmp_path: Path, named: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certificate_for(tmp_path / "pem", _NAME)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    named("127.0.0.1")
    with serving(certificate) as place:
        urls = [f"https://{name}:{place.rpartition(':')[2]}/v1" for name in (_NAME, _OTHER_NAME)]
        assert _relayed_for_a_team(tmp_path, "127.0.0.1", *urls) == [404, 502]  # the server has no such path


def test_in_team_mode_a_proxy_looks_names_up_and_inner_addresses_are_refused_all_the_same(
    provider: FaultServer, tmp_path: Path, named: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", provider.url.removesuffix("/v1"))
    named("127.0.0.1")  # what this machine's own look-up would find
    assert _relayed_for_a_team(tmp_path, "", f"http://{_NAME}/v1", "http://169.254.169.254/v1") == [200, 502]
    assert [seen.headers["host"] for seen in provider.requests] == [_NAME]
