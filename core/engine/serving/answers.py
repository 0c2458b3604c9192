"""Builds OpenAI's JSON for completions and chat completions, whole and streamed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from core.engine import VERSION
from core.engine.api.errors import ApiError
from core.engine.serving import logprobs_json
from core.engine.serving.call_reader import CallReader, Part
from core.engine.serving.generate import GeneratedChunk, GenerationEnd
from core.engine.serving.token_probs import TokenProb
from core.engine.serving.tool_format import ToolFormat
from core.engine.store import random_code

_DONE = b"data: [DONE]\n\n"


class Answer(Protocol):
    """Builds one endpoint's JSON for the generations of a request. The methods may block."""

    def whole(self, completions: Sequence[GeneratedChunk], usage: Mapping[str, int]) -> dict[str, Any]:
        """The JSON of a request that is not streamed."""

    def begin(self, n_choices: int) -> list[bytes]:
        """Events before the first chunk."""

    def chunks(self, index: int, chunk: GeneratedChunk) -> list[bytes]:
        """Events for one chunk of a choice."""

    def finish(self, usage: Mapping[str, int]) -> list[bytes]:
        """Events after the last chunk."""

    def failed(self, error: ApiError) -> list[bytes]:
        """Events that end a stream with an error."""


class AnswerBuilder:
    """Builds the JSON of completions and chat completions (see `Answer`).

    Args:
        model: the model's id.
        chat: whether in the chat format.
        include_usage: whether a stream's events have a `usage`.
        calls: how the model writes calls of tools; None if the request has no tools.
        named_tool: whether the request names the tool to call; its answers then end with `stop`, as at OpenAI.
        logprobs: of how many other tokens log-probabilities are wanted; None for none at all.
    """

    def __init__(
        self,
        model: str,
        *,
        chat: bool,
        include_usage: bool = False,
        calls: ToolFormat | None = None,
        named_tool: bool = False,
        logprobs: int | None = None,
    ) -> None:
        self._chat, self._calls, self._named_tool, self._logprobs = chat, calls, named_tool, logprobs
        self._tokens: dict[int, list[TokenProb]] = {}  # of a stream, not sent yet
        self._offsets: dict[int, int] = {}  # characters of each choice that were sent
        self._usage = {"usage": None} if include_usage else {}
        self._readers: dict[int, CallReader] = {}
        code = secrets.token_hex(12)
        self._common = {
            "id": f"chatcmpl-{code}" if chat else f"cmpl-{code}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"fabula-{VERSION}",
        }

    def whole(self, completions: Sequence[GeneratedChunk], usage: Mapping[str, int]) -> dict[str, Any]:
        """See `Answer`."""
        choices = [self._choice(index, completion) for index, completion in enumerate(completions)]
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._common, "object": kind, "choices": choices, "usage": usage}

    def begin(self, n_choices: int) -> list[bytes]:
        """See `Answer`: in the chat format, each choice begins with its role."""
        delta = {"role": "assistant", "content": "" if self._calls is None else None, "refusal": None}
        return [self._chunk(index, delta, None) for index in range(n_choices)] if self._chat else []

    def chunks(self, index: int, chunk: GeneratedChunk) -> list[bytes]:
        """See `Answer`: a chunk's text, if any, and the end as a separate event, as at OpenAI."""
        self._tokens.setdefault(index, []).extend(chunk.tokens)
        events = [self._chunk(index, delta, None) for delta in self._deltas(index, chunk)]
        return [*events, self._chunk(index, {}, self._reason(index, chunk.end))] if chunk.end else events

    def finish(self, usage: Mapping[str, int]) -> list[bytes]:
        """See `Answer`."""
        counted = event({**self._common, "object": self._kind, "choices": [], "usage": usage})
        return [counted, _DONE] if self._usage else [_DONE]

    def failed(self, error: ApiError) -> list[bytes]:
        """See `Answer`."""
        return [event(error.body())]

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _choice(self, index: int, completion: GeneratedChunk) -> dict[str, Any]:
        if not self._chat:
            reason, probs = self._reason(index, completion.end), self._probs(index, completion.tokens)
            return {"index": index, "text": completion.text, "logprobs": probs, "finish_reason": reason}
        parts = self._parts(index, completion)
        words = "".join(part.text for part in parts if part.call is None)
        calls = _whole_calls(parts)
        message: dict[str, Any] = {"role": "assistant", "content": words or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = calls
        reason, probs = self._reason(index, completion.end), self._probs(index, completion.tokens)
        return {"index": index, "message": message, "logprobs": probs, "finish_reason": reason}

    def _deltas(self, index: int, chunk: GeneratedChunk) -> list[dict[str, Any]]:
        return [_delta(part) for part in self._parts(index, chunk)]

    def _parts(self, index: int, chunk: GeneratedChunk) -> list[Part]:
        if self._calls is None:
            return [Part(chunk.text)] if chunk.text else []
        reader = self._readers.setdefault(index, CallReader(self._calls))
        parts = reader.feed(chunk.text)
        return [*parts, *reader.flush()] if chunk.end else parts

    def _reason(self, index: int, end: GenerationEnd | None) -> str | None:
        if end is None:
            return None
        reader = self._readers.get(index)
        called = reader is not None and reader.n_calls > 0 and not self._named_tool
        return "tool_calls" if called and end.reason == "stop" else end.reason

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None) -> bytes:
        text = {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        tokens = self._tokens.pop(index, [])
        probs = self._probs(index, tokens) if tokens else None
        choice = {"index": index, **text, "logprobs": probs, "finish_reason": reason}
        return event({**self._common, "object": self._kind, "choices": [choice], **self._usage})

    def _probs(self, index: int, tokens: Sequence[TokenProb]) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        if self._chat:
            return logprobs_json.of_chat(tokens, self._logprobs)
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + logprobs_json.length(tokens)
        return logprobs_json.of_completion(tokens, self._logprobs, offset)


def _whole_calls(parts: Sequence[Part]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for part in parts:
        if part.name is not None:
            calls.append({"id": new_call_id(), "type": "function", "function": {"name": part.name, "arguments": ""}})
        elif part.call is not None:
            calls[part.call]["function"]["arguments"] += part.text
    return calls


def _delta(part: Part) -> dict[str, Any]:
    if part.call is None:
        return {"content": part.text}
    if part.name is None:
        return {"tool_calls": [{"index": part.call, "function": {"arguments": part.text}}]}
    function = {"name": part.name, "arguments": part.text}
    return {"tool_calls": [{"index": part.call, "id": new_call_id(), "type": "function", "function": function}]}


def new_call_id() -> str:
    """An id for a call of a tool."""
    return f"call_{random_code(24)}"


def usage_of(ends: Sequence[GenerationEnd], n: int) -> dict[str, int]:
    """Total usage; each prompt is counted once."""
    prompt = sum(end.prompt_tokens for end in ends[::n])
    completion = sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(body: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
