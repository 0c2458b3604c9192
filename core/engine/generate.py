"""One generation at a llama.cpp server, as pieces of text. Closing the iterator stops the server's work at once."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from core.engine import llama_http
from core.engine.errors import ApiError, unavailable
from core.engine.llama import Backend, as_api_error
from core.engine.stop_strings import StopMatcher
from core.message import msg

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """How a generation ended.

    Attributes:
        prompt_tokens, completion_tokens: as llama.cpp counts them, special tokens included.
        tokens_per_s: of this generation alone, None for a single token.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class GeneratedChunk:
    """Some text; the last piece carries the end."""

    text: str
    end: GenerationEnd | None = None


async def generate_whole(backend: Backend, order: Mapping[str, Any]) -> GeneratedChunk:
    """The whole answer at once: the same text as its pieces, where llama.cpp's own differs in cut characters."""
    texts = []
    async with aclosing(stream_chunks(backend, order)) as parts:
        async for piece in parts:
            texts.append(piece.text)
    return GeneratedChunk("".join(texts), piece.end)


async def stream_chunks(backend: Backend, order: Mapping[str, Any]) -> AsyncGenerator[GeneratedChunk, None]:
    """The answer as it is written, up to the first of the stop strings in `order["stop"]`.

    Every other ending gives out the text that was held back for a stop string, also an error in the middle.

    Raises:
        ApiError: at the first piece or later.
    """
    stop = StopMatcher(order.get("stop", ()))
    async with backend.slots:
        try:
            blocks = llama_http.post(backend.address, "/completion", {**order, "stop": [], "stream": True})
            async with aclosing(blocks), aclosing(_events(blocks)) as events:
                first_at: float | None = None
                async for event in events:
                    now = time.monotonic()
                    first_at = now if first_at is None else first_at
                    piece = _piece(event)
                    text = stop.feed(piece.text)
                    if stop.found:
                        yield GeneratedChunk(text, _end_at_stop(event, now - first_at))
                        return  # closing the connection ends llama.cpp's work
                    yield GeneratedChunk(text + stop.flush(), piece.end) if piece.end else GeneratedChunk(text)
        except (llama_http.LlamaRefused, llama_http.ConnectionBroken, ApiError) as exc:
            if held := stop.flush():
                yield GeneratedChunk(held)
            raise _api_error(exc) from exc


async def count_tokens(backend: Backend, text: str) -> int:
    """How many tokens a text has, without the one that starts a sequence. Raises ApiError."""
    try:
        async with aclosing(
            llama_http.post(backend.address, "/tokenize", {"content": text, "add_special": False})
        ) as blocks:
            answer = _json(b"".join([block async for block in blocks]))
    except (llama_http.LlamaRefused, llama_http.ConnectionBroken) as exc:
        raise _api_error(exc) from exc
    return len(answer["tokens"])


async def _events(blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Server-sent events; an `error` event is raised. A stream that is cut before its end is an error too."""
    waiting = b""
    async for block in blocks:
        *texts, waiting = (waiting + block).split(b"\n\n")
        for text in texts:
            if text.startswith(b"data: "):
                event: dict[str, Any] = json.loads(text[6:])
                yield event
                if event.get("stop"):
                    return
            elif text.startswith(b"error: "):
                raise as_api_error(500, {"error": _json(text[7:])})
    raise unavailable(msg("The model stopped working in the middle of an answer."))


def _piece(event: Mapping[str, Any]) -> GeneratedChunk:
    if "error" in event:
        raise as_api_error(int(event["error"].get("code", 500)), dict(event))
    text = str(event.get("content", ""))
    if not event.get("stop"):
        return GeneratedChunk(text)
    timings = event.get("timings") or {}
    measured = int(event["tokens_predicted"]) > 1
    end = GenerationEnd(
        reason="length" if event.get("stop_type") == "limit" else "stop",
        prompt_tokens=int(event["tokens_evaluated"]),
        completion_tokens=int(event["tokens_predicted"]),
        tokens_per_s=float(timings["predicted_per_second"]) if measured and timings else None,
    )
    return GeneratedChunk(text, end)


def _end_at_stop(event: Mapping[str, Any], generated_s: float) -> GenerationEnd:
    """The end of an answer whose stop string is complete with `event`, `generated_s` after its first token."""
    tokens = int(event["tokens_predicted"])
    return GenerationEnd(
        reason="stop",
        prompt_tokens=int(event["tokens_evaluated"]),
        completion_tokens=tokens,
        tokens_per_s=(tokens - 1) / generated_s if tokens > 1 and generated_s > 0 else None,
    )


def _api_error(exc: Exception) -> ApiError:
    """What went wrong between the engine and llama.cpp, for the client."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, llama_http.LlamaRefused):
        return as_api_error(exc.status, _json(exc.body))
    return unavailable(msg("The model stopped working: {message}.", message=str(exc)))


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
