"""Generates texts with vLLM: llama.cpp's parameters as those of POST /v1/completions, and its events as chunks.

Prompts are sent as token ids, split by llama.cpp as in training; stop strings are matched here, as for llama.cpp.
"""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from core.engine.api.errors import ApiError, unavailable
from core.engine.formats.vocabulary import Vocabulary
from core.engine.serving import llama_http, token_probs, vllm_http
from core.engine.serving.generate import GeneratedChunk, GenerationEnd, HeldTokens, StopMatcher, llama_error
from core.engine.serving.llama import Backend
from core.engine.serving.llama_errors import too_long
from core.engine.serving.llama_http import ConnectionBroken, ServerAddress, ServerRefused
from core.engine.serving.prompts import Prompt
from core.engine.serving.token_probs import TokenProb
from core.engine.serving.tool_choice import AFTER_TRIGGER
from core.message import msg

_PLAIN = ("temperature", "presence_penalty", "frequency_penalty", "min_p")  # the same in both programs
_AS_IDS = {"return_tokens_as_token_ids": True}  # otherwise all parts of characters have the same name, ""
_ID = "token_id:"  # what these names begin with
_LEAST_TOP_P = 1e-6  # vLLM refuses 0, which leaves only the most likely token; so does this


@dataclass(frozen=True, slots=True)
class Target:
    """A model on a server.

    Attributes:
        name: its name there.
        context: the longest request in tokens.
        tokenizer: the llama.cpp server of its base.
    """

    server: ServerAddress
    name: str
    context: int
    tokenizer: Backend


class _TokenReader:
    """Turns the tokens of an answer into text, as llama.cpp does: vLLM drops bytes that are no character, and may drop
    what follows them.

    Args:
        shown: control tokens whose names are part of the text.
        n_top: how many of the most likely tokens are wanted at each place.
    """

    def __init__(self, vocabulary: Vocabulary, shown: Container[int], n_top: int) -> None:
        self._vocabulary, self._shown, self._n_top = vocabulary, shown, n_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def text(self, tokens: Sequence[int]) -> str:
        """The text of the next tokens; part of a character is kept until the rest arrives."""
        return self._decoder.decode(b"".join(self._vocabulary.bytes_of(token, self._shown) for token in tokens))

    def probs(self, found: Mapping[str, Any]) -> list[TokenProb]:
        """The tokens of a choice's `logprobs`, where vLLM also lists the chosen one if it is not a likely one."""
        places = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
        return [self._prob(name, logprob, self._top(top or {})) for name, logprob, top in places]

    def _top(self, listed: Mapping[str, float]) -> tuple[TokenProb, ...]:
        likely = sorted(listed.items(), key=lambda pair: -pair[1])[: self._n_top]
        return tuple(self._prob(name, logprob) for name, logprob in likely)

    def _prob(self, name: str, logprob: float | None, top: tuple[TokenProb, ...] = ()) -> TokenProb:
        raw = self._vocabulary.bytes_of(int(name.removeprefix(_ID)), self._shown)
        return TokenProb(token_probs.shown(raw), raw, logprob, top)


async def stream(target: Target, options: Mapping[str, Any]) -> AsyncGenerator[GeneratedChunk, None]:
    """Stream the text, up to the first stop string in `options["stop"]`.

    Raises:
        ServerRefused: the server refused the request; nothing was yielded.
        ConnectionBroken: the server cannot be reached; nothing was yielded.
        ApiError: it failed later.
    """
    stops: Sequence[str] = options.get("stop", ())
    stop, held, started = StopMatcher(stops), HeldTokens(), False
    body = await _body(target, options, stops)
    vocabulary = await target.tokenizer.vocabulary()
    shown = vocabulary.named(options.get("preserved_tokens", ()))
    reader = _TokenReader(vocabulary, shown, body.get("logprobs", 0))
    blocks = llama_http.post(target.server, "/v1/completions", body)
    first_at: float | None = None
    try:
        async with aclosing(blocks), aclosing(_events(blocks)) as events:
            async for event in events:
                now = time.monotonic()
                started, first_at = True, now if first_at is None else first_at
                chunk = _chunk(event, reader, now - first_at)
                text = stop.feed(chunk.text) + (stop.flush() if chunk.end and not stop.found else "")
                tokens = held.feed(chunk, text)
                if stop.found:
                    yield GeneratedChunk(text, _end(event, "stop", now - first_at), tokens)
                    return  # closing the connection stops vLLM
                yield GeneratedChunk(text, chunk.end, tokens)
                if chunk.end:
                    return
    except (ConnectionBroken, ServerRefused, ApiError) as exc:
        if remaining := stop.flush():
            yield GeneratedChunk(remaining)
        if started and not isinstance(exc, ApiError):
            raise vllm_http.as_api_error(exc) from exc
        raise


