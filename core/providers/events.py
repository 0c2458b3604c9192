"""Server-sent events of a stream, decoded to their JSON; and an answer that comes as events, put together.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html. Comments (`: keep-alive`, `: OPENROUTER
PROCESSING`), blank lines between events, and data that is no JSON object or list (`data: ping`) are skipped. A server
that answers `stream: true` with a whole JSON body gives one item: that answer.

Errors in the middle of a stream do not keep to the format everywhere: llama.cpp has written `error: {…}`, Ollama the
JSON without `data:`, others `event: error` and a sentence. Each is an item `{"error": …}`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from core.providers.response_parser import parsed

DONE = object()
"""The item that stands for the end that the server announced (`[DONE]`)."""
BROKEN = object()
"""The item that stands for an event that is no JSON, in a body that came whole."""

_MOST_BYTES = 64 << 20  # of one event or one answer: what is longer is no text of a model


@dataclass(slots=True)
class EventDecoder:
    """Bytes in, items out: the JSON of each event, `DONE`, or a whole JSON answer at the end.

    Attributes:
        whole: the body is no stream of events, but one JSON answer.
        strict: an event that is no JSON is an error; else it is the item `BROKEN`.
    """

    whole: bool = False
    strict: bool = True
    _begun: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _data: list[bytes] = field(default_factory=list)
    _name: bytes = b""

    def feed(self, block: bytes) -> Iterator[Any]:
        """The items that are complete with these bytes.

        Raises:
            ValueError: an event is no JSON, or too long.
        """
        self._buffer += block
        if len(self._buffer) > _MOST_BYTES:
            raise ValueError("an event without an end")
        if not self._begun:
            start = bytes(self._buffer[:64]).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start:
                return
            self._begun, self.whole = True, start[:1] in (b"{", b"[")
        if self.whole:
            return
        *lines, rest = self._buffer.replace(b"\r\n", b"\n").split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            yield from self._line(bytes(line))

    def close(self) -> Iterator[Any]:
        """What is left when the body has ended: an event without its blank line, or the whole answer.

        Raises:
            ValueError: it is no JSON.
        """
        if self.whole:
            yield parsed(bytes(self._buffer))
            return
        yield from self._line(bytes(self._buffer))
        yield from self._event()

    def _line(self, line: bytes) -> Iterator[Any]:
        if line.startswith(b"data:"):
            if self._data and _is_whole(b"\n".join(self._data)):
                yield from self._event()  # some servers put no blank line between events
            self._data.append(line[5:].strip())
        elif line.startswith(b"event:"):
            self._name = line[6:].strip()
        elif line.startswith(b"error:"):
            yield {"error": _parsed_or_text(line[6:].strip())}
        elif line.startswith(b"{"):
            if isinstance(found := _parsed_or_text(line), dict) and "error" in found:
                yield found
        elif not line.strip():
            yield from self._event()

    def _event(self) -> Iterator[Any]:
        data, self._data = b"\n".join(self._data), []
        name, self._name = self._name, b""
        if data.startswith(b"[DONE]"):
            yield DONE
        elif data.startswith((b"{", b"[")):  # else it is a word that keeps the connection open, such as `ping`
            yield parsed(data) if self.strict else _parsed_or_broken(data)
        elif name == b"error" and data:
            yield {"error": _parsed_or_text(data)}


def _parsed_or_broken(data: bytes) -> Any:
    try:
        return parsed(data)
    except ValueError:
        return BROKEN


def _parsed_or_text(data: bytes) -> Any:
    try:
        return parsed(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def _is_whole(data: bytes) -> bool:
    """Whether the data lines so far are an event: JSON over several lines is legal, and is not before its last one."""
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def is_events(body: bytes) -> bool:
    """Whether a body is a stream of events: it begins with a field of an event, or a comment."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"data:", b":", b"event:", b"id:", b"retry:", b"error:"))


def decoded(body: bytes) -> Iterator[Any]:
    """The JSON of all events in a whole body. What is cut off at its end is left out."""
    decoder = EventDecoder(strict=False)
    yield from (item for item in decoder.feed(body) if item is not DONE)
    with suppress(ValueError):
        yield from (item for item in decoder.close() if item not in (DONE, BROKEN))


async def decode(blocks: AsyncIterator[bytes], decoder: EventDecoder) -> AsyncIterator[Any]:
    """The items of a body as it arrives; ends at `DONE`, which is its last item where the server sent it."""
    async for block in blocks:
        for item in decoder.feed(block):
            yield item
            if item is DONE:
                return
    for item in decoder.close():
        yield item
        if item is DONE:
            return
