"""The pieces of one streamed answer, from the bytes of its response."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import httpx2

from core.errors import ProviderError
from core.providers.chunk_parser import ChunkParser, StreamChunk, whole_answer
from core.providers.connection_errors import unreachable
from core.providers.errors import stream_cut, timed_out, unreadable, words_for
from core.providers.events import DONE, EventDecoder, decode
from core.providers.response_parser import error_in_answer
from core.providers.schemas import Provider

_BROKEN = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)  # as the SDK's own streams have them


class ChunkStream(AsyncIterator[StreamChunk]):
    """What arrives after the first event, and that event itself. Make it with `begun`.

    Raises:
        StreamCut: while it is read: the connection broke, an event cannot be read, or the endpoint sent an error.

    Attributes:
        ended: the endpoint has said that nothing more comes.
    """

    def __init__(self, response: httpx2.Response, provider: Provider, model: str, prompt: str = "") -> None:
        self._response, self._provider, self._model = response, provider, model
        self._decoder = EventDecoder()
        self._reader = ChunkParser(provider, prompt)
        self._items = decode(response.aiter_bytes(), self._decoder)
        self._first: StreamChunk | None = None
        self._error: ProviderError | None = None  # raised after a text or usage that came with it was handed over
        self._over = False
        self.ended = False

    @classmethod
    async def begun(cls, response: httpx2.Response, provider: Provider, model: str, prompt: str = "") -> ChunkStream:
        """The stream once its first event is there. An error in place of that is no beginning: it may be tried again.

        Args:
            prompt: what the model was asked to continue: it may have opened the model's thinking.

        Raises:
            ProviderError: the first event is an error, by its own code and words.
            Unreadable, Unavailable: there is no first event, or none that can be read.
        """
        stream = cls(response, provider, model, prompt)
        try:
            stream._first = await stream._next()
            if stream._first is None:
                raise unreadable(provider)
            if stream._first.error is not None and not stream._first.billed:
                raise error_in_answer(stream._first.error, provider)
        except BaseException as exc:
            await stream.aclose()
            if isinstance(exc, httpx2.TimeoutException):
                raise timed_out(provider) from exc
            if isinstance(exc, _BROKEN):
                raise unreachable(provider, exc) from exc
            if isinstance(exc, ValueError) and not isinstance(exc, ProviderError):
                raise unreadable(provider) from exc
            raise
        return stream

    async def __anext__(self) -> StreamChunk:
        if self._error is not None:
            raise self._error
        if self._over:
            raise StopAsyncIteration
        first, self._first = self._first, None
        try:
            piece = first or await self._next()
        except (*_BROKEN, ValueError, ProviderError) as exc:
            self._error = stream_cut(self._provider)
            self._error.__cause__ = exc
            return StreamChunk(self._reader.flush())
        if piece is None:
            self._over = True
            return StreamChunk(self._reader.flush())
        if piece.error is not None:
            self._error = stream_cut(self._provider, words_for(piece.error, self._provider))
        return piece

    async def aclose(self) -> None:
        """Close the connection."""
        with suppress(Exception):
            await self._response.aclose()

    async def _next(self) -> StreamChunk | None:
        async for item in self._items:
            if item is DONE:
                self.ended = True
                return None
            if self._decoder.whole:
                self.ended = True
                return whole_answer(item, self._provider, self._model)
            return self._reader.read(item)
        return None
