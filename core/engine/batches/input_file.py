"""Reads a batch's input file: which lines are requests, and what is wrong with the others.

A line that is no request does not stop the batch: it is named in the batch's `errors` and in its error file, and the
others run. A file as a whole is refused, before anything runs, if it has no request, too many, or two with the same
`custom_id`, whose answers could not be told apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.engine.api.requests import MAX_JSON_BYTES
from core.engine.chat_messages import is_missing
from core.engine.number_checks import abbreviated
from core.message import msg

MAX_LINES = 50_000  # OpenAI's limit
MAX_FAULTS = 1000
"""The most faults that a batch's `errors` name; its error file names all."""
_MAX_CUSTOM_ID = 512
_SHOWN = 100  # characters of a custom_id in a message


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line, or with the file (`line` is None). Lines are counted from 1."""

    line: int | None
    code: str
    message: str
    param: str | None = None

    def as_json(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


@dataclass(frozen=True, slots=True)
class InputLine:
    """One line that is not empty: where it is in the file, and its fault if it is no request."""

    line: int
    start: int
    size: int
    custom_id: str | None
    model: str | None
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class CheckedInput:
    """The lines of a file. `refusal` is not empty if the file is refused as a whole."""

    lines: tuple[InputLine, ...]
    refusal: tuple[Fault, ...]

    @property
    def faults(self) -> list[Fault]:
        """What is wrong with single lines."""
        return [line.fault for line in self.lines if line.fault is not None]

    @property
    def model(self) -> str | None:
        """The model of all requests; None if they name several."""
        models = {line.model for line in self.lines if line.fault is None}
        return models.pop() if len(models) == 1 else None


def check(path: Path, endpoint: str) -> CheckedInput:
    """Check every line of a file.

    Raises:
        OSError: the file cannot be read.
    """
    lines: list[InputLine] = []
    first_with: dict[str, int] = {}
    repeated: list[Fault] = []
    with path.open("rb") as file:
        for number, start, raw in _lines(file):
            if len(lines) == MAX_LINES:
                message = msg("The file has more than {maximum} requests.", maximum=f"{MAX_LINES:,}")
                return CheckedInput((), (Fault(None, "too_many_tasks", message),))
            line = _line(number, start, raw, endpoint)
            lines.append(line)
            if line.custom_id is None:
                continue
            first = first_with.setdefault(line.custom_id, number)
            if first != number:
                repeated.append(_repeated(line.custom_id, number, first))
    if not lines:
        return CheckedInput((), (Fault(None, "empty_file", msg("The file has no requests.")),))
    checked = CheckedInput(tuple(lines), tuple(repeated))
    if not repeated and all(line.fault for line in lines):
        return CheckedInput(checked.lines, tuple(checked.faults))
    return checked


def read_body(path: Path, start: int, size: int) -> dict[str, Any]:
    """The `body` of a request that `check` found valid.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        body: dict[str, Any] = json.loads(file.read(size))["body"]
        return body


def _lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Number, start and content of each line that is not blank. A line that is too long to be a request is cut off, so
    that it needs no more memory.
    """
    number, start = 0, 0
    while raw := file.readline(MAX_JSON_BYTES + 1):
        number += 1
        size, rest = len(raw), raw
        while not rest.endswith(b"\n") and (rest := file.readline(MAX_JSON_BYTES)):
            size += len(rest)
        if raw.strip():
            yield number, start, raw
        start += size


def _line(number: int, start: int, raw: bytes, endpoint: str) -> InputLine:
    """Parse one line."""

    def faulty(code: str, message: str, param: str | None = None) -> InputLine:
        return InputLine(number, start, len(raw), custom_id, None, Fault(number, code, message, param))

    custom_id = None
    if len(raw) > MAX_JSON_BYTES:
        return faulty("line_too_long", msg("This line is longer than {max_mb} MB.", max_mb=MAX_JSON_BYTES >> 20))
    try:
        row = json.loads(raw)
        json.dumps(row, ensure_ascii=False).encode("utf-8")  # a lone surrogate can be neither stored nor tokenised
    except (ValueError, RecursionError):
        return faulty("invalid_json_line", msg("This line is not parseable as valid JSON."))
    if not isinstance(row, dict):
        return faulty("invalid_json_line", msg("This line is not a JSON object."))
    given = row.get("custom_id")
    if is_missing(given):
        return faulty("missing_required_parameter", msg("'custom_id' is missing."), "custom_id")
    if not isinstance(given, str) or len(given) > _MAX_CUSTOM_ID:
        message = msg("'custom_id' must be a string of at most {maximum} characters.", maximum=_MAX_CUSTOM_ID)
        return faulty("invalid_custom_id", message, "custom_id")
    custom_id = given
    if row.get("method") != "POST":
        message = msg("'method' must be 'POST'; it is {actual}.", actual=abbreviated(row.get("method")))
        return faulty("invalid_method", message, "method")
    if row.get("url") != endpoint:
        message = msg(
            "'url' must be the batch's endpoint, '{endpoint}'; it is {actual}.",
            endpoint=endpoint,
            actual=abbreviated(row.get("url")),
        )
        return faulty("invalid_url", message, "url")
    body = row.get("body")
    if not isinstance(body, dict):
        return faulty("invalid_body", msg("'body' must be a JSON object."), "body")
    if body.get("stream"):
        return faulty(
            "unsupported_parameter", msg("A request in a batch can't be streamed. Leave 'stream' out."), "body.stream"
        )
    model = body.get("model")
    return InputLine(number, start, len(raw), custom_id, model if isinstance(model, str) else None, None)


def _repeated(custom_id: str, line: int, first: int) -> Fault:
    message = msg(
        "The custom_id '{custom_id}' was already used in line {first}.", custom_id=custom_id[:_SHOWN], first=first
    )
    return Fault(line, "duplicate_custom_id", message, "custom_id")
