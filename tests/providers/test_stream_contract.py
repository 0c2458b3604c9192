"""The contract of every text stream: the real one, against a real server, and the fake that other tests use."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from core.actor import LOCAL
from core.db.store import Store
from core.errors import StreamCut
from core.pricing.price_book import PriceBook
from core.providers import Client, CompletionRequest, Provider, RetryPolicy, TextStream
from core.stories import arena, stream
from core.stories.arena import RoundEntry
from core.stories.stream import StoryStream, StreamRequest
from tests.support import fault_server
from tests.support.fakes import FakeRegistry, FakeStream
from tests.support.fault_server import FaultServer, rate_limit
from tests.support.waiting import WAIT_LIMIT_S, until

_REQUEST = CompletionRequest(model="writer", prompt="x")
_PATIENT = RetryPolicy(total_s=7200, tries=3, base_s=3600, cap_s=3600)

Stream = TextStream | FakeStream
Make = Callable[..., Stream]
"""Makes a stream of these pieces; `...` at the end stands for nothing more until it is closed."""


@pytest.fixture(params=["real", "fake"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    if request.param == "fake":
        yield lambda *pieces: FakeStream(pieces, "writer")
        return
    with FaultServer() as server:

        def real(*pieces: object) -> TextStream:
            texts = [piece for piece in pieces if isinstance(piece, str)]
            answer = fault_server.text(*texts)
            if pieces[-1:] == (...,):
                answer = fault_server.stalled(*texts)
            elif pieces and isinstance(pieces[-1], StreamCut):
                answer = fault_server.cut(*texts)
            server.enqueue(answer)
            return Client(server.provider()).stream(_REQUEST)

        yield real


def test_facts_grow_while_it_is_read_and_usage_comes_at_the_end(make: Make) -> None:
    told = make("a", "b", "c")
    assert (told.facts.model, told.facts.chunks, told.facts.first_text_s) == ("writer", 0, None)
    assert next(told) == "a" and iter(told) is told
    assert (told.facts.chunks, told.facts.tokens, told.facts.finish_reason) == (1, None, None)
    assert told.facts.first_text_s is not None
    assert list(told) == ["b", "c"]
    facts = told.facts
    assert (facts.chunks, facts.tokens, facts.finish_reason) == (3, 3, "stop") and facts.prompt_tokens is not None
    assert list(told) == []  # it is read once


def test_an_error_comes_once_after_the_words_that_arrived(make: Make) -> None:
    told = make("a", StreamCut("Cut.", "Again."))
    assert next(told) == "a"
    with pytest.raises(StreamCut):
        next(told)
    assert list(told) == [] and told.facts.finish_reason is None and told.facts.tokens is None


def test_closed_before_it_began_it_is_empty(make: Make) -> None:
    told = make("a")
    told.close()
    assert list(told) == [] and told.facts.finish_reason is None


def test_closed_between_two_pieces_it_ends_though_more_has_arrived(make: Make) -> None:
    with make("a", "b", "c") as told:
        assert next(told) == "a"
    assert list(told) == [] and told.facts.finish_reason is None and told.facts.chunks == 1
    told.close()  # closing twice is harmless


@pytest.mark.parametrize("pieces", [(...,), ("a", ...), ("a", "b", ...)], ids=["no piece", "one", "two"])
def test_close_wakes_a_reader_that_waits_in_another_thread(make: Make, pieces: tuple[object, ...]) -> None:
    told = make(*pieces)
    with _reading(told) as read:
        until(lambda: len(read) == len(pieces) - 1, "the pieces")
        told.close()
    assert read == list(pieces[:-1]) and told.facts.finish_reason is None and told.facts.tokens is None


@contextmanager
def _reading(told: Stream) -> Iterator[list[str]]:
    """Read in a thread, which must end with the block."""
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(told), daemon=True)  # extend() appends one by one
    reader.start()
    yield read
    reader.join(WAIT_LIMIT_S)
    assert not reader.is_alive()


# --- the states before the first byte ------------------------------------------------------------------------------


@contextmanager
def _waits_for_the_headers() -> Iterator[tuple[str, Callable[[], bool]]]:
    with FaultServer(fault_server.held()) as server:
        yield server.url, lambda: server.flying == 1
        server.wait_for(lambda s: len(s.requests) == 1)  # and it was sent once


@contextmanager
def _waits_for_another_try() -> Iterator[tuple[str, Callable[[], bool]]]:
    with FaultServer(rate_limit(retry_after="3600")) as server:
        yield server.url, lambda: len(server.requests) == 1 and server.flying == 0


@contextmanager
def _shakes_hands() -> Iterator[tuple[str, Callable[[], bool]]]:
    """TLS with a server that accepts and then sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_LIMIT_S)
        taken: list[socket.socket] = []
        accepting = threading.Thread(target=lambda: taken.append(listening.accept()[0]), daemon=True)
        accepting.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/v1", lambda: bool(taken)
        taken[0].close()  # httpcore leaves the socket of an interrupted handshake open: the reader is what counts


