"""Generates texts with vLLM: llama.cpp's parameters as those of POST /v1/completions, and its events as chunks.

Prompts are sent as token ids, split by llama.cpp as in training; stop strings are matched here, as for llama.cpp.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from core.engine.api.errors import ApiError, unavailable
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
    blocks = llama_http.post(target.server, "/v1/completions", body)
    first_at: float | None = None
    try:
        async with aclosing(blocks), aclosing(_events(blocks)) as events:
            async for event in events:
                now = time.monotonic()
                started, first_at = True, now if first_at is None else first_at
                chunk = _chunk(event, int(body.get("logprobs", 0)), now - first_at)
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
        if started and isinstance(exc, ConnectionBroken):
            raise vllm_http.as_api_error(exc) from exc
        raise


async def prompt_probs(target: Target, prompt: Prompt, n_top: int) -> tuple[TokenProb, ...]:
    """The tokens of a prompt with their log-probabilities, without the one that begins every text.

    Raises:
        ServerRefused, ConnectionBroken: vLLM failed.
    """
    ids = await token_ids(target.tokenizer, prompt)
    n_wanted = max(1, n_top)
    body = {"model": target.name, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": n_wanted}
    answer = json.loads(await llama_http.read(target.server, "/v1/completions", body))
    probs = _probs(answer["choices"][0]["logprobs"], n_wanted)
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
        "skip_special_tokens": not options.get("preserved_tokens"),
        "spaces_between_special_tokens": False,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if options["seed"] >= 0:
        body["seed"] = options["seed"]
    if options["logit_bias"]:
        body["logit_bias"] = {str(int(token)): bias for token, bias in options["logit_bias"]}
    if options.get("n_probs"):
        body["logprobs"] = options["n_probs"]
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
    """Parse server-sent events that have a choice. Raises ApiError for an error and for a stream that ends early."""
    buffer = b""
    async for block in blocks:
        *texts, buffer = (buffer + block).split(b"\n\n")
        for text in texts:
            if not text.startswith(b"data: ") or text == b"data: [DONE]":
                continue
            event: dict[str, Any] = json.loads(text[6:])
            if isinstance(error := event.get("error"), dict):
                code = error.get("code")
                raise vllm_http.error_of(code if isinstance(code, int) else 500, str(error.get("message")))
            if event.get("choices"):
                yield event
    raise unavailable(msg("The model stopped working in the middle of an answer."))


def _chunk(event: Mapping[str, Any], n_top: int, generated_s: float) -> GeneratedChunk:
    choice = event["choices"][0]
    reason, text = choice.get("finish_reason"), str(choice.get("text") or "")
    probs = _probs(choice["logprobs"], n_top) if choice.get("logprobs") else []
    if reason is None:
        return GeneratedChunk(text, tokens=tuple(probs))
    if reason not in ("stop", "length"):  # "abort", "error"
        raise unavailable(msg("The model stopped working in the middle of an answer."))
    if reason == "stop":
        probs = probs[:-1]  # the token that ends the text
    return GeneratedChunk(text, _end(event, reason, generated_s), tuple(probs))


def _end(event: Mapping[str, Any], reason: Any, generated_s: float) -> GenerationEnd:
    usage = event.get("usage") or {}
    tokens = int(usage.get("completion_tokens") or 0)
    speed = (tokens - 1) / generated_s if tokens > 1 and generated_s > 0 else None
    return GenerationEnd(reason, int(usage.get("prompt_tokens") or 0), tokens, speed)


def _probs(found: Mapping[str, Any], n_top: int) -> list[TokenProb]:
    """The tokens of a choice. vLLM lists the chosen token too, if it is not among the `n_top` most likely ones."""
    probs = []
    for text, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        listed = sorted((top or {}).items(), key=lambda pair: -pair[1])[:n_top]
        alternatives = tuple(TokenProb(one, one.encode(), value) for one, value in listed)
        probs.append(TokenProb(text, text.encode(), logprob, alternatives))
    return probs


async def beginning(target: Target, prompt: Prompt, logprobs: int | None) -> GeneratedChunk:
    """The prompt as a chunk. Raises the same errors as `prompt_probs`."""
    text = prompt if isinstance(prompt, str) else await token_probs.text_of(target.tokenizer, prompt)
    return GeneratedChunk(text, tokens=() if logprobs is None else await prompt_probs(target, prompt, logprobs))