async def prompt_probs(target: Target, prompt: Prompt, n_top: int) -> tuple[TokenProb, ...]:
    """The tokens of a prompt with their log-probabilities, without the one that begins every text.

    Raises:
        ServerRefused, ConnectionBroken: vLLM failed.
    """
    ids = await token_ids(target.tokenizer, prompt)
    n_wanted = max(1, n_top)
    body = {"model": target.name, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": n_wanted, **_AS_IDS}
    answer = json.loads(await llama_http.read(target.server, "/v1/completions", body))
    vocabulary = await target.tokenizer.vocabulary()
    probs = _TokenReader(vocabulary, vocabulary.silent, n_wanted).probs(answer["choices"][0]["logprobs"])
    added = len(ids) - len(await token_ids(target.tokenizer, prompt, add_special=False))
    return tuple(TokenProb(one.text, one.raw, None) if n == 0 else one for n, one in enumerate(probs[added:]))


async def token_ids(tokenizer: Backend, prompt: Prompt, *, add_special: bool = True) -> list[int]:
    """A prompt's tokens, as llama.cpp splits it when it generates. Raises ApiError."""
    if not isinstance(prompt, str):
        return prompt
    body = {"content": prompt, "add_special": add_special, "parse_special": True}
    try:
        answer = json.loads(await llama_http.read(tokenizer.address, "/tokenize", body))
    except (ServerRefused, ConnectionBroken) as exc:
        raise llama_error(exc) from exc
    return [int(token) for token in answer["tokens"]]


async def _body(target: Target, options: Mapping[str, Any], stops: Sequence[str]) -> dict[str, Any]:
    base = target.tokenizer.base
    ids = await token_ids(target.tokenizer, options["prompt"])
    room = target.context - len(ids)
    if room <= 0:
        raise too_long(target.context, len(ids))
    limit = int(options["n_predict"])
    body: dict[str, Any] = {
        "model": target.name,
        "prompt": ids,
        "max_tokens": room if limit < 0 else min(limit, room),
        **{name: options[name] for name in _PLAIN},
        "top_p": max(options["top_p"], _LEAST_TOP_P),
        "top_k": -1,
        "repetition_penalty": 1.0,
        "stop_token_ids": [base.card.eos, *await _control_ids(target.tokenizer, stops)],
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if options["seed"] >= 0:
        body["seed"] = options["seed"]
    if options["logit_bias"]:
        body["logit_bias"] = {str(int(token)): bias for token, bias in options["logit_bias"]}
    if options.get("n_probs"):
        body |= {"logprobs": int(options["n_probs"]), **_AS_IDS}
    if options.get("grammar"):
        body["structured_outputs"] = _structure(options)
    return body


def _structure(options: Mapping[str, Any]) -> dict[str, Any]:
    """The form of the answer. A lazy grammar becomes a structural tag, which begins at its trigger."""
    if not options.get("grammar_lazy"):
        return {"grammar": options["grammar"]}
    triggers = [trigger["value"] for trigger in options["grammar_triggers"]]
    content = {"type": "grammar", "grammar": options[AFTER_TRIGGER]}
    tags = [{"type": "tag", "begin": trigger, "content": content, "end": ""} for trigger in triggers]
    form = {"type": "triggered_tags", "triggers": triggers, "tags": tags, "stop_after_first": True}
    return {"structural_tag": json.dumps({"type": "structural_tag", "format": form})}


async def _control_ids(tokenizer: Backend, stops: Sequence[str]) -> list[int]:
    """The ids of stop strings that are control tokens, whose text vLLM does not write."""
    found = []
    for stop in dict.fromkeys(stops):
        if stop.strip() in tokenizer.base.card.control or token_probs.MARKUP.fullmatch(stop.strip()):
            ids = await token_ids(tokenizer, stop.strip(), add_special=False)
            found += ids if len(ids) == 1 else []
    return found


async def _events(blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Parse server-sent events that have a choice. Raises ServerRefused for an error, ApiError for an early end."""
    buffer = b""
    async for block in blocks:
        *texts, buffer = (buffer + block).split(b"\n\n")
        for text in texts:
            if not text.startswith(b"data: ") or text == b"data: [DONE]":
                continue
            event: dict[str, Any] = json.loads(text[6:])
            if isinstance(error := event.get("error"), dict):
                code = error.get("code")
                raise ServerRefused(code if isinstance(code, int) else 500, text[6:])
            if event.get("choices"):
                yield event
    raise unavailable(msg("The model stopped working in the middle of an answer."))


def _chunk(event: Mapping[str, Any], reader: _TokenReader, generated_s: float) -> GeneratedChunk:
    choice = event["choices"][0]
    reason, ids = choice.get("finish_reason"), choice.get("token_ids") or []
    probs = reader.probs(choice["logprobs"]) if choice.get("logprobs") else []
    if reason == "stop":  # at the token that ends the text
        ids, probs = ids[:-1], probs[:-1]
    text, tokens = reader.text(ids), tuple(one for one in probs if one.raw)
    if reason is None:
        return GeneratedChunk(text, tokens=tokens)
    if reason not in ("stop", "length"):  # "abort", "error"
        raise unavailable(msg("The model stopped working in the middle of an answer."))
    return GeneratedChunk(text, _end(event, reason, generated_s), tokens)


def _end(event: Mapping[str, Any], reason: Any, generated_s: float) -> GenerationEnd:
    usage = event.get("usage") or {}
    tokens = int(usage.get("completion_tokens") or 0)
    speed = (tokens - 1) / generated_s if tokens > 1 and generated_s > 0 else None
    return GenerationEnd(reason, int(usage.get("prompt_tokens") or 0), tokens, speed)


async def beginning(target: Target, prompt: Prompt, logprobs: int | None) -> GeneratedChunk:
    """The prompt as a chunk. Raises the same errors as `prompt_probs`."""
    text = prompt if isinstance(prompt, str) else await token_probs.text_of(target.tokenizer, prompt)
    return GeneratedChunk(text, tokens=() if logprobs is None else await prompt_probs(target, prompt, logprobs))
