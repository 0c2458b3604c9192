"""A streamed completion as a plain `Iterator[str]` that reports its speed and can be closed.

The request runs as a task on the event loop of `connection.background_loop` and puts chunks into a queue; the reader
waits on that queue. `close()` therefore takes effect immediately in every state: during name lookup, connecting,
between retries, while waiting for headers, and between chunks.
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
from core.providers.chunk_parser import ChunkStream, StreamChunk
from core.providers.connection import background_loop
from core.providers.errors import stream_cut
from core.providers.response_parser import UNKNOWN_FINISH_REASON
from core.providers.schemas import Provider, StreamFacts
from core.providers.usage import Usage


@dataclass(frozen=True, slots=True)
class _ReceivedChunk:
    """A chunk, and how many seconds after the start of the request it arrived."""

    chunk: StreamChunk
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class _StreamEnd:
    """The end of the body; `announced` is whether the endpoint announced it."""

    announced: bool


_Received = SimpleQueue[_ReceivedChunk | _StreamEnd | BaseException | None]
"""Queue from the request task: chunks, the end, or the error that ended the stream; None only wakes the reader."""


class TextStream(Iterator[str]):
    """The text of one completion as it arrives. Nothing is sent before the first `next()`.

    `facts` is updated while it is read. `close()`, from any thread, cancels the request in any state: a waiting reader
    is woken, iteration stops, and `facts.finish_reason` stays None.

    Raises:
        RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: from the first `next()`, before any text.
        StreamCut: the stream broke off before the endpoint gave a finish reason; no more text follows.
    """

    def __init__(
        self,
        provider: Provider,
        model: str,
        open_stream: Callable[[], Awaitable[ChunkStream]],
    ) -> None:
        self._provider = provider
        self._facts = StreamFacts(model=model)
        self._received: _Received = SimpleQueue()
        self._request = partial(_receive, open_stream, self._received)
        self._lock = threading.Lock()
        self._task: Future[None] | None = None
        self._closed = self._finished = False

    @property
    def facts(self) -> StreamFacts:
        """The facts known so far."""
        return replace(self._facts, tokens_per_s=_tokens_per_s(self._facts))

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        self._start()
        while not self._finished:
            item = self._received.get()
            if self._closed:
                self._finished = True
            elif isinstance(item, _ReceivedChunk):
                self._update_facts(item.chunk, item.elapsed_s)
                if item.chunk.text:
                    return item.chunk.text
            else:
                self._finished = True
                if isinstance(item, BaseException):
                    if self._was_complete(item):
                        break
                    raise item
                if self._facts.finish_reason is None:
                    if item is None or not item.announced:
                        raise stream_cut(self._provider)
                    self._facts = replace(self._facts, finish_reason=UNKNOWN_FINISH_REASON)
        raise StopIteration

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the request and return immediately. May be called repeatedly and from any thread."""
        with self._lock:
            self._closed = True
            task = self._task
        if task is not None:
            task.cancel()
        self._received.put(None)  # wakes the reader

    def _start(self) -> None:
        """Send the request on the first call."""
        with self._lock:
            if self._closed:
                self._finished = True
            elif self._task is None:
                self._task = asyncio.run_coroutine_threadsafe(self._request(), background_loop())
                # if the stream is garbage-collected, its request is cancelled
                weakref.finalize(self, self._task.cancel)

    def _was_complete(self, error: BaseException) -> bool:
        """Whether the text was complete before the stream broke off, so that only the usage is missing."""
        return isinstance(error, StreamCut) and self._facts.finish_reason not in (None, "error")

    def _update_facts(self, chunk: StreamChunk, elapsed_s: float) -> None:
        facts, usage = self._facts, chunk.usage
        chunks = facts.chunks + bool(chunk.text)
        counted = usage.following(Usage(facts.prompt_tokens, facts.tokens, facts.cached_tokens))
        if chunks:
            counted = counted.zeros_unknown()
        self._facts = replace(
            facts,
            started=True,
            has_thinking=facts.has_thinking or chunk.has_thinking,
            first_text_s=facts.first_text_s or (elapsed_s if chunk.text else None),
            duration_s=elapsed_s if chunk.text else facts.duration_s,
            chunks=chunks,
            model=chunk.model or facts.model,
            finish_reason=chunk.finish_reason or facts.finish_reason,
            prompt_tokens=counted.prompt_tokens,
            tokens=counted.completion_tokens,
            cached_tokens=counted.cached_tokens,
        )


async def _receive(open_stream: Callable[[], Awaitable[ChunkStream]], received: _Received) -> None:
    """Send the request and queue everything that arrives. Keeps no reference to the `TextStream`, so that an unused one
    can be garbage-collected, which cancels this task."""
    started_at = time.monotonic()
    try:
        stream = await open_stream()  # raises translated errors, after its own retries
        try:
            async for chunk in stream:
                received.put(_ReceivedChunk(chunk, time.monotonic() - started_at))
        finally:
            await stream.aclose()
        received.put(_StreamEnd(stream.ended))
    except Exception as error:
        received.put(error)


def _tokens_per_s(facts: StreamFacts) -> float | None:
    """Tokens per second after the first: (tokens - 1) / (time from the first to the latest text)."""
    count = facts.chunks if facts.tokens is None else facts.tokens
    if facts.first_text_s is None or facts.duration_s is None or count < 2 or facts.duration_s <= facts.first_text_s:
        return None
    return (count - 1) / (facts.duration_s - facts.first_text_s)
