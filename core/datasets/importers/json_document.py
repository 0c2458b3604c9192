"""Reads the objects of a JSON file that is one value, or several values regardless of line breaks, in bounded memory.

Supports an array, pretty-printed objects, concatenated objects, and an object with lists of rows (`{"data": [...]}`,
`{"train": [...], "test": [...]}`). A malformed object affects only itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TextIO

from core.datasets.importers.file_type import HEAD
from core.datasets.importers.json_objects import (
    DECODER,
    GAP,
    BrokenJson,
    JsonObject,
    is_conversation,
    require_object,
    row_from_list,
    without_trailing_comma,
)
from core.datasets.importers.table import BROKEN, MAX_LINE_CHARACTERS, ImportProblems, position, with_position
from core.message import msg

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STRING_END = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BARE_VALUE = re.compile(r'[^\s,\[\]{}"]*')  # a number, true, false, null, or invalid content
_COLON = re.compile(r"\s*:\s*")
_TOKEN = re.compile(r'["{}\[\]]')
# A row that is itself a list of turns.
_CONVERSATION = re.compile(
    r'\[\s*\{\s*(?:"(?:content|value)"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*)?"(?:role|from|speaker|sender)"\s*:\s*'
    r'"(?:system|developer|user|human|assistant|gpt)"'
)
_LIST_OF_CONVERSATIONS = re.compile(r'\[\s*\{[^{}\[\]]*"(?:messages|conversations|turns|chat_messages)"\s*:\s*\[')
_LIST_OF_OBJECTS = re.compile(r"\[\s*\{")
_LIST_OF_TURNS = re.compile(r'\[\s*\{\s*"(role|from|speaker|content|value|weight|name)"\s*:')
# Keys of an example: an object with one of them is a row, not a wrapper around rows.
_EXAMPLE_KEYS = frozenset(
    ("prompt", "completion", "instruction", "input", "output", "response", "question", "answer", "text", "messages")
) | {"conversations", "conversation", "dialogue", "dialog", "turns", "chat", "contents", "chosen"}
_SCHEMA_KEYS = {"features", "fields", "columns", "schema"}  # lists that describe columns
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "eval", "held_out"}
_BLOCK = 1 << 16  # characters; kept small because the decoder counts the lines of the whole buffer for each error
_MAX_INDENT = 1_000  # characters before an object that are kept with it
_NEAR_END = 16  # characters; an error this close to the end of the buffer may only mean that it is incomplete


def read_document(text: TextIO, problems: ImportProblems, block: int = _BLOCK) -> Iterator[JsonObject]:
    """The objects of a file that is one value, or several values regardless of line breaks; read in blocks of
    characters.
    """
    return _Document(text, problems, block).objects()


class _Document:
    """Reads values from a text in blocks.

    `_position` is the current position in `_buffer`, `_line` its line, and `_line_start` the position in `_buffer`
    where that line begins; negative if its beginning is no longer in the buffer. `_entries` counts all values found
    where a row is expected, across all lists in the file.
    """

    def __init__(self, text: TextIO, problems: ImportProblems, block: int) -> None:
        self._text, self._problems, self._block = text, problems, block
        self._buffer = ""
        self._position = 0
        self._line = 1
        self._line_start = 0
        self._entries = 0
        self._at_end = False

    def objects(self) -> Iterator[JsonObject]:
        """All objects that are rows."""
        first = True
        while char := self._peek():
            if char == "[" and (row := self._conversation()) is not None:
                yield row
            elif char == "[":
                self._advance(1)
                yield from self._list(None)
            elif char == "{" and first and self._is_wrapper():
                yield from self._wrapper()
            elif char == "{":
                yield from self._object()
            else:
                self._skip_invalid()
            first = False

    def _list(self, split: str | None) -> Iterator[JsonObject]:
        """The rows of a list whose bracket has been read. `split`: the list's name, if it is a split."""
        rows_are_lists = None  # True if the rows are lists, decided by the first one
        while char := self._peek():
            if char == "]":
                self._advance(1)
                return
            rows_are_lists = char == "[" if rows_are_lists is None else rows_are_lists
            if char != ("[" if rows_are_lists else "{"):
                self._skip_invalid()
                continue
            for row in self._object():
                if split is not None:
                    row.value.setdefault("split", split)
                yield row

    def _wrapper(self) -> Iterator[JsonObject]:
        """The rows of an object that contains them in one or more lists; its other values are ignored."""
        self._advance(1)
        while char := self._peek():
            if char == "}":
                self._advance(1)
                return
            key = self._key()
            if key is None:
                self._skip_invalid()
            elif (
                key.lower() not in _SCHEMA_KEYS
                and self._matches(_LIST_OF_OBJECTS)
                and not self._matches(_LIST_OF_TURNS)
            ):
                self._advance(1)
                yield from self._list(key if key.strip().lower() in _SPLITS else None)
            else:
                self._skip_value()

    def _is_wrapper(self) -> bool:
        """True if the object at the current position contains rows in a list, and is not a row itself."""
        self._fill(4 * HEAD)  # more than is read here, so that the buffer does not move
        start = self._position, self._line, self._line_start
        self._advance(1)
        has_list = False
        while self._position - start[0] < HEAD and (key := self._key()) is not None:
            if (holds_conversations := self._matches(_LIST_OF_CONVERSATIONS, HEAD)) or key.lower() in _EXAMPLE_KEYS:
                has_list = holds_conversations
                break
            has_list = has_list or (self._matches(_LIST_OF_OBJECTS) and not self._matches(_LIST_OF_TURNS))
            end = self._end_of_value(self._position + HEAD)
            if end is None:
                break
            self._advance(end - self._position)
        self._position, self._line, self._line_start = start
        return has_list

    def _object(self) -> Iterator[JsonObject]:
        """The object at the current position, unless it is malformed."""
        line = self._line
        self._entries += 1
        try:
            value, size = self._decode()
        except BrokenJson as exc:
            self._report_entry(exc.line or line, str(exc))
            return
        has_broken_bytes = BROKEN in self._buffer[self._position : self._position + size]
        self._advance(size)
        if has_broken_bytes:
            self._report_entry(line, msg("Some bytes are not valid characters."))
        else:
            row = row_from_list(value) if isinstance(value, list) else require_object(value)
            yield JsonObject(line, row, size, self._entries)

    def _report_entry(self, line: int, problem: str) -> None:
        """Report the last entry as unusable."""
        self._problems.add(with_position(position("Entry", line, self._entries), problem))

    def _conversation(self) -> JsonObject | None:
        """The list of turns at the current position, as a row; None, with nothing read, if it is a list of rows."""
        end = self._end_of_value(len(self._buffer)) if self._matches(_CONVERSATION, HEAD) else None
        try:
            value = DECODER.decode(self._buffer[self._position : end]) if end is not None else None
        except (ValueError, RecursionError):
            return None
        if end is None or not isinstance(value, list) or not is_conversation(value):
            return None
        self._entries += 1
        row = JsonObject(self._line, row_from_list(value), end - self._position, self._entries)
        self._advance(row.size)
        return row

    def _decode(self) -> tuple[object, int]:
        """The value at the current position, and its length in characters.

        Raises:
            BrokenJson: it is malformed or too long; reading continues after it.
        """
        while True:
            try:
                value, end = DECODER.raw_decode(self._buffer, self._position)
                return value, end - self._position
            except json.JSONDecodeError as exc:
                incomplete = exc.pos >= len(self._buffer) - _NEAR_END or exc.msg.startswith("Unterminated string")
                if incomplete and not self._at_end:
                    if len(self._buffer) - self._position > MAX_LINE_CHARACTERS:
                        self._skip_broken()
                        raise BrokenJson(
                            msg("The object has more than {value} characters.", value=f"{MAX_LINE_CHARACTERS:,}")
                        ) from exc
                    self._fill(2 * (len(self._buffer) - self._position) + self._block)
                    continue
                return self._repair(exc)
            except (ValueError, RecursionError) as exc:
                self._skip_broken()
                raise BrokenJson(msg("It is JSON that can't be parsed.")) from exc

    def _repair(self, error: json.JSONDecodeError) -> tuple[object, int]:
        end = self._end_of_value(self._find_restart() or len(self._buffer))
        if end is not None:
            try:
                return without_trailing_comma(self._buffer[self._position : end], error), end - self._position
            except BrokenJson:
                pass
        line = self._line + self._buffer.count("\n", self._position, error.pos)
        column = error.pos - max(self._buffer.rfind("\n", self._position, error.pos), self._line_start - 1)
        self._skip_broken()
        raise BrokenJson(
            msg("It is not JSON: {error}, at column {column}.", error=error.msg, column=f"{column:,}"), line
        ) from error

    def _find_restart(self) -> int | None:
        """Where the next object may begin after a malformed one: on a line with the same indentation."""
        if self._line_start < 0 or self._position - self._line_start > _MAX_INDENT:
            return None
        prefix = self._buffer[self._line_start : self._position]
        indent = prefix[: len(prefix) - len(prefix.lstrip(" \t"))]
        index = self._buffer.find(f"\n{indent}{self._buffer[self._position]}", self._position, self._position + HEAD)
        return None if index < 0 else index + 1 + len(indent)

    def _skip_broken(self) -> None:
        """Continue after the malformed object at the current position."""
        restart = self._find_restart()
        end = self._end_of_value(restart or len(self._buffer))
        if end is not None or restart is not None:
            self._advance((end or restart or 0) - self._position)
        else:
            self._skip_value()

    def _skip_value(self) -> None:
        """Skip the value at the current position, even a very long one; nothing is kept."""
        if self._buffer[self._position : self._position + 1] not in ("{", "[", '"'):
            end = _BARE_VALUE.match(self._buffer, self._position).end()  # type: ignore[union-attr]
            self._advance(end - self._position)
            return
        depth, in_string = 0, False
        while True:
            depth, in_string, end = _scan(self._buffer, self._position, len(self._buffer), depth, in_string)
            if end is not None:
                self._advance(end - self._position)
                return
            backslashes = len(self._buffer) - len(self._buffer.rstrip("\\"))
            # A trailing backslash escapes the next character.
            self._advance(len(self._buffer) - self._position - backslashes % 2)
            if not self._fill(1 + backslashes % 2):
                self._advance(len(self._buffer) - self._position)
                return

    def _end_of_value(self, limit: int) -> int | None:
        """Where the value at the current position ends in the buffer; None if not before `limit`."""
        if self._buffer[self._position : self._position + 1] in ("{", "[", '"'):
            return _scan(self._buffer, self._position, min(limit, len(self._buffer)), 0, False)[2]
        end = _BARE_VALUE.match(self._buffer, self._position).end()  # type: ignore[union-attr]  # always matches
        return end if end > self._position else None

    def _key(self) -> str | None:
        """Read a key and its colon; None, with nothing read, if there is none."""
        self._peek()
        self._fill(HEAD)
        match = _STRING.match(self._buffer, self._position)
        colon = _COLON.match(self._buffer, match.end()) if match else None
        if match is None or colon is None:
            return None
        self._advance(colon.end() - self._position)
        return match.group()[1:-1]

    def _skip_invalid(self) -> None:
        """Continue after something that is neither an object nor part of the structure around objects."""
        if self._buffer[self._position] in '["':
            line = self._line
            self._skip_value()
            self._report_no_object(line)
            return
        end = _BARE_VALUE.match(self._buffer, self._position).end()  # type: ignore[union-attr]
        if self._buffer[self._position] not in ":]}":
            self._report_no_object(self._line)
        self._advance(max(1, end - self._position))

    def _report_no_object(self, line: int) -> None:
        self._entries += 1
        self._report_entry(line, msg("It is not a JSON object."))

    def _matches(self, pattern: re.Pattern[str], characters: int = 200) -> bool:
        self._fill(characters)
        return pattern.match(self._buffer, self._position) is not None

    def _peek(self) -> str:
        """The next character other than white space and commas; "" at the end."""
        while True:
            self._advance(GAP.match(self._buffer, self._position).end() - self._position)  # type: ignore[union-attr]
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._fill(1):
                return ""

    def _advance(self, characters: int) -> None:
        if lines := self._buffer.count("\n", self._position, self._position + characters):
            self._line += lines
            self._line_start = self._buffer.rfind("\n", self._position, self._position + characters) + 1
        self._position += characters

    def _fill(self, characters: int) -> bool:
        """Read until the buffer has this many characters from the current position.

        Returns False if the file ends first.
        """
        while not self._at_end and len(self._buffer) - self._position < characters:
            in_buffer = 0 <= self._line_start <= self._position <= self._line_start + _MAX_INDENT
            keep_from = self._line_start if in_buffer else self._position
            block = self._text.read(max(self._block, characters - len(self._buffer) + self._position))
            self._at_end = not block
            self._buffer = self._buffer[keep_from:] + block
            self._position, self._line_start = self._position - keep_from, self._line_start - keep_from
        return len(self._buffer) - self._position >= characters


def _scan(text: str, start: int, stop: int, depth: int, in_string: bool) -> tuple[int, bool, int | None]:
    """Scan from `start` to `stop`, tracking bracket depth and strings.

    Returns:
        The depth, True if inside a string, and the position after the bracket (or, at depth 0, the quote) that closes
        the value, if reached.
    """
    position = start
    while True:
        if in_string:
            closed = _STRING_END.match(text, position, stop)
            if closed is None:
                return depth, True, None
            position, in_string = closed.end(), False
            if depth == 0:
                return depth, False, position
        token = _TOKEN.search(text, position, stop)
        if token is None:
            return depth, False, None
        position = token.end()
        if token.group() == '"':
            in_string = True
        elif token.group() in "{[":
            depth += 1
        else:
            depth -= 1
            if depth <= 0:
                return depth, False, position
