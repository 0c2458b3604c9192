"""The objects of a JSON file of any layout, one at a time in bounded memory; broken ones are named and skipped.

Two layouts are read. *Lines* (here): an object on each line, perhaps with a comma behind it, or several run together; a
broken line costs that line. *Document* (`json_document`): one value, or several that know no lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from core.dataset.importers.decoding import BROKEN
from core.dataset.importers.import_problems import LONGEST_LINE, ImportProblems
from core.dataset.importers.positions import located, position
from core.dataset.importers.text_lines import LineReader, LineTooLong, RowTooLong
from core.message import msg

Layout = Literal["lines", "document"]
DECODER = json.JSONDecoder(strict=False)  # line ends and tabs inside strings, as careless programs write them
GAP = re.compile(r"[\s,\ufeff]*")
_STRING_OR_LAST_COMMA = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|,(?=\s*[}\]])', re.DOTALL)


class BrokenJson(ValueError):
    """Why a line or a value cannot be used, as a sentence; `line` is where, if that is not where it begins."""

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(sentence)
        self.line = line


class JsonObject(NamedTuple):
    """One object.

    Attributes:
        line: the one that it begins on, from 1.
        value: what it holds.
        size: how many characters it took.
        entry: its number, as `positions.position` takes it.
    """

    line: int
    value: dict[str, Any]
    size: int
    entry: int = 0


def layout(head: str) -> Layout:
    """How a JSON file is laid out, by its beginning (`HEAD` characters)."""
    lines = [line.strip("\ufeff \t\r") for line in head.split("\n")]
    lines = [line for line in lines if line.strip(",")]
    if len(lines) < 2 or lines[0].startswith("["):
        return "document"
    if not lines[0].startswith("{") or _is_whole(lines[0]):
        return "lines"
    # The first line is broken, or the first object goes on: after a bracket, a comma or a colon it does.
    return "lines" if lines[1].startswith("{") and lines[0][-1] not in "{[,:" else "document"


def in_lines(lines: LineReader, problems: ImportProblems) -> Iterator[JsonObject]:
    """The objects of a file that has one or more on each line."""
    while True:
        number, entry = lines.begin(), 0
        try:
            line = next(lines).strip("\r\n \t\ufeff")
            for found, size in _of_line(line):
                yield JsonObject(number, found, size, entry)
                entry = max(2, entry + 1)
        except StopIteration:
            return
        except (LineTooLong, RowTooLong):
            problems.add(
                msg("Line {number} has more than {value} characters.", number=f"{number:,}", value=f"{LONGEST_LINE:,}")
            )
        except BrokenJson as exc:
            problems.add(located(position("Line", number, entry), str(exc)))


def _is_whole(line: str) -> bool:
    try:
        return any(True for _ in _of_line(line))
    except BrokenJson:
        return False


def _of_line(line: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of one line, usually one.

    Raises:
        BrokenJson: what follows is none.
    """
    if BROKEN in line:
        raise BrokenJson(msg("Some bytes are not valid characters."))
    at = GAP.match(line).end()  # type: ignore[union-attr]  # matches the empty text too
    while at < len(line):
        try:
            found, end = DECODER.raw_decode(line, at)
        except json.JSONDecodeError as exc:
            found, end = without_trailing_comma(line[at:], exc), len(line)
        except (ValueError, RecursionError) as exc:  # a number of 10,000 digits, a million brackets
            raise BrokenJson(msg("It is JSON that cannot be read.")) from exc
        yield checked(found), end - at
        at = GAP.match(line, end).end()  # type: ignore[union-attr]


def without_trailing_comma(text: str, error: json.JSONDecodeError) -> object:
    """A value whose only fault is a comma before a closing bracket.

    Raises:
        BrokenJson: it has another one.
    """
    try:
        return DECODER.decode(_STRING_OR_LAST_COMMA.sub(r"\1", text))
    except (ValueError, RecursionError):
        raise BrokenJson(
            msg("It is not JSON: {msg}, at column {colno}.", msg=error.msg, colno=f"{error.colno:,}")
        ) from error


def checked(found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise BrokenJson(msg("It is not an object in braces."))
    return found
