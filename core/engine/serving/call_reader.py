"""Reads calls of tools from a model's text while it is written. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from core.engine.serving.tool_format import ToolFormat

_State = Literal["text", "head", "arguments", "tail"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer: words, or a piece of call number `call` (from 0).

    Attributes:
        text: words, or a piece of the call's arguments.
        name: the tool's name, in the first part of a call.
    """

    text: str = ""
    call: int | None = None
    name: str | None = None


class CallReader:
    """Splits the text of one answer into words and calls. The result does not depend on how the text is split.

    Attributes:
        n_calls: calls that have begun.
    """

    def __init__(self, form: ToolFormat) -> None:
        self.n_calls = 0
        self._marker, self._opened = form.marker, form.begin.strip()
        self._head = re.compile(rf'\s*\{{\s*"{form.name_key}"\s*:\s*"([^"]*)"\s*,\s*"{form.arguments_key}"\s*:\s*')
        self._tail = re.compile(rf"\s*\}}\s*{re.escape(form.end.strip())}")
        self._state: _State = "text"
        self._buffer = ""
        self._depth = 0
        self._in_string = self._escaped = False

    def feed(self, text: str) -> list[Part]:
        """Add a piece of text; return the parts that are certain."""
        self._buffer += text
        return list(self._parts())

    def flush(self) -> list[Part]:
        """Return what remains at the end: words that might have become a call. After a call they are one cut off."""
        rest, self._buffer = self._buffer, ""
        if self.n_calls and (self._state == "head" or self._marker.startswith(rest.strip())):
            rest = ""
        elif self._state == "head":
            rest = self._opened + rest
        elif self._state != "text":
            rest = ""
        self._state = "text"
        return [Part(rest)] if rest else []

    def _parts(self) -> Iterator[Part]:
        while True:
            before = (self._state, len(self._buffer))
            if self._state == "text":
                yield from self._words()
            elif self._state == "head":
                yield from self._call_begins()
            elif self._state == "arguments":
                yield from self._arguments()
            elif found := self._tail.match(self._buffer):
                self._buffer, self._state = self._buffer[found.end() :], "text"
            if (self._state, len(self._buffer)) == before:
                return

    def _words(self) -> Iterator[Part]:
        words, found, rest = self._buffer.partition(self._marker)
        if found:
            self._state, self._buffer = "head", rest if self._opened else found + rest
            words = words.rstrip()
        else:
            words = words[: self._certain(words)]
            self._buffer = self._buffer[len(words) :]
        if words and not (self.n_calls and not words.strip()):
            yield Part(words)

    def _certain(self, words: str) -> int:
        """How many characters belong to no marker and to no white space before one."""
        held = next(
            (n for n in range(min(len(self._marker) - 1, len(words)), 0, -1) if words.endswith(self._marker[:n])), 0
        )
        return len(words[: len(words) - held].rstrip())

    def _call_begins(self) -> Iterator[Part]:
        found = self._head.match(self._buffer)
        if found and self._buffer[found.end() :].startswith("{"):
            self._buffer, self._state = self._buffer[found.end() :], "arguments"
            self._depth, self._in_string, self._escaped = 0, False, False
            self.n_calls += 1
            yield Part("", self.n_calls - 1, found[1])

    def _arguments(self) -> Iterator[Part]:
        """Pass on the characters of the JSON object, up to the brace that closes it."""
        end = next((n for n, character in enumerate(self._buffer, 1) if self._closes(character)), None)
        arguments = self._buffer if end is None else self._buffer[:end]
        self._buffer = self._buffer[len(arguments) :]
        if end is not None:
            self._state = "tail"
        if arguments:
            yield Part(arguments, self.n_calls - 1)

    def _closes(self, character: str) -> bool:
        """Read one character of a JSON object; return whether it closes the object."""
        if self._in_string:
            self._in_string = self._escaped or character != '"'
            self._escaped = not self._escaped and character == "\\"
            return False
        self._in_string = character == '"'
        self._depth += (character in "{[") - (character in "}]")
        return self._depth == 0


def read(text: str, form: ToolFormat) -> list[Part]:
    """The parts of a whole answer."""
    reader = CallReader(form)
    return [*reader.feed(text), *reader.flush()]
