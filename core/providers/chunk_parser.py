"""Parses the chunks of a streamed completion from the bytes of the response.

The events' JSON is parsed directly, because creating the SDK's objects would take half of a stream's time.

It also handles endpoints that mix up the two kinds of response: a complete response to a streaming request, and events
in reply to a request for a complete response.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import anyio
import httpx2

from core.errors import ProviderError
from core.message import msg
from core.providers.connection_errors import unreachable
from core.providers.errors import message_for, stream_cut, timed_out, unreadable
from core.providers.events import BROKEN, DONE, EventDecoder, decode_body, decode_stream, is_events
from core.providers.inline_thinking import ThinkingFilter
from core.providers.provider_errors import error_object
from core.providers.response_parser import (
    error_in_answer,
    has_thinking,
    parse_completion,
    parsed,
    raw_finish_reason,
    text_and_finish_reason,
    text_of,
)
from core.providers.schemas import Choice, Completion, Provider
from core.providers.usage import Usage, read_usage

_NO_USAGE = Usage()
_BROKEN_EVENT = msg("a part of its answer cannot be read.")  # follows "The provider ended the text with an error: "

# the errors that the SDK's own streams raise
_CONNECTION_ERRORS = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """One event of a stream; every field may be missing.

    Attributes:
        has_thinking: whether the event contains thinking or other output that is not text.
        error: an error object instead of a chunk of the completion.
    """

    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = _NO_USAGE
    has_thinking: bool = False
    error: object | None = None

    @property
    def billed(self) -> bool:
        """Whether output was generated or counted; if so, it is billed even if there is an error."""
        return bool(self.text) or self.has_thinking or self.usage.billed


@dataclass(slots=True)
class ChunkParser:
    """Parses the events of one stream of `/chat/completions` or `/completions`, in order.

    Of several choices, only the first to arrive is read. Thinking at the start of the text is removed, even if the tag
    was opened at the end of `prompt`. Our engine is exempt, because its models write only what they were trained to
    write.
    """

    provider: Provider
    prompt: InitVar[str] = ""
    _index: str | None = None
    _texts: list[str] = field(default_factory=list)
    _thinking: ThinkingFilter = field(init=False)

    def __post_init__(self, prompt: str) -> None:
        self._thinking = ThinkingFilter(prompt)

    def read(self, event: Any) -> StreamChunk:
        """Parse one event; JSON that is not an object yields an empty chunk."""
        if not isinstance(event, Mapping):
            return StreamChunk(error=error_object(event))
        usage, model, choice = read_usage(event), event.get("model"), self._choice(event.get("choices"))
        is_full_message = choice.get("delta") is None
        delta = choice.get("message") if is_full_message else choice["delta"]
        text, ending = text_and_finish_reason(delta, raw_finish_reason(choice))
        text = text or text_of(choice.get("text"))
        if is_full_message and delta is not None and text:  # some servers end with the full message
            text = text.removeprefix("".join(self._texts))
        error = None if text else error_object(event) or error_object({"error": choice.get("error")})
        model_name = model if isinstance(model, str) and model else None
        return self._filtered(StreamChunk(text, ending, model_name, usage, has_thinking(delta), error))

    def flush(self) -> str:
        """Return the buffered text at the end of the stream."""
        return self._thinking.flush()

    def _choice(self, choices: object) -> Mapping[str, Any]:
        """Return the choice in this event, or {} if it belongs to another completion."""
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, Mapping):
            return {"text": choice}
        if (index := choice.get("index")) is not None:
            self._index = self._index or str(index)
            if str(index) != self._index:
                return {}
        return choice

    def _filtered(self, chunk: StreamChunk) -> StreamChunk:
        if chunk.text:
            self._texts.append(chunk.text)
        if not self.provider.capabilities.inline_thinking:
            return chunk
        text = self._thinking.feed(chunk.text)
        if chunk.finish_reason is not None:
            text += self._thinking.flush()
        if text == chunk.text:
            return chunk
        return replace(chunk, text=text, has_thinking=chunk.has_thinking or self._thinking.has_thinking)


def chunk_from_response(answer: Any, provider: Provider, model: str) -> StreamChunk:
    """Convert a complete response to a streaming request into a single chunk.

    Raises:
        ProviderError: see `parse_completion`.
    """
    completion = parse_completion(answer, provider, model)
    usage = Usage(completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens)
    first = completion.texts[0] if completion.texts else None
    if first is None:
        return StreamChunk(model=completion.model, usage=usage)
    return StreamChunk(first.text, first.finish_reason, completion.model, usage, error=first.error or None)


def parse_body(body: bytes, provider: Provider, model: str, *, tools: bool = False) -> Completion:
    """Parse the body of a response, whether JSON or events. `tools`: the request offers tools.

    Raises:
        ProviderError, Unreadable: see `parse_completion`.
    """
    try:
        if not is_events(body):
            return parse_completion(parsed(body), provider, model, tools=tools)
        items = list(decode_body(body))
        reader = ChunkParser(provider)
        chunks = [reader.read(item) for item in items if item is not BROKEN]
        broken = len(chunks) < len(items)
        return _merge_chunks([*chunks, StreamChunk(reader.flush())], provider, model, broken=broken)
    except ValueError as exc:
        if isinstance(exc, ProviderError):
            raise
        raise unreadable(provider) from exc


def _merge_chunks(chunks: list[StreamChunk], provider: Provider, model: str, *, broken: bool) -> Completion:
    text = "".join(chunk.text for chunk in chunks)
    usage = _NO_USAGE
    for chunk in chunks:
        usage = chunk.usage.following(usage)
    ending = next((chunk.finish_reason for chunk in reversed(chunks) if chunk.finish_reason), None)
    error = next((chunk.error for chunk in chunks if chunk.error is not None), None)
    model_name = next((chunk.model for chunk in chunks if chunk.model), model)
    has_output = bool(text) or any(chunk.has_thinking for chunk in chunks)
    if error is not None and not has_output and not usage.billed:
        raise error_in_answer(error, provider)
    if not has_output and not usage.known and ending is None:
        raise unreadable(provider)
    if has_output:
        usage = usage.zeros_unknown()
    message = message_for(error, provider) if error is not None else _BROKEN_EVENT if broken else ""
    choice = Choice(text, "error" if message else ending, message)
    return Completion((choice,), model_name, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


class ChunkStream(AsyncIterator[StreamChunk]):
    """All chunks of the stream. Create it with `open`.

    Raises:
        StreamCut: during iteration: the connection broke, an event is malformed, or the endpoint sent an error.

    Attributes:
        ended: whether the endpoint announced the end of the stream.
    """

    def __init__(self, response: httpx2.Response, provider: Provider, model: str, prompt: str = "") -> None:
        self._response, self._provider, self._model = response, provider, model
        self._decoder = EventDecoder()
        self._reader = ChunkParser(provider, prompt)
        self._items = decode_stream(response.aiter_bytes(), self._decoder)
        self._first: StreamChunk | None = None
        self._error: ProviderError | None = None  # raised once the text or usage that came with it has been yielded
        self._finished = False
        self.ended = False

    @classmethod
    async def open(cls, response: httpx2.Response, provider: Provider, model: str, prompt: str = "") -> ChunkStream:
        """Wait for the first event and return the stream. If this raises, the request may be retried.

        Args:
            response: the streamed response.
            provider: the endpoint.
            model: id of the requested model.
            prompt: the request's prompt, which may end with an opening thinking tag.

        Raises:
            ProviderError: the first event is an error; its code or message determines the exception type.
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
