"""A text that arrives piece by piece: a plain `Iterator[str]` that knows how fast it is and can be closed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import httpx2
import openai

from core.errors import StreamCut
from core.providers.errors import cut, translated
from core.providers.shapes import Provider, StreamFacts

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk of a stream says; every part may be missing."""

    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class TextStream(Iterator[str]):
    """The text of one answer, as it comes. Nothing is sent before the first `next()`.

    `facts` grows while it is read. `close()`, from any thread, ends it and the request behind it; iteration then
    simply stops, and `facts.finish_reason` stays None.

    Raises:
        RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: from the first `next()`, before any text.
        StreamCut: the stream broke off after it had begun; what was yielded is all there is.
    """

    def __init__(
        self,
        provider: Provider,
        model: str,
        open_stream: Callable[[], openai.Stream[C]],
        read: Callable[[C], Piece],
    ) -> None:
        self._provider = provider
        self._facts = StreamFacts(model=model)
        self._closed = threading.Event()
        self._response: httpx2.Response | None = None
        self._pieces = self._run(open_stream, read)

    @property
    def facts(self) -> StreamFacts:
        """What is known so far."""
        return replace(self._facts, tokens_per_s=_rate(self._facts))

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and the request behind it. Safe from any thread, and more than once."""
        self._closed.set()
        if self._response is not None:
            _hang_up(self._response)

    def _run(self, open_stream: Callable[[], openai.Stream[C]], read: Callable[[C], Piece]) -> Iterator[str]:
        if self._closed.is_set():
            return
        began = time.monotonic()
        stream = open_stream()  # raises translated errors itself, after its own patience
        self._response = stream.response
        try:
            with translated(self._provider, streaming=True):
                for chunk in stream:
                    if self._closed.is_set():
                        return
                    piece = read(chunk)
                    self._learn(piece, time.monotonic() - began)
                    if piece.text:
                        yield piece.text
        except StreamCut:
            if self._closed.is_set():
                return  # we cut it ourselves
            raise
        finally:
            with contextlib.suppress(Exception):
                stream.close()
        if self._facts.finish_reason is None and not self._closed.is_set():
            raise cut(self._provider)

    def _learn(self, piece: Piece, elapsed_s: float) -> None:
        seen = self._facts
        self._facts = replace(
            seen,
            first_text_s=seen.first_text_s or (elapsed_s if piece.text else None),
            duration_s=elapsed_s if piece.text else seen.duration_s,
            pieces=seen.pieces + bool(piece.text),
            model=piece.model or seen.model,
            finish_reason=piece.finish_reason or seen.finish_reason,
            prompt_tokens=seen.prompt_tokens if piece.prompt_tokens is None else piece.prompt_tokens,
            tokens=seen.tokens if piece.completion_tokens is None else piece.completion_tokens,
        )


def _rate(seen: StreamFacts) -> float | None:
    """Tokens a second after the first: (tokens - 1) over the time from the first text to the newest."""
    count = seen.pieces if seen.tokens is None else seen.tokens
    if seen.first_text_s is None or seen.duration_s is None or count < 2 or seen.duration_s <= seen.first_text_s:
        return None
    return (count - 1) / (seen.duration_s - seen.first_text_s)


def _hang_up(response: httpx2.Response) -> None:
    """Wake a reader that waits in another thread: closing a socket does not, shutting it down does."""
    with contextlib.suppress(Exception):
        wire = response.extensions["network_stream"].get_extra_info("socket")
        wire.shutdown(socket.SHUT_RDWR)
