"""Streams cut at every byte, characters split between chunks, surrogate halves, and NUL characters."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ProviderError
from core.providers import Client, CompletionRequest, Provider, RetryPolicy
from core.sanitize import SurrogateJoiner, safe_cell, storable

_PIECES = ("从前，", "有一位", "英雄 😀", " — \u00e9nd.")
_TEXT = "".join(_PIECES)
_ONCE = RetryPolicy(total_s=1, tries=1)


def _event(piece: str, finish: str | None = None, *, escaped: bool = False) -> bytes:
    choice = {"index": 0, "text": piece, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "c", "object": "text_completion", "created": 1, "model": "writer", "choices": [choice]}
    return f"data: {json.dumps(chunk, ensure_ascii=escaped)}\n\n".encode()


def _wire() -> bytes:
    return b"".join([*(_event(piece) for piece in _PIECES), _event("", "stop"), b"data: [DONE]\n\n"])


class _Chunks(httpx2.AsyncByteStream):
    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def _read(chunks: list[bytes]) -> tuple[str, ProviderError | None, str | None]:
    """The text, its finish reason, and the error."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _request: httpx2.Response(200, headers=headers, stream=_Chunks(chunks)))
    provider = Provider("x", "compatible", "The server", "http://127.0.0.1:1/v1", "")
    client = Client(provider, async_transport=transport, retry_policy=_ONCE)
    stream = client.stream(CompletionRequest(model="writer", prompt="x", endpoint="completion"))
    text, error = "", None
    try:
        for piece in stream:
            text += piece
    except ProviderError as failure:
        error = failure
    client.close()
    return text, error, stream.facts.finish_reason


def test_a_story_is_complete_wherever_its_bytes_are_split() -> None:
    wire = _wire()
    for at in range(1, len(wire)):
        assert _read([wire[:at], wire[at:]]) == (_TEXT, None, "stop"), at


def test_a_story_sent_byte_by_byte_is_complete() -> None:
    wire = _wire()
    assert _read([wire[i : i + 1] for i in range(len(wire))]) == (_TEXT, None, "stop")


def test_a_story_cut_at_any_byte_keeps_complete_pieces_and_reports_the_cut() -> None:
    wire = _wire()
    finished = wire.index(b'"stop"')
    begun = {"".join(_PIECES[:n]) for n in range(len(_PIECES) + 1)}
    for at in range(len(wire)):
        text, error, reason = _read([wire[:at]])
        assert text in begun and "\ufffd" not in text, at
        if at <= finished:
            assert error is not None and reason is None, at
        if error is None:
            assert (text, reason) == (_TEXT, "stop"), at


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\ud83d", "\ude00b"], "a😀b"),
        (["\ud83d", "", "\ude00"], "😀"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a\ude00b"], "a\ufffdb"),
        (["a\ud83d"], "a\ufffd"),
        (["nul\0l"], "null"),
        (["\ufeffa"], "\ufeffa"),
        (["从", "前"], "从前"),
    ],
)
def test_surrogate_halves_are_joined_or_replaced(pieces: list[str], text: str) -> None:
    joined = SurrogateJoiner()
    got = "".join([*(joined.feed(piece) for piece in pieces), joined.flush()])
    assert got == text
    assert storable(got) == got


@settings(max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=5), max_size=8))
def test_any_text_can_be_stored(pieces: list[str]) -> None:
    joined = SurrogateJoiner()
    got = "".join([*(joined.feed(piece) for piece in pieces), joined.flush()])
    got.encode("utf-8")
    assert "\0" not in got
    complete = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    assert len(got) >= len(complete.replace("\ufffd", ""))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "＝1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    assert safe_cell(f"a{text}") == f"a{text}"
