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
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

from core.errors import StreamCut
from core.providers.background_loop import background_loop
from core.providers.chunk_parser import StreamChunk
from core.providers.chunk_stream import ChunkStream
from core.providers.errors import stream_cut
from core.providers.finish_reasons import UNKNOWN
from core.providers.schemas import Provider, StreamFacts
from core.providers.usage import Usage


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A piece, and how many seconds after the start of the request it arrived."""

    piece: StreamChunk
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class _Ending:
    """The end of the body; `announced`: the endpoint said before that nothing more comes."""

    announced: bool


_Arrivals = SimpleQueue[_Arrival | _Ending | BaseException | None]
"""What the request task hands over: pieces, the end, or the error that ended the stream; None wakes the reader."""


class TextStream(Iterator[str]):
    """The text of one answer, as it comes. Nothing is sent before the first `next()`.

    `facts` grows while it is read. `close()`, from any thread, cancels the request in every state: a reader
    that waits is woken, iteration simply stops, and `facts.finish_reason` stays None.

    Raises:
        RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: from the first `next()`, before any text.
        StreamCut: the stream broke off after it had begun, before the endpoint said why the text ended; what was
            yielded is all there is.
    """

    def __init__(
        self,
        provider: Provider,
        model: str,
        open_stream: Callable[[], Awaitable[ChunkStream]],
    ) -> None:
        self._provider = provider
        self._facts = StreamFacts(model=model)
        self._arrivals: _Arrivals = SimpleQueue()
        self._request = partial(_receive, open_stream, self._arrivals)
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
                if isinstance(arrival, BaseException):
                    if self._whole_before(arrival):
                        break
                    raise arrival
                if self._facts.finish_reason is None:
                    if arrival is None or not arrival.announced:
                        raise stream_cut(self._provider)
                    self._facts = replace(self._facts, finish_reason=UNKNOWN)
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

    def _whole_before(self, error: BaseException) -> bool:
        """Whether the text had ended before the stream broke off: only the usage is missing then."""
        return isinstance(error, StreamCut) and self._facts.finish_reason not in (None, "error")

    def _learn(self, piece: StreamChunk, elapsed_s: float) -> None:
        seen, usage = self._facts, piece.usage
        pieces = seen.pieces + bool(piece.text)
        counted = usage.after(Usage(seen.prompt_tokens, seen.tokens, seen.cached_tokens))
        if pieces:
            counted = counted.beside_text()
        self._facts = replace(
            seen,
            begun=True,
            thought=seen.thought or piece.thought,
            first_text_s=seen.first_text_s or (elapsed_s if piece.text else None),
            duration_s=elapsed_s if piece.text else seen.duration_s,
            pieces=pieces,
            model=piece.model or seen.model,
            finish_reason=piece.finish_reason or seen.finish_reason,
            prompt_tokens=counted.prompt_tokens,
            tokens=counted.completion_tokens,
            cached_tokens=counted.cached_tokens,
        )


async def _receive(open_stream: Callable[[], Awaitable[ChunkStream]], arrivals: _Arrivals) -> None:
    """Send the request and hand over everything that comes. Keeps no reference to the `TextStream`, so that one that
    nobody holds any more can be collected, which cancels this task."""
    began = time.monotonic()
    try:
        stream = await open_stream()  # raises translated errors itself, after its own patience
        try:
            async for piece in stream:
                arrivals.put(_Arrival(piece, time.monotonic() - began))
        finally:
            await stream.aclose()
        arrivals.put(_Ending(stream.ended))
    except Exception as error:
        arrivals.put(error)


def _rate(seen: StreamFacts) -> float | None:
    """Tokens a second after the first: (tokens - 1) over the time from the first text to the newest."""
    count = seen.pieces if seen.tokens is None else seen.tokens
    if seen.first_text_s is None or seen.duration_s is None or count < 2 or seen.duration_s <= seen.first_text_s:
        return None
    return (count - 1) / (seen.duration_s - seen.first_text_s)
