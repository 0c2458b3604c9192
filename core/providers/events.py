"""Decodes server-sent events to JSON items.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html. Comments (`: keep-alive`, `: OPENROUTER
PROCESSING`), blank lines and data that is not a JSON object or list (`data: ping`) are skipped. If a server replies to
`stream: true` with a single JSON body, that body is the only item.

Some servers violate the format for errors within a stream: llama.cpp has sent `error: {…}`, Ollama JSON without
`data:`, others `event: error` with a sentence. Each becomes an item `{"error": …}`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from core.providers.response_parser import parsed

DONE = object()
"""Item for the explicit end of the stream (`[DONE]`)."""
BROKEN = object()
"""Item for a malformed event in a complete body."""

_MAX_BYTES = 64 << 20  # limit for one event or response; no model writes more text


@dataclass(slots=True)
class EventDecoder:
    """Converts bytes to items: the JSON of each event, `DONE`, or a complete JSON body at the end.

    Attributes:
        is_json_body: whether the body is one JSON response rather than a stream of events.
        strict: whether a malformed event raises; otherwise it becomes the item `BROKEN`.
    """

    is_json_body: bool = False
    strict: bool = True
    _started: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _data: list[bytes] = field(default_factory=list)
    _name: bytes = b""

    def feed(self, block: bytes) -> Iterator[Any]:
        """Add bytes and yield the items that are now complete.

        Raises:
            ValueError: an event is malformed or too long.
        """
        self._buffer += block
        if len(self._buffer) > _MAX_BYTES:
            raise ValueError("an event without an end")
        if not self._started:
            start = bytes(self._buffer[:64]).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start:
                return
            self._started, self.is_json_body = True, start[:1] in (b"{", b"[")
        if self.is_json_body:
            return
        *lines, rest = self._buffer.replace(b"\r\n", b"\n").split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            yield from self._line(bytes(line))

    def close(self) -> Iterator[Any]:
        """Finish at the end of the body; yield a last event without a blank line, or the JSON body.

        Raises:
            ValueError: the event or body is malformed.
        """
        if self.is_json_body:
            yield parsed(bytes(self._buffer))
            return
        yield from self._line(bytes(self._buffer))
        yield from self._event()

    def _line(self, line: bytes) -> Iterator[Any]:
        if line.startswith(b"data:"):
            if self._data and _is_complete(b"\n".join(self._data)):
                yield from self._event()  # some servers send no blank line between events
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
        elif data.startswith((b"{", b"[")):  # other data, such as `ping`, keeps the connection alive
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


def _is_complete(data: bytes) -> bool:
    """Whether the data lines so far are complete JSON; an event may span several lines."""
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def is_events(body: bytes) -> bool:
    """Whether a body is a stream of events: it starts with an event field or a comment."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"data:", b":", b"event:", b"id:", b"retry:", b"error:"))


def decode_body(body: bytes) -> Iterator[Any]:
    """Return the JSON of all events in a complete body; a truncated event at the end is skipped."""
    decoder = EventDecoder(strict=False)
    yield from (item for item in decoder.feed(body) if item is not DONE)
    with suppress(ValueError):
        yield from (item for item in decoder.close() if item not in (DONE, BROKEN))


async def decode_stream(blocks: AsyncIterator[bytes], decoder: EventDecoder) -> AsyncIterator[Any]:
    """Yield a body's items as they arrive; stop after `DONE`."""
    async for block in blocks:
        for item in decoder.feed(block):
            yield item
            if item is DONE:
                return
    for item in decoder.close():
        yield item
        if item is DONE:
            return
