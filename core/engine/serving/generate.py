"""Runs one generation on a llama.cpp server and yields text chunks. Closing the iterator stops the generation
immediately.

Stop strings are matched here: llama.cpp can match them too, but at the token limit it drops text that it buffered for
a stop string, and it misses a stop string in a token that ends in the middle of a character.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from core.engine.api.errors import ApiError, unavailable
from core.engine.serving import llama_http, token_probs
from core.engine.serving.llama import Backend
from core.engine.serving.llama_errors import as_api_error
from core.engine.serving.token_probs import TokenProb
from core.message import msg

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """The end of a generation.

    Attributes:
        reason: OpenAI's finish reason.
        prompt_tokens, completion_tokens: llama.cpp's counts, including special tokens.
        tokens_per_s: speed of this generation; None for a single token.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class GeneratedChunk:
    """A text chunk; the last one has `end`. `tokens` are those of its text, if their probabilities are wanted."""

    text: str
    end: GenerationEnd | None = None
    tokens: tuple[TokenProb, ...] = ()


async def whole(chunks: AsyncGenerator[GeneratedChunk, None]) -> GeneratedChunk:
    """Return the complete text of a stream (llama.cpp's own response without streaming differs when a character is
    split across tokens).
    """
    texts: list[str] = []
    tokens: list[TokenProb] = []
    async with aclosing(chunks):
        async for chunk in chunks:
            texts.append(chunk.text)
            tokens += chunk.tokens
    return GeneratedChunk("".join(texts), chunk.end, tuple(tokens))


async def stream_chunks(backend: Backend, options: Mapping[str, Any]) -> AsyncGenerator[GeneratedChunk, None]:
    """Stream the text, up to the first stop string in `options["stop"]`.

    If the text ends in any other way, including an error, text buffered for a possible stop string is yielded.

    Raises:
        ApiError: with the first chunk or later.
    """
    stop, held = StopMatcher(options.get("stop", ())), HeldTokens()
    async with backend.slots.one():
        try:
            blocks = llama_http.post(backend.address, "/completion", {**options, "stop": [], "stream": True})
            async with aclosing(blocks), aclosing(_events(blocks)) as events:
                first_at: float | None = None
                async for event in events:
                    now = time.monotonic()
                    first_at = now if first_at is None else first_at
                    chunk = _chunk(event)
                    text = stop.feed(chunk.text) + (stop.flush() if chunk.end and not stop.found else "")
                    tokens = held.feed(chunk, text)
                    if stop.found:
                        yield GeneratedChunk(text, _end_at_stop(event, now - first_at), tokens)
                        return  # closing the connection stops llama.cpp
                    yield GeneratedChunk(text, chunk.end, tokens)
        except (llama_http.ServerRefused, llama_http.ConnectionBroken, ApiError) as exc:
            if remaining := stop.flush():
                yield GeneratedChunk(remaining)
            raise llama_error(exc) from exc


async def count_tokens(backend: Backend, text: str) -> int:
    """Number of tokens in a text, without BOS. Raises ApiError."""
    try:
        async with aclosing(
            llama_http.post(backend.address, "/tokenize", {"content": text, "add_special": False})
        ) as blocks:
            body = _json(b"".join([block async for block in blocks]))
    except (llama_http.ServerRefused, llama_http.ConnectionBroken) as exc:
        raise llama_error(exc) from exc
    return len(body["tokens"])