@contextmanager
def _connects() -> Iterator[tuple[str, Callable[[], bool]]]:
    """A server whose connection queue is full, so the kernel does not respond."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, ExitStack() as filled:
        port = listening.getsockname()[1]
        filled.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield f"http://127.0.0.1:{port}/v1", lambda: _connecting_to(port)


def _connecting_to(port: int) -> bool:
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("there is no /proc/net/tcp here to see a connection that is being made")
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)  # 02: SYN_SENT


@contextmanager
def _looks_the_name_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[], bool]]]:
    """A resolver that does not respond."""
    asked, answered = threading.Event(), threading.Event()

    def getaddrinfo(*args: object, **options: object) -> list[object]:
        asked.set()
        answered.wait(WAIT_LIMIT_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", getaddrinfo)
        yield "http://writer.example/v1", asked.is_set
        answered.set()


_STATES = {
    "headers": _waits_for_the_headers,
    "another try": _waits_for_another_try,
    "handshake": _shakes_hands,
    "connecting": _connects,
}


@contextmanager
def _state(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[], bool]]]:
    with _looks_the_name_up(monkeypatch) if name == "name lookup" else _STATES[name]() as found:
        yield found


@pytest.mark.parametrize("name", [*_STATES, "name lookup"])
def test_close_ends_it_in_every_state_before_the_first_byte(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with _state(name, monkeypatch) as (url, reached):
        client = Client(Provider("x", "compatible", "The server", url, ""), retry_policy=_PATIENT, timeout=600.0)
        told = client.stream(_REQUEST)
        with _reading(told) as read:
            until(reached, f"a request in the state {name!r}")
            told.close()
        assert read == [] and told.facts.finish_reason is None


@pytest.mark.parametrize("name", [*_STATES, "name lookup"])
def test_stopping_a_story_ends_its_thread_in_every_state(
    name: str, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    with _state(name, monkeypatch) as (url, reached):
        client = Client(Provider("engine", "engine", "The engine", url, ""), retry_policy=_PATIENT, timeout=600.0)
        told = StoryStream(LOCAL, StreamRequest(store, client, _REQUEST, PriceBook.load()))
        until(reached, f"a request in the state {name!r}")
        told.cancel()
        _thread_ends(told)
        assert told.done and told.error is None and told.facts.stopped and told.facts.cost_usd == Decimal(0)


def test_four_panes_are_stopped_together(store: Store) -> None:
    with FaultServer(fault_server.held()) as server:
        names = [f"m{n}" for n in range(4)]
        registry = FakeRegistry({name: Client(server.provider(id=name), retry_policy=_PATIENT) for name in names})
        entries = [RoundEntry(name, _REQUEST) for name in names]
        round_ = arena.start_round(store, LOCAL, registry, entries, PriceBook.load())  # type: ignore[arg-type]  # a fake
        server.wait_for(lambda s: s.flying == 4)
        round_.stop()
        for told in round_.stories:
            _thread_ends(told)
        assert round_.done and not any(story.error for story in round_.stories)


def _thread_ends(told: stream.StoryStream) -> None:
    for thread in [t for t in threading.enumerate() if t.name == f"story-{told.id}"]:
        thread.join(WAIT_LIMIT_S)
        assert not thread.is_alive()


def test_a_stream_that_is_dropped_unread_ends_its_request() -> None:
    with FaultServer() as server:
        server.default = fault_server.stalled("a")
        told: TextStream | None = Client(server.provider()).stream(_REQUEST)
        assert told is not None and next(told) == "a"
        task = told._task
        told = None
        assert task is not None
        until(task.cancelled, "the end of the request")
