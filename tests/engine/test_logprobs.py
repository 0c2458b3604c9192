"""Log-probabilities on chat and completions, and `echo`: in OpenAI's shapes, and the same numbers in every way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from core.engine.formats.gguf_file import model_card
from core.engine.serving import token_probs
from core.engine.serving.llama import BaseModel, Pool
from tests.support.engine_process import TINY, EngineUnderTest, running
from tests.support.tiny_gemma import write_tiny_gemma

ASKED: Any = [{"role": "user", "content": "一个英雄"}]
PROMPT = "奥特曼 é<end_of_turn>\nthe hero"  # é is two tokens here; the turn's end is one that ends a text


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("logprobs") / "home") as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client(strict=False)  # like OpenAI's own server, `echo` gives null for the first token


def _complete(client: OpenAI, **more: Any) -> Any:
    return client.completions.create(**{"model": TINY, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **more})


def test_a_chats_tokens_have_probabilities_and_alternatives(engine: EngineUnderTest) -> None:
    made = engine.client().chat.completions.create(
        model=TINY, messages=ASKED, max_tokens=8, logprobs=True, top_logprobs=3, temperature=0
    )
    choice = made.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        assert bytes(token.bytes or ()).decode() == token.token
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(top.logprob for top in token.top_logprobs) < 0
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1


def test_without_alternatives_there_are_only_the_tokens(engine: EngineUnderTest) -> None:
    client = engine.client()
    chosen = client.chat.completions.create(model=TINY, messages=ASKED, max_tokens=4, logprobs=True).choices[0]
    assert chosen.logprobs is not None and chosen.logprobs.content
    assert all(token.top_logprobs == [] for token in chosen.logprobs.content)
    plain = client.chat.completions.create(model=TINY, messages=ASKED, max_tokens=4, logprobs=False).choices[0]
    assert plain.logprobs is None


def test_a_streamed_chat_has_the_same_probabilities(client: OpenAI) -> None:
    asked: Any = {"model": TINY, "messages": ASKED, "max_tokens": 8, "logprobs": True, "seed": 1}
    whole = client.chat.completions.create(**asked).choices[0]
    streamed = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    found = [token for choice in streamed if choice.logprobs for token in choice.logprobs.content or []]
    assert [token.token for token in found] == [token.token for token in whole.logprobs.content]
    assert [token.logprob for token in found] == pytest.approx([token.logprob for token in whole.logprobs.content])


def test_completions_have_the_older_shape(client: OpenAI) -> None:
    choice = _complete(client, logprobs=2).choices[0]
    probs = choice.logprobs
    assert "".join(probs.tokens) == choice.text
    assert len(probs.tokens) == len(probs.token_logprobs) == len(probs.top_logprobs) == len(probs.text_offset)
    for token, logprob, offset, top in zip(
        probs.tokens, probs.token_logprobs, probs.text_offset, probs.top_logprobs, strict=True
    ):
        assert choice.text[offset:].startswith(token)
        assert top[token] == logprob
        assert 2 <= len(top) <= 3
    assert _complete(client, logprobs=0).choices[0].logprobs.top_logprobs is None
    assert _complete(client).choices[0].logprobs is None


def test_a_stop_string_leaves_neither_text_nor_tokens(client: OpenAI) -> None:
    text = _complete(client).choices[0].text
    choice = _complete(client, logprobs=0, stop=text[2:4]).choices[0]
    assert choice.text == text[: text.index(text[2:4])]
    assert choice.text.startswith("".join(choice.logprobs.tokens))


@pytest.mark.parametrize("stream", [False, True])
def test_echo_begins_with_the_prompt(client: OpenAI, stream: bool) -> None:
    made = _complete(client, echo=True, n=2, stream=stream, temperature=1)
    if stream:
        texts = ["", ""]
        for chunk in made:
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        texts = [choice.text for choice in made.choices]
    assert all(text.startswith(PROMPT) and len(text) > len(PROMPT) for text in texts)


def test_echo_gives_the_probabilities_of_the_prompt(client: OpenAI) -> None:
    """A text that was written with certain probabilities has the same ones when it is the prompt."""
    written = _complete(client, logprobs=1, max_tokens=4).choices[0]
    echoed = _complete(client, prompt=PROMPT + written.text, logprobs=1, echo=True, max_tokens=0)
    choice = echoed.choices[0]
    probs = choice.logprobs
    assert choice.text == PROMPT + written.text
    assert (choice.finish_reason, echoed.usage.completion_tokens) == ("length", 0)
    assert echoed.usage.prompt_tokens == len(probs.tokens) + 1  # <bos>
    assert probs.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in probs.token_logprobs[1:])
    n = len(written.logprobs.tokens)
    assert probs.tokens[-n:] == written.logprobs.tokens
    assert probs.token_logprobs[-n:] == pytest.approx(written.logprobs.token_logprobs, abs=0.02)
    assert {"bytes:\\xc3", "bytes:\\xa9", "<end_of_turn>"} <= set(probs.tokens)
    for token, offset in zip(probs.tokens, probs.text_offset, strict=True):
        assert choice.text[offset:].startswith("é" if token.startswith("bytes:") else token)


def test_echo_of_token_ids(client: OpenAI) -> None:
    choice = _complete(client, prompt=[353, 354, 282], logprobs=1, echo=True, max_tokens=2).choices[0]
    assert choice.text.startswith("hi!")
    assert choice.logprobs.tokens[:3] == ["h", "i", "!"]
    assert len(choice.logprobs.tokens) == 5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
)
def test_bad_logprobs_are_refused_by_name(client: OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(**{"model": TINY, "messages": ASKED, **body})
    assert refused.value.param == param


def test_no_tokens_are_only_allowed_with_echo(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        _complete(client, max_tokens=0)
    assert refused.value.param == "max_tokens"


def test_a_long_prompt_is_echoed_in_several_runs(client: OpenAI) -> None:
    choice = _complete(client, prompt="the hero " * 60, logprobs=0, echo=True, max_tokens=1).choices[0]
    assert len(choice.logprobs.tokens) > 300  # more than one run
    assert all(logprob is not None and logprob < 0 for logprob in choice.logprobs.token_logprobs[1:])


def test_an_unlikely_tokens_probability_is_measured_without_a_list_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers as in the list; in Gemma's vocabulary that takes llama.cpp seconds for each token."""
    path = write_tiny_gemma(tmp_path / "tiny.gguf")
    base = BaseModel(TINY, path, model_card(path))

    async def both() -> list[tuple[float, float]]:
        pool = Pool(1)
        try:
            async with pool.lease(base) as backend:
                read = [base.card.bos or 0, 353, 354]
                found = []
                for token in range(0, base.card.vocab_size, 23):
                    monkeypatch.setattr(token_probs, "_LIKELY", 1000)
                    listed = await token_probs._looked_up(backend, read, token, 1)
                    monkeypatch.setattr(token_probs, "_LIKELY", 1)
                    measured = await token_probs._looked_up(backend, read, token, 1)
                    assert [top["id"] for top in listed["top_logprobs"]] == [
                        top["id"] for top in measured["top_logprobs"]
                    ]
                    found.append((float(listed["logprob"]), float(measured["logprob"])))
                return found
        finally:
            await pool.close()

    pairs = asyncio.run(both())
    assert [measured for _, measured in pairs] == pytest.approx([listed for listed, _ in pairs], abs=0.01)
