"""The objects of a JSON file that is one value, or several that know no lines; in bounded memory.

An array, pretty-printed objects, objects run together, or an object that holds the rows in a list (`{"data": [...]}`,
`{"train": [...], "test": [...]}`). A broken object costs that object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TextIO

from core.dataset.importers import json_rows
from core.dataset.importers.decoding import BROKEN
from core.dataset.importers.import_problems import LONGEST_LINE, ImportProblems
from core.dataset.importers.json_objects import DECODER, GAP, BrokenJson, JsonObject, checked, without_trailing_comma
from core.dataset.importers.positions import located, position
from core.dataset.importers.sniffing import HEAD
from core.message import msg

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STRING_END = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BARE = re.compile(r'[^\s,\[\]{}"]*')  # a number, true, false, null, or anything that is no JSON
_COLON = re.compile(r"\s*:\s*")
_TOKEN = re.compile(r'["{}\[\]]')
# A row that is a list of turns itself, without an object around it.
_CONVERSATION = re.compile(
    r'\[\s*\{\s*(?:"(?:content|value)"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*)?"(?:role|from|speaker|sender)"\s*:\s*'
    r'"(?:system|developer|user|human|assistant|gpt)"'
)
_LIST_OF_CONVERSATIONS = re.compile(r'\[\s*\{[^{}\[\]]*"(?:messages|conversations|turns|chat_messages)"\s*:\s*\[')
_LIST_OF_OBJECTS = re.compile(r"\[\s*\{")
_LIST_OF_TURNS = re.compile(r'\[\s*\{\s*"(role|from|speaker|content|value|weight|name)"\s*:')
# Keys of an example: an object that has one of them is a row, not a wrapper around rows.
_EXAMPLE_KEYS = frozenset(
    ("prompt", "completion", "instruction", "input", "output", "response", "question", "answer", "text", "messages")
) | {"conversations", "conversation", "dialogue", "dialog", "turns", "chat", "contents", "chosen"}
_ABOUT = {"features", "fields", "columns", "schema"}  # lists that describe the columns
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "eval", "held_out"}
_BLOCK = 1 << 16  # characters; the decoder counts the lines of all that is held for each fault
_MOST_INDENT = 1_000  # characters in front of an object that are held with it
_NEAR_END = 16  # characters: an error this close to the end of the buffer may only mean that more must be read


def in_document(text: TextIO, problems: ImportProblems) -> Iterator[JsonObject]:
    """The objects of a file that is one value, or several that know no lines."""
    return _Document(text, problems).objects()


class _Document:
    """Reads values from a text in blocks.

    `_at` is the place in `_held` where reading goes on, `_line` its line, and `_margin` the place in `_held` where that
    line begins; below zero where its beginning is not held any more. `_entries` counts what stood where a row is
    expected, over all lists of the file.
    """

    def __init__(self, text: TextIO, problems: ImportProblems) -> None:
        self._text = text
        self._problems = problems
        self._held = ""
        self._at = 0
        self._line = 1
        self._margin = 0
        self._entries = 0
        self._ended = False

    def objects(self) -> Iterator[JsonObject]:
        """All objects that are rows."""
        first = True
        while char := self._next():
            if char == "[" and (row := self._conversation()) is not None:
                yield row
            elif char == "[":
                self._move(1)
                yield from self._list(None)
            elif char == "{" and first and self._wraps():
                yield from self._wrapper()
            elif char == "{":
                yield from self._object()
            else:
                self._junk()
            first = False

    def _list(self, split: str | None) -> Iterator[JsonObject]:
        """The rows of a list whose bracket has been read; where its name is a part, they belong to it."""
        lists = None  # whether the rows are lists themselves, as the first one says
        while char := self._next():
            if char == "]":
                self._move(1)
                return
            lists = char == "[" if lists is None else lists
            if char != ("[" if lists else "{"):
                self._junk()
                continue
            for found in self._object():
                if split is not None:
                    found.value.setdefault("split", split)
                yield found

    def _wrapper(self) -> Iterator[JsonObject]:
        """The rows of an object that holds them in one list or several; its other values are no rows."""
        self._move(1)
        while char := self._next():
            if char == "}":
                self._move(1)
                return
            key = self._key()
            if key is None:
                self._junk()
            elif key.lower() not in _ABOUT and self._matches(_LIST_OF_OBJECTS) and not self._matches(_LIST_OF_TURNS):
                self._move(1)
                yield from self._list(key if key.strip().lower() in _SPLITS else None)
            else:
                self._skip()

    def _wraps(self) -> bool:
        """Whether the object that begins here holds rows in a list, and is no row itself."""
        self._fill(4 * HEAD)  # more than is looked at here, so that what is held does not move
        begun = self._at, self._line, self._margin
        self._move(1)
        found = False
        while self._at - begun[0] < HEAD and (key := self._key()) is not None:
            if self._matches(_LIST_OF_CONVERSATIONS, HEAD):
                found = True
                break
            if key.lower() in _EXAMPLE_KEYS:
                found = False
                break
            found = found or (self._matches(_LIST_OF_OBJECTS) and not self._matches(_LIST_OF_TURNS))
            end = self._end_of_value(self._at + HEAD)
            if end is None:
                break
            self._move(end - self._at)
        self._at, self._line, self._margin = begun
        return found

    def _object(self) -> Iterator[JsonObject]:
        """The object that begins here, unless it is broken."""
        line = self._line
        self._entries += 1
        try:
            found, size = self._decoded()
        except BrokenJson as exc:
            self._left_out(exc.line or line, str(exc))
            return
        scratched = BROKEN in self._held[self._at : self._at + size]
        self._move(size)
        if scratched:
            self._left_out(line, msg("Some bytes are not valid characters."))
        else:
            row = json_rows.of_list(found) if isinstance(found, list) else checked(found)
            yield JsonObject(line, row, size, self._entries)

    def _left_out(self, line: int, fault: str) -> None:
        """Name the entry that was read last as one that cannot be used."""
        self._problems.add(located(position("Entry", line, self._entries), fault))

    def _conversation(self) -> JsonObject | None:
        """The list of turns that begins here, as a row; None, and nothing is read: it is a list of rows."""
        end = self._end_of_value(len(self._held)) if self._matches(_CONVERSATION, HEAD) else None
        try:
            found = DECODER.decode(self._held[self._at : end]) if end is not None else None
        except (ValueError, RecursionError):
            return None
        if end is None or not isinstance(found, list) or not json_rows.is_conversation(found):
            return None
        self._entries += 1
        row = JsonObject(self._line, json_rows.of_list(found), end - self._at, self._entries)
        self._move(row.size)
        return row

    def _decoded(self) -> tuple[object, int]:
        """The value that begins here, and how many characters it takes.

        Raises:
            BrokenJson: it is broken, or too long; reading goes on after it.
        """
        while True:
            try:
                found, end = DECODER.raw_decode(self._held, self._at)
                return found, end - self._at
            except json.JSONDecodeError as exc:
                cut = exc.pos >= len(self._held) - _NEAR_END or exc.msg.startswith("Unterminated string")
                if cut and not self._ended:
                    if len(self._held) - self._at > LONGEST_LINE:
                        self._pass_over()
                        raise BrokenJson(
                            msg("The object has more than {value} characters.", value=f"{LONGEST_LINE:,}")
                        ) from exc
                    self._fill(2 * (len(self._held) - self._at) + _BLOCK)
                    continue
                return self._repaired(exc)
            except (ValueError, RecursionError) as exc:
                self._pass_over()
                raise BrokenJson(msg("It is JSON that cannot be read.")) from exc

    def _repaired(self, error: json.JSONDecodeError) -> tuple[object, int]:
        end = self._end_of_value(self._restart() or len(self._held))
        if end is not None:
            try:
                return without_trailing_comma(self._held[self._at : end], error), end - self._at
            except BrokenJson:
                pass
        line = self._line + self._held.count("\n", self._at, error.pos)
        column = error.pos - max(self._held.rfind("\n", self._at, error.pos), self._margin - 1)
        self._pass_over()
        raise BrokenJson(
            msg("It is not JSON: {msg}, at column {column}.", msg=error.msg, column=f"{column:,}"), line
        ) from error

    def _restart(self) -> int | None:
        """Where the next object may begin after a broken one: on a line that begins as far in as its own line does."""
        if self._margin < 0 or self._at - self._margin > _MOST_INDENT:
            return None
        before = self._held[self._margin : self._at]
        indent = before[: len(before) - len(before.lstrip(" \t"))]
        place = self._held.find(f"\n{indent}{self._held[self._at]}", self._at, self._at + HEAD)
        return None if place < 0 else place + 1 + len(indent)

    def _pass_over(self) -> None:
        """Go on after the broken object that begins here."""
        restart = self._restart()
        end = self._end_of_value(restart or len(self._held))
        if end is not None or restart is not None:
            self._move((end or restart or 0) - self._at)
        else:
            self._skip()

    def _skip(self) -> None:
        """Go on after the value that begins here, however long it is; nothing of it is kept."""
        if self._held[self._at : self._at + 1] not in ("{", "[", '"'):
            end = _BARE.match(self._held, self._at).end()  # type: ignore[union-attr]
            self._move(end - self._at)
            return
        depth, inside = 0, False
        while True:
            depth, inside, end = _scan(self._held, self._at, len(self._held), depth, inside)
            if end is not None:
                self._move(end - self._at)
                return
            backslashes = len(self._held) - len(self._held.rstrip("\\"))
            self._move(len(self._held) - self._at - backslashes % 2)  # one at the end belongs to what follows
            if not self._fill(1 + backslashes % 2):
                self._move(len(self._held) - self._at)
                return

    def _end_of_value(self, limit: int) -> int | None:
        """Where the value that begins here ends in what is held; None: not before `limit`."""
        if self._held[self._at : self._at + 1] in ("{", "[", '"'):
            return _scan(self._held, self._at, min(limit, len(self._held)), 0, False)[2]
        end = _BARE.match(self._held, self._at).end()  # type: ignore[union-attr]  # matches the empty text too
        return end if end > self._at else None

    def _key(self) -> str | None:
        """A key and its colon, read; None: there is none here, and nothing is read."""
        self._next()
        self._fill(HEAD)
        found = _STRING.match(self._held, self._at)
        colon = _COLON.match(self._held, found.end()) if found else None
        if found is None or colon is None:
            return None
        self._move(colon.end() - self._at)
        return found.group()[1:-1]

    def _junk(self) -> None:
        """Go on after something that is neither an object nor part of the frame around objects."""
        if self._held[self._at] in '["':
            line = self._line
            self._skip()
            self._no_object(line)
            return
        end = _BARE.match(self._held, self._at).end()  # type: ignore[union-attr]
        if self._held[self._at] not in ":]}":
            self._no_object(self._line)
        self._move(max(1, end - self._at))

    def _no_object(self, line: int) -> None:
        self._entries += 1
        self._left_out(line, msg("It is not an object in braces."))

    def _matches(self, pattern: re.Pattern[str], characters: int = 200) -> bool:
        self._fill(characters)
        return pattern.match(self._held, self._at) is not None

    def _next(self) -> str:
        """The next character that is no white space and no comma; "" at the end."""
        while True:
            self._move(GAP.match(self._held, self._at).end() - self._at)  # type: ignore[union-attr]
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._fill(1):
                return ""

    def _move(self, characters: int) -> None:
        if lines := self._held.count("\n", self._at, self._at + characters):
            self._line += lines
            self._margin = self._held.rfind("\n", self._at, self._at + characters) + 1
        self._at += characters

    def _fill(self, characters: int) -> bool:
        """Hold so many characters from here on, if there are as many. False: there are not."""
        while not self._ended and len(self._held) - self._at < characters:
            kept_from = self._margin if 0 <= self._at - self._margin <= _MOST_INDENT and self._margin >= 0 else self._at
            block = self._text.read(max(_BLOCK, characters - len(self._held) + self._at))
            self._ended = not block
            self._held = self._held[kept_from:] + block
            self._at, self._margin = self._at - kept_from, self._margin - kept_from
        return len(self._held) - self._at >= characters


def _scan(text: str, start: int, stop: int, depth: int, inside: bool) -> tuple[int, bool, int | None]:
    """Follow brackets and strings from `start` to `stop`: how deep it is then, whether inside a string, and the place
    after the bracket (or, at depth 0, the quote) that closes the value, where it does."""
    at = start
    while True:
        if inside:
            closed = _STRING_END.match(text, at, stop)
            if closed is None:
                return depth, True, None
            at, inside = closed.end(), False
            if depth == 0:
                return depth, False, at
        token = _TOKEN.search(text, at, stop)
        if token is None:
            return depth, False, None
        at = token.end()
        if token.group() == '"':
            inside = True
        elif token.group() in "{[":
            depth += 1
        else:
            depth -= 1
            if depth <= 0:
                return depth, False, at
