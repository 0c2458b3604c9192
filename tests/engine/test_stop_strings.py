"""Stop strings and the token limit: all generated text except the stop string is delivered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from openai import OpenAI

from core.engine.api.errors import ApiError
from core.engine.formats.gguf_file import ModelCard
from core.engine.serving import generate, llama
from core.engine.serving.generate import StopMatcher
from core.engine.serving.llama_http import ServerAddress
from tests.support.engine_process import TINY, running
from tests.support.tiny_gemma import EOS, vocabulary

_IDS = {text: number for number, (text, _, _) in enumerate(vocabulary())}
_ENDS = {str(EOS): -100, str(_IDS["<end_of_turn>"]): -100}  # logit_bias: never end before the token limit


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    with running(tmp_path_factory.mktemp("stops") / "home") as engine:
        yield engine.client(strict=False)  # the SDK's type for streamed completions has no `finish_reason: null`


# --- the matcher ------------------------------------------------------------------------------------------------------


def _expected(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first (the longest of those), found by brute force."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], True
    return text, False


@pytest.mark.parametrize(
    ("parts", "stops", "given_out"),
    [
        (["if (a ", "<"], ["<end_of_turn>"], ["if (a ", ""]),
        (["<end", "_of_", "turn>", "x"], ["<end_of_turn>"], ["", "", "", ""]),
        (["a<end", "less"], ["<end_of_turn>"], ["a", "<endless"]),
        (["aab", "aac"], ["aabaad"], ["", "aabaac"]),
        (["xaabaa", "baad!"], ["aabaad"], ["x", "aab"]),
        (["abcd"], ["bcd", "c"], ["ab"]),
        (["abc", "d"], ["abcd", "bcd", "d"], ["", ""]),
        (["故事。", "完", "结"], ["。完了", "完结"], ["故事", "", "。"]),
        (["👩‍🚀", "👩"], ["👩‍🚒"], ["👩‍🚀", ""]),
        (["a b c"], [], ["a b c"]),
    ],
)
def test_what_is_given_out_part_by_part(parts: list[str], stops: list[str], given_out: list[str]) -> None:
    matcher = StopMatcher(stops)
    assert [matcher.feed(part) for part in parts] == given_out
    text, found = _expected("".join(parts), stops)
    assert (("".join(given_out) + matcher.flush()), matcher.found) == (text, found)


@given(
    parts=st.lists(st.text("ab。", max_size=4), max_size=12),
    stops=st.lists(st.text("ab。", min_size=1, max_size=5), max_size=4),
)
def test_any_text_in_any_parts(parts: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for part in parts:
        shown += matcher.feed(part)
        assert "".join(parts).startswith(shown)
    assert (shown + matcher.flush(), matcher.found) == _expected("".join(parts), stops)


def test_a_long_stop_string_costs_no_more_than_its_length() -> None:
    matcher = StopMatcher(["a" * 50_000 + "b"])
    assert "".join(matcher.feed("aaaa") for _ in range(25_000)) + matcher.flush() == "a" * 100_000


# --- a real engine ----------------------------------------------------------------------------------------------------


def _forced(token: str) -> dict[str, int]:
    """A logit bias that makes the model write only this token."""
    return {**_ENDS, str(_IDS[token]): 100}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("token", "limit", "stop", "text", "reason", "tokens"),
    [
        ("j", 3, "jjjjx", "jjj", "length", 3),
        ("j", 3, ["x", "jjjjj", "jx"], "jjj", "length", 3),
        ("j", 3, None, "jjj", "length", 3),
        ("<", 4, "<end>", "<<<<", "length", 4),
        ("英雄", 3, "英雄英雄英雄!", "英雄英雄英雄", "length", 3),
        ("奥特曼", 2, ["特曼。", "奥特曼奥特曼奥"], "奥特曼奥特曼", "length", 2),
        ("。", 5, "。\n", "。。。。。", "length", 5),
        ("\n", 2, "\n\n\n", "\n\n", "length", 2),
        ("j", 9, "jjj", "", "stop", 3),
        ("j", 9, ["jjjj", "jj"], "", "stop", 2),
        ("英雄", 9, "雄英雄", "英", "stop", 2),
        ("奥特曼", 9, ["特", "曼"], "奥", "stop", 1),
    ],
)
def test_text_at_the_token_limit(
    client: OpenAI, token: str, limit: int, stop: Any, text: str, reason: str, tokens: int, n: int, stream: bool
) -> None:
    options: dict[str, Any] = {"model": TINY, "max_tokens": limit, "stop": stop, "n": n, "logit_bias": _forced(token)}
    texts, reasons, completion_tokens = _asked(client.completions.create, {"prompt": "a", **options}, stream)
    assert (texts, reasons, completion_tokens) == ([text] * n, [reason] * n, tokens * n)
    messages = [{"role": "user", "content": "a"}]
    texts, reasons, completion_tokens = _asked(
        client.chat.completions.create, {"messages": messages, **options}, stream
    )
    assert (texts, reasons, completion_tokens) == ([text] * n, [reason] * n, tokens * n)


def _without_stops(client: OpenAI, seed: int, stream: bool) -> tuple[dict[str, Any], list[str], int]:
    """A request for two texts, and its result without stop strings: the texts and their number of tokens."""
    options: dict[str, Any] = {
        "model": TINY,
        "prompt": "写",
        "max_tokens": 24,
        "seed": seed,
        "n": 2,
        "logit_bias": _ENDS,
    }
    free, _, tokens = _asked(client.completions.create, options, stream)
    return options, free, tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_stop_string_that_is_never_complete_changes_nothing(client: OpenAI, seed: int, stream: bool) -> None:
    options, free, tokens = _without_stops(client, seed, stream)
    for length in (1, 2, 5):
        stops = [text[-length:] + "☃" for text in free]
        assert _asked(client.completions.create, {**options, "stop": stops}, stream) == (free, ["length"] * 2, tokens)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_complete_stop_string_ends_the_text(client: OpenAI, seed: int, stream: bool) -> None:
    options, free, tokens = _without_stops(client, seed, stream)
    stops = [free[0][4:7], free[0][5:6], free[1][-3:], "never"]
    texts, reasons, fewer = _asked(client.completions.create, {**options, "stop": stops}, stream)
    assert list(zip(texts, reasons, strict=True)) == [
        (text, "stop" if found else "length") for text, found in (_expected(text, stops) for text in free)
    ]
    assert fewer < tokens


def _asked(create: Any, options: dict[str, Any], stream: bool) -> tuple[list[str], list[str], int]:
    """The texts and finish reasons of all choices, and the completion tokens that usage counts."""
    if not stream:
        made = create(**options)
        texts = [choice.text if hasattr(choice, "text") else choice.message.content for choice in made.choices]
        return texts, [choice.finish_reason for choice in made.choices], made.usage.completion_tokens
    texts, reasons, tokens = [""] * options["n"], [""] * options["n"], 0
    for chunk in create(**options, stream=True, stream_options={"include_usage": True}):
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            texts[choice.index] += choice.text if hasattr(choice, "text") else choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or ""
    return texts, reasons, tokens


# --- a llama.cpp that breaks ------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_delivers_what_was_held_first() -> None:
    assert asyncio.run(_broken_after("if (a ", "<")) == (["if (a ", "", "<"], 503)


async def _broken_after(*texts: str) -> tuple[list[str], int]:
    async with _breaking_llama(texts) as backend:
        seen: list[str] = []
        with pytest.raises(ApiError) as caught:
            async for piece in generate.stream_chunks(backend, {"prompt": "a", "stop": ["<end_of_turn>"]}):
                seen.append(piece.text)
        return seen, caught.value.status


@asynccontextmanager
async def _breaking_llama(texts: Sequence[str]) -> AsyncIterator[llama.Backend]:
    """A llama.cpp server that closes the connection after these texts, as if its process was killed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, text in enumerate(texts, 1):
            counts = {"tokens_predicted": number, "tokens_evaluated": 2}
            event = b"data: " + json.dumps({"content": text, "stop": False, **counts}).encode() + b"\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = ServerAddress("127.0.0.1", server.sockets[0].getsockname()[1], "key")
    base = llama.BaseModel("a", Path("a"), ModelCard("gemma3", 512, 400, 2, 1, ""))
    async with server:
        yield llama.Backend(base, None, address, None)  # type: ignore[arg-type]  # no process is looked at
