"""Clients with incomplete requests, and too many clients, against a real engine process."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core.engine.api import connections
from tests.support.engine_process import DEADLINE_S, TINY, TOKEN, EngineUnderTest, pairs, poll, running, upload
from tests.support.impatient_engine import BODY_IDLE_TIMEOUT_S

_AUTH = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    impatient = EngineUnderTest(tmp_path_factory.mktemp("connections") / "home")
    impatient.module = "tests.support.impatient_engine"
    impatient.start()
    yield impatient
    impatient.stop()


def _connected(engine: EngineUnderTest, stack: ExitStack) -> socket.socket:
    port = int(engine.url.removesuffix("/v1").rpartition(":")[2])
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S))


def _until_closed(waiting: Mapping[str, socket.socket]) -> dict[str, bytes]:
    """What each connection received before the engine closed it."""
    received = dict.fromkeys(waiting, b"")
    with selectors.DefaultSelector() as selector:
        for name, each in waiting.items():
            selector.register(each, selectors.EVENT_READ, name)
        while selector.get_map():
            ready = selector.select(DEADLINE_S)
            assert ready, f"still open: {[key.data for key in selector.get_map().values()]}"
            for key, _ in ready:
                block = _block(waiting[key.data])
                received[key.data] += block
                if not block:
                    selector.unregister(key.fileobj)
    return received


def _block(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionResetError:
        return b""


_HALF = {
    "nothing": b"",
    "a line": b"POST /v1/files HTTP/1.1\r\n",
    "half of the headers": b"POST /v1/completions HTTP/1.1\r\n" + _AUTH + b"X-Long: ",
    "a second request": b"GET /v1/models HTTP/1.1\r\n" + _AUTH + b"\r\nGET /v1/mod",
    "half of JSON": b"POST /v1/completions HTTP/1.1\r\n" + _AUTH + b'Content-Length: 90\r\n\r\n{"model": ',
    "half of a chunk": b"POST /v1/completions HTTP/1.1\r\n" + _AUTH + b"Transfer-Encoding: chunked\r\n\r\n10\r\n{",
    "half of a form": (
        b"POST /v1/files HTTP/1.1\r\n" + _AUTH + b"Content-Type: multipart/form-data; boundary=b\r\n"
        b'Content-Length: 900\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    ),
    "without a token": b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\nabc",
    "a lost path": b"POST /v1/nowhere HTTP/1.1\r\n" + _AUTH + b"Content-Length: 900\r\n\r\nabc",
}
_ANSWERS = {
    "nothing": [],
    "a line": [408],
    "half of the headers": [408],
    "a second request": [200],
    "half of JSON": [408],
    "half of a chunk": [408],
    "half of a form": [408],
    "without a token": [401],
    "a lost path": [404],
}


@pytest.mark.slow
def test_half_a_request_is_not_waited_for_for_ever(engine: EngineUnderTest) -> None:
    with ExitStack() as stack:
        waiting = {name: _connected(engine, stack) for name in _HALF}
        for name, half in _HALF.items():
            waiting[name].sendall(half)
        assert engine.client().models.list().data  # it serves others in the meantime
        received = _until_closed(waiting)
    for name, text in received.items():
        statuses = [int(part[:3]) for part in text.split(b"HTTP/1.1 ")[1:]]
        assert (name, statuses) == (name, _ANSWERS[name])
        if statuses == [408]:
            error = json.loads(text.partition(b"\r\n\r\n")[2])["error"]
            in_headers = name in ("a line", "half of the headers")
            waited_s = connections.HEADERS_TIMEOUT_S if in_headers else BODY_IDLE_TIMEOUT_S
            assert error["code"] == "request_timeout" and f"waited {waited_s:.0f} seconds" in error["message"]
    assert not list((engine.home / "files" / "incoming").iterdir())
    assert engine.process is not None
    assert upload(engine.client(), pairs(2))


def test_a_request_that_comes_byte_by_byte_within_the_time_is_answered(engine: EngineUnderTest) -> None:
    body = json.dumps({"model": TINY, "text": "abc"}).encode()
    request = b"POST /fabula/v1/tokenize HTTP/1.1\r\n" + _AUTH + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    with ExitStack() as stack:
        connection = _connected(engine, stack)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for each in range(len(request)):
            connection.sendall(request[each : each + 1])
        answer = b""
        while b'{"tokens":3}' not in answer:
            block = connection.recv(4096)
            assert block, answer
            answer += block


def test_connections_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        assert engine.process is not None
        with ExitStack() as stack:
            for _ in range(connections.MAX_REQUESTS - 1):
                _connected(engine, stack).sendall(_HALF["half of JSON"])
            poll(lambda: _status(engine) == 503)
            for _ in range(400):
                _connected(engine, stack)
            poll(lambda: _status(engine) is None)  # closed unread
            assert len(list(Path(f"/proc/{engine.process.pid}/fd").iterdir())) < connections.MAX_REQUESTS + 200
        poll(lambda: _status(engine) == 200)
        assert engine.client().models.list().data


def _status(engine: EngineUnderTest) -> int | None:
    """The response status on a new connection; None if it was closed without a response."""
    with ExitStack() as stack, suppress(ConnectionError):
        connection = _connected(engine, stack)
        connection.sendall(b"GET /health HTTP/1.1\r\n" + _AUTH + b"\r\n")
        if answer := connection.recv(4096):
            return int(answer.split()[1])
    return None