async def _events(blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Parse server-sent events. Raises for an `error` event and for a stream that ends early."""
    buffer = b""
    async for block in blocks:
        *texts, buffer = (buffer + block).split(b"\n\n")
        for text in texts:
            if text.startswith(b"data: "):
                event: dict[str, Any] = json.loads(text[6:])
                yield event
                if event.get("stop"):
                    return
            elif text.startswith(b"error: "):
                raise as_api_error(500, {"error": _json(text[7:])})
    raise unavailable(msg("The model stopped working in the middle of an answer."))


def _chunk(event: Mapping[str, Any]) -> GeneratedChunk:
    if "error" in event:
        raise as_api_error(int(event["error"].get("code", 500)), dict(event))
    text = str(event.get("content", ""))
    if not event.get("stop"):
        return GeneratedChunk(text, tokens=token_probs.of_event(event))
    timings = event.get("timings") or {}
    has_speed = int(event["tokens_predicted"]) > 1
    end = GenerationEnd(
        reason="length" if event.get("stop_type") == "limit" else "stop",
        prompt_tokens=int(event["tokens_evaluated"]),
        completion_tokens=int(event["tokens_predicted"]),
        tokens_per_s=float(timings["predicted_per_second"]) if has_speed and timings else None,
    )
    return GeneratedChunk(text, end)


def _end_at_stop(event: Mapping[str, Any], generated_s: float) -> GenerationEnd:
    """The end of a text whose stop string was completed in `event`, `generated_s` seconds after its first token."""
    tokens = int(event["tokens_predicted"])
    return GenerationEnd(
        reason="stop",
        prompt_tokens=int(event["tokens_evaluated"]),
        completion_tokens=tokens,
        tokens_per_s=(tokens - 1) / generated_s if tokens > 1 and generated_s > 0 else None,
    )


def llama_error(exc: Exception) -> ApiError:
    """Convert an error between the engine and llama.cpp to an API error."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, llama_http.ServerRefused):
        return as_api_error(exc.status, _json(exc.body))
    return unavailable(msg("The model stopped working: {message}.", message=str(exc)))


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


class HeldTokens:
    """Keeps tokens back until their text is delivered, because a stop string may still remove it."""

    def __init__(self) -> None:
        self._held: list[tuple[int, tuple[TokenProb, ...]]] = []  # where each event's text ends, and its tokens
        self._read = self._delivered = 0

    def feed(self, chunk: GeneratedChunk, delivered: str) -> tuple[TokenProb, ...]:
        """Add an event's tokens; return those whose text is delivered by now."""
        self._read += len(chunk.text)
        self._delivered += len(delivered)
        self._held.append((self._read, chunk.tokens))
        n_done = sum(1 for end, _ in self._held if end <= self._delivered)
        done, self._held = self._held[:n_done], self._held[n_done:]
        return tuple(token for _, tokens in done for token in tokens)


class StopMatcher:
    """Finds the first stop string in a text that arrives in chunks, and buffers text that may become one.

    The result does not depend on how the text is split into chunks: the stop string that is complete first ends the
    text; if several are completed by the same character, the longest wins.

    Attributes:
        found: whether a stop string was found; no text is returned after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._progress = [_Progress(stop) for stop in dict.fromkeys(stops) if stop]
        self._buffer = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Add a chunk; return the text that cannot be part of a stop string."""
        if self.found or not self._progress:
            return "" if self.found else text
        text_so_far = self._buffer + text
        for read, character in enumerate(text, start=len(self._buffer) + 1):
            lengths = [len(progress.stop) for progress in self._progress if progress.advance(character)]
            if lengths:
                self.found, self._buffer = True, ""
                return text_so_far[: read - max(lengths)]
        n_safe = len(text_so_far) - max(progress.matched for progress in self._progress)
        self._buffer = text_so_far[n_safe:]
        return text_so_far[:n_safe]

    def flush(self) -> str:
        """Return the buffered text when the text has ended without a stop string."""
        text, self._buffer = self._buffer, ""
        return text


class _Progress:
    """Tracks how much of one stop string the text currently ends with (Knuth–Morris–Pratt algorithm)."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._failure = _failure_function(stop)

    def advance(self, character: str) -> bool:
        """Read one character; return whether the stop string is complete."""
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._failure[self.matched - 1]
        if self.stop[self.matched] == character:
            self.matched += 1
        return self.matched == len(self.stop)


def _failure_function(stop: str) -> list[int]:
    """For each prefix of `stop`, compute the length of its longest proper prefix that is also a suffix."""
    prefix_lengths = [0]
    for character in stop[1:]:
        length = prefix_lengths[-1]
        while length and stop[length] != character:
            length = prefix_lengths[length - 1]
        prefix_lengths.append(length + (stop[length] == character))
    return prefix_lengths
