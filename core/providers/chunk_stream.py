"""The chunks of one streamed completion, decoded from the bytes of the response."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import httpx2

from core.errors import ProviderError
from core.providers.chunk_parser import ChunkParser, StreamChunk, chunk_from_response
from core.providers.connection_errors import unreachable
from core.providers.errors import message_for, stream_cut, timed_out, unreadable
from core.providers.events import DONE, EventDecoder, decode_stream
from core.providers.response_parser import error_in_answer
from core.providers.schemas import Provider

_CONNECTION_ERRORS = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)  # as raised by the SDK's own streams


class ChunkStream(AsyncIterator[StreamChunk]):
    """All chunks of the stream. Create it with `open`.

    Raises:
        StreamCut: during iteration: the connection broke, an event is malformed, or the endpoint sent an error.

    Attributes:
        ended: the endpoint announced the end of the stream.
    """

    def __init__(self, response: httpx2.Response, provider: Provider, model: str, prompt: str = "") -> None:
        self._response, self._provider, self._model = response, provider, model
        self._decoder = EventDecoder()
        self._reader = ChunkParser(provider, prompt)
        self._items = decode_stream(response.aiter_bytes(), self._decoder)
        self._first: StreamChunk | None = None
        self._error: ProviderError | None = None  # raised after the text or usage that came with it was yielded
        self._finished = False
        self.ended = False

    @classmethod
    async def open(cls, response: httpx2.Response, provider: Provider, model: str, prompt: str = "") -> ChunkStream:
        """Wait for the first event and return the stream. If this raises, the request may be retried.

        Args:
            response: the streamed response.
            provider: the endpoint.
            model: id of the requested model.
            prompt: the request's prompt; it may end with an opening thinking tag.

        Raises:
            ProviderError: the first event is an error; the type follows from its code or message.
            Unreadable, Unavailable: there is no first event, or it is malformed.
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
            if isinstance(exc, _CONNECTION_ERRORS):
                raise unreachable(provider, exc) from exc
            if isinstance(exc, ValueError) and not isinstance(exc, ProviderError):
                raise unreadable(provider) from exc
            raise
        return stream

    async def __anext__(self) -> StreamChunk:
        if self._error is not None:
            raise self._error
        if self._finished:
            raise StopAsyncIteration
        first, self._first = self._first, None
        try:
            chunk = first or await self._next()
        except (*_CONNECTION_ERRORS, ValueError, ProviderError) as exc:
            self._error = stream_cut(self._provider)
            self._error.__cause__ = exc
            return StreamChunk(self._reader.flush())
        if chunk is None:
            self._finished = True
            return StreamChunk(self._reader.flush())
        if chunk.error is not None:
            self._error = stream_cut(self._provider, message_for(chunk.error, self._provider))
        return chunk

    async def aclose(self) -> None:
        """Close the connection."""
        with suppress(Exception):
            await self._response.aclose()

    async def _next(self) -> StreamChunk | None:
        async for item in self._items:
            if item is DONE:
                self.ended = True
                return None
            if self._decoder.is_json_body:
                self.ended = True
                return chunk_from_response(item, self._provider, self._model)
            return self._reader.read(item)
        return None
