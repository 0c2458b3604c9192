"""A text that arrives piece by piece: a plain `Iterator[str]` that knows how fast it is and can be closed.

The request runs as a task on the event loop of `background_loop`, which puts what arrives into a queue; the reader
waits on that queue. So `close()` takes effect at once in every state: during the name lookup, while connecting, between
two tries, while waiting for the headers, and between pieces.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import openai

from core.providers.background_loop import background_loop
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


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A piece, and how many seconds after the start of the request it arrived."""

    piece: Piece
    elapsed_s: float


_Arrivals = SimpleQueue[_Arrival | BaseException | None]
"""What the request task hands over: pieces, the error that ended the stream, None at its end."""


class TextStream(Iterator[str]):
    """The text of one answer, as it comes. Nothing is sent before the first `next()`.

    `facts` grows while it is read. `close()`, from any thread, cancels the request in whatever state it is: a reader
    that waits is woken, iteration simply stops, and `facts.finish_reason` stays None.

    Raises:
        RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: from the first `next()`, before any text.
        StreamCut: the stream broke off after it had begun; what was yielded is all there is.
    """

    def __init__(
        self,
        provider: Provider,
        model: str,
        open_stream: Callable[[], Awaitable[openai.AsyncStream[C]]],
        read: Callable[[C], Piece],
    ) -> None:
        self._provider = provider
        self._facts = StreamFacts(model=model)
        self._arrivals: _Arrivals = SimpleQueue()
        self._request = partial(_receive, provider, open_stream, read, self._arrivals)
        self._lock = threading.Lock()
        self._task: Future[None] | None = None
        self._closed = self._over = False

    @property
    def facts(self) -> StreamFacts:
        """What is known so far."""
        return replace(self._facts, tokens_per_s=_rate(self._facts))

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        self._start()
        while not self._over:
            arrival = self._arrivals.get()
            if self._closed:
                self._over = True
            elif isinstance(arrival, _Arrival):
                self._learn(arrival.piece, arrival.elapsed_s)
                if arrival.piece.text:
                    return arrival.piece.text
            else:
                self._over = True
                if arrival is not None:
                    raise arrival
                if self._facts.finish_reason is None:
                    raise cut(self._provider)
        raise StopIteration

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and the request behind it; returns at once. Safe from any thread, and more than once."""
        with self._lock:
            self._closed = True
            task = self._task
        if task is not None:
            task.cancel()
        self._arrivals.put(None)  # wakes the reader

    def _start(self) -> None:
        """Send the request, at the first call."""
        with self._lock:
            if self._closed:
                self._over = True
            elif self._task is None:
                self._task = asyncio.run_coroutine_threadsafe(self._request(), background_loop())
                weakref.finalize(self, self._task.cancel)  # a stream that is dropped unread stops generating

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


async def _receive(
    provider: Provider,
    open_stream: Callable[[], Awaitable[openai.AsyncStream[C]]],
    read: Callable[[C], Piece],
    arrivals: _Arrivals,
) -> None:
    """Send the request and hand over everything that comes. Keeps no reference to the `TextStream`, so that one that
    nobody holds any more can be collected, which cancels this task."""
    began = time.monotonic()
    try:
        stream = await open_stream()  # raises translated errors itself, after its own patience
        try:
            with translated(provider, streaming=True):
                async for chunk in stream:
                    arrivals.put(_Arrival(read(chunk), time.monotonic() - began))
        finally:
            with suppress(Exception):
                await stream.close()
        arrivals.put(None)
    except Exception as error:
        arrivals.put(error)


def _rate(seen: StreamFacts) -> float | None:
    """Tokens a second after the first: (tokens - 1) over the time from the first text to the newest."""
    count = seen.pieces if seen.tokens is None else seen.tokens
    if seen.first_text_s is None or seen.duration_s is None or count < 2 or seen.duration_s <= seen.first_text_s:
        return None
    return (count - 1) / (seen.duration_s - seen.first_text_s)
