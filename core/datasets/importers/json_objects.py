"""Reads the objects of a JSON file in any layout, one at a time in bounded memory; reports and skips malformed ones.

Two layouts: *Lines* (here): one or more objects per line, optionally followed by a comma; a malformed line affects only
itself. *Document* (`json_document`): one value, or several values regardless of line breaks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from core.datasets.importers.decoding import LineReader, LineTooLong, RowTooLong
from core.datasets.importers.table import BROKEN, MAX_LINE_CHARACTERS, ImportProblems, position, with_position
from core.message import msg

Layout = Literal["lines", "document"]
DECODER = json.JSONDecoder(strict=False)  # accepts unescaped line breaks and tabs inside strings
GAP = re.compile(r"[\s,\ufeff]*")
_STRING_OR_LAST_COMMA = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|,(?=\s*[}\]])', re.DOTALL)
_TURN_KEYS = frozenset(
    ("role", "content", "from", "value", "speaker", "sender", "text", "name", "weight", "refusal", "reasoning_content")
) | {"tool_calls", "tool_call_id", "function_call", "language"}


class BrokenJson(ValueError):
    """Why a line or value cannot be used, as a sentence; `line` is the position, if not the beginning."""

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(sentence)
        self.line = line


class JsonObject(NamedTuple):
    """One object.

    Attributes:
        line: the line where it begins, from 1.
        value: its content.
        size: its length in characters.
        entry: its number, see `table.position`.
    """

    line: int
    value: dict[str, Any]
    size: int
    entry: int = 0


def layout(head: str) -> Layout:
    """The layout of a JSON file, from its beginning (`HEAD` characters)."""
    lines = [line.strip("\ufeff \t\r") for line in head.split("\n")]
    lines = [line for line in lines if line.strip(",")]
    if len(lines) < 2 or lines[0].startswith("["):
        return "document"
    if not lines[0].startswith("{") or _is_complete(lines[0]):
        return "lines"
    # Either the first line is malformed, or the first object continues (after a bracket, comma or colon).
    return "lines" if lines[1].startswith("{") and lines[0][-1] not in "{[,:" else "document"


def read_lines(lines: LineReader, problems: ImportProblems) -> Iterator[JsonObject]:
    """The objects of a file with one or more per line."""
    while True:
        number, entry = lines.begin_row(), 0
        try:
            line = next(lines).strip("\r\n \t\ufeff")
            for value, size in _line_objects(line):
                yield JsonObject(number, value, size, entry)
                entry = max(2, entry + 1)
        except StopIteration:
            return
        except (LineTooLong, RowTooLong):
            problems.add(
                msg(
                    "Line {number} has more than {value} characters.",
                    number=f"{number:,}",
                    value=f"{MAX_LINE_CHARACTERS:,}",
                )
            )
        except BrokenJson as exc:
            problems.add(with_position(position("Line", number, entry), str(exc)))


def _is_complete(line: str) -> bool:
    try:
        return any(True for _ in _line_objects(line))
    except BrokenJson:
        return False


def _line_objects(line: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of one line, usually one.

    Raises:
        BrokenJson: the rest of the line is not a valid object.
    """
    if BROKEN in line:
        raise BrokenJson(msg("Some bytes are not valid characters."))
    position = GAP.match(line).end()  # type: ignore[union-attr]  # always matches
    while position < len(line):
        try:
            value, end = DECODER.raw_decode(line, position)
        except json.JSONDecodeError as exc:
            value, end = without_trailing_comma(line[position:], exc), len(line)
        except (ValueError, RecursionError) as exc:  # huge numbers or deeply nested brackets
            raise BrokenJson(msg("It is JSON that can't be parsed.")) from exc
        yield require_object(value), end - position
        position = GAP.match(line, end).end()  # type: ignore[union-attr]


def without_trailing_comma(text: str, error: json.JSONDecodeError) -> object:
    """Parse a value whose only error is a comma before a closing bracket.

    Raises:
        BrokenJson: it has another error.
    """
    try:
        return DECODER.decode(_STRING_OR_LAST_COMMA.sub(r"\1", text))
    except (ValueError, RecursionError):
        raise BrokenJson(
            msg("It is not JSON: {error}, at column {column}.", error=error.msg, column=f"{error.colno:,}")
        ) from error


def require_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BrokenJson(msg("It is not a JSON object."))
    return value


def is_conversation(values: Sequence[Any]) -> bool:
    """True if a list found where a row is expected contains only turns."""
    return bool(values) and all(isinstance(turn, dict) and turn and turn.keys() <= _TURN_KEYS for turn in values)


def row_from_list(values: Sequence[Any]) -> dict[str, Any]:
    """The row for a list found where a row is expected: a conversation, or cells without names."""
    if is_conversation(values):
        return {"messages": list(values)}
    return {f"column {number}": value for number, value in enumerate(values, 1)}
