"""The text and the tokens of an answer in OpenAI's format, complete or streamed, so that two answers can be compared.

Pure. Only an answer's first choice counts. Tool calls become JSON text; answers in another format have no text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from core.engine import message_text

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MAX_CHARS = 1 << 20
"""Longer texts are not compared."""
_MAX_LINE_BYTES = 8 << 20  # of a stream; the last event of /v1/responses contains the whole answer
_MAX_CALLS = 128  # of one answer, as at OpenAI
_MAX_COUNT = 2**53
_DATA, _DONE = b"data:", b"[DONE]"
_ENDS = ("response.completed", "response.incomplete")  # the latter at the token limit


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A text, and the reported tokens; None if unknown."""

    text: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def of_body(endpoint: str, body: object) -> AnswerText:
    """The text of a complete answer."""
    answer = _mapping(body)
    text: str | None = None
    if endpoint == RESPONSES:
        text = _of_items(answer.get("output"))
    elif choice := _first(answer.get("choices")):
        message = _mapping(choice.get("message"))
        text = message_text.of_message(message) if endpoint == CHAT else _string(choice.get("text"))
    return _answer(text, _mapping(answer.get("usage")))


class Reader(Protocol):
    """Reads an answer while it is passed on.

    Attributes:
        is_complete: whether the answer's last part was seen. The tokens may come after it.
    """

    is_complete: bool

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes."""

    def end(self) -> None:
        """Note that the answer has ended as it should: the connection was not cut."""

    def answer(self) -> AnswerText:
        """What was read so far. The text is None if its end is missing, or if it is too long."""


class Unread:
    """For an answer that is too long to be read, or cannot be."""

    def __init__(self, *, is_complete: bool) -> None:
        self.is_complete = is_complete

    def feed(self, chunk: bytes) -> None:
        """Ignore the bytes."""

    def end(self) -> None:
        """See `Reader`."""
        self.is_complete = True

    def answer(self) -> AnswerText:
        """Nothing is known."""
        return AnswerText(None)


class StreamReader:
    """Reads a streamed answer. What it keeps is limited, however long the stream is: a text that is too long is lost,
    the tokens in the last events are not.
    """

    def __init__(self, endpoint: str) -> None:
        self.is_complete = False
        self._endpoint = endpoint
        self._line = bytearray()
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._chars = 0
        self._usage: Mapping[str, Any] = {}
        self._response: object = None

    def feed(self, chunk: bytes) -> None:
        """See `Reader`."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            whole = bytes(self._line) + line
            self._line.clear()
            if whole.startswith(_DATA):
                self._event(whole[len(_DATA) :].strip())
        if len(self._line) + len(rest) <= _MAX_LINE_BYTES:
            self._line += rest

    def end(self) -> None:
        """A stream is complete if its last part was seen."""

    def answer(self) -> AnswerText:
        """See `Reader`."""
        if self._endpoint == RESPONSES:
            return of_body(RESPONSES, self._response)
        text = (
            message_text.of_calls(self._calls[index] for index in sorted(self._calls))
            if self._calls
            else "".join(self._text)
        )
        return _answer(text if self.is_complete and self._chars <= MAX_CHARS else None, self._usage)

    def _event(self, data: bytes) -> None:
        if data == _DONE:
            self.is_complete = True
            return
        event = _parsed(data)
        if self._endpoint == RESPONSES:
            if event.get("type") in _ENDS:
                self._response, self.is_complete = event.get("response"), True
            return
        self._usage = _mapping(event.get("usage")) or self._usage
        choices = event.get("choices")
        for choice in map(_mapping, choices if isinstance(choices, list) else ()):
            if not choice.get("index"):
                self.is_complete = self.is_complete or bool(choice.get("finish_reason"))
                self._part(choice)

    def _part(self, choice: Mapping[str, Any]) -> None:
        delta = _mapping(choice.get("delta")) if self._endpoint == CHAT else {"content": choice.get("text")}
        if piece := _string(delta.get("content")) or _string(delta.get("refusal")):
            self._chars += len(piece)
            if self._chars <= MAX_CHARS:
                self._text.append(piece)
        parts = delta.get("tool_calls")
        for part in map(_mapping, parts if isinstance(parts, list) else ()):
            index, function = part.get("index"), _mapping(part.get("function"))
            place = index if isinstance(index, int) and 0 <= index < _MAX_CALLS else 0
            call = self._calls.setdefault(place, {"name": "", "arguments": ""})
            for name in call:
                piece = _string(function.get(name)) or ""
                self._chars += len(piece)
                call[name] += piece if self._chars <= MAX_CHARS else ""


def _answer(text: str | None, usage: Mapping[str, Any]) -> AnswerText:
    if text is not None:  # a lone surrogate can't be stored
        text = None if len(text) > MAX_CHARS else text.encode("utf-8", "replace").decode()
    return AnswerText(
        text,
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
    )


def _of_items(items: object) -> str | None:
    """The text of a response's items, or its function calls."""
    found = [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    calls = [item for item in found if item.get("type") == "function_call"]
    if calls:
        return message_text.of_calls(calls)
    lists = [item.get("content") for item in found if item.get("type") == "message"]
    parts = [part for content in lists if isinstance(content, list) for part in content]
    texts = [_string(_mapping(part).get("text")) for part in parts]
    return "".join(text or "" for text in texts) if texts else None


def _parsed(event: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(event))
    except (ValueError, RecursionError):
        return {}


def _first(choices: object) -> Mapping[str, Any]:
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT:
            return value
    return None
