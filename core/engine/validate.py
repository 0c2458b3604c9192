"""Training files: every line is read before a job exists, in bounded memory; a bad one is named with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.engine import chat

Format = Literal["chat", "completion"]

MAX_LINE_BYTES = 1 << 20  # far above any context; what keeps memory bounded when a file has no line breaks
_NAMED = 10  # broken lines named in one message; more would not be read
_BOM = b"\xef\xbb\xbf"
_CHAT_KEYS, _PAIR_KEYS = frozenset({"messages"}), frozenset({"prompt", "completion"})


class BadTrainingFile(ValueError):
    """A training file that cannot be used; the message names lines and reasons."""


class BadLine(ValueError):
    """One line that cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of the form `{"prompt": …, "completion": …}`."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A line of the form `{"messages": […]}`."""

    messages: tuple[chat.Message, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a good file holds."""

    format: Format
    examples: int


def check(path: Path) -> Checked:
    """Read the whole file.

    Raises:
        BadTrainingFile: the first ten broken lines by number and reason, and how many more there are.
        OSError: the file cannot be read.
    """
    found: Format | None = None
    examples, problems = 0, 0
    named: list[str] = []
    for number, raw in lines(path):
        try:
            example = parse(raw)
            found = found or format_of(example)
            if format_of(example) != found:
                raise BadLine(f"it is in {format_of(example)} format, and the lines before it are in {found} format")
            examples += 1
        except BadLine as exc:
            problems += 1
            if len(named) < _NAMED:
                named.append(f"Line {number}: {exc}.")
    if problems > len(named):
        named.append(f"{problems - len(named)} more lines are broken.")
    if named:
        raise BadTrainingFile(" ".join(named))
    if found is None:
        raise BadTrainingFile("The file holds no examples.")
    return Checked(found, examples)


def examples(path: Path) -> Iterator[tuple[int, Pair | Conversation]]:
    """(line number, example) for each line of a file that `check` has passed. Raises BadLine otherwise."""
    for number, raw in lines(path):
        yield number, parse(raw)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of each line that is not blank; of an over-long line only its first part."""
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            line = raw
            while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES + 1)
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.strip():
                yield number, line


def format_of(example: Pair | Conversation) -> Format:
    """The format of one example."""
    return "completion" if isinstance(example, Pair) else "chat"


def parse(raw: bytes) -> Pair | Conversation:
    """One line. Raises BadLine with a reason for people."""
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine(f"it is longer than {MAX_LINE_BYTES >> 20} MiB")
    record = _record(raw)
    if "messages" in record:
        return _conversation(record)
    if "prompt" in record or "completion" in record:
        return _pair(record)
    raise BadLine('it has neither "messages" nor "prompt" and "completion"')


def _record(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
        record = json.loads(text)
    except UnicodeDecodeError as exc:
        hint = "; save the file as UTF-8, not UTF-16" if b"\x00" in raw or raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise BadLine(f"it is not UTF-8 text (byte {exc.start + 1}){hint}") from exc
    except json.JSONDecodeError as exc:
        raise BadLine(f"it is not JSON ({exc.msg}, column {exc.colno})") from exc
    except RecursionError as exc:
        raise BadLine("it is nested too deeply") from exc
    except ValueError as exc:
        raise BadLine("it is not JSON (a number is too long)") from exc
    if not isinstance(record, dict):
        raise BadLine("it is not a JSON object")
    return record


def _pair(record: dict[str, Any]) -> Pair:
    _only(record, _PAIR_KEYS)
    for key in ("prompt", "completion"):
        if not isinstance(record.get(key), str):
            raise BadLine(f'"{key}" is missing or is not text')
        _encodable(record[key])
    if not record["completion"].strip():
        raise BadLine("its completion is empty")
    return Pair(record["prompt"], record["completion"])


def _conversation(record: dict[str, Any]) -> Conversation:
    _only(record, _CHAT_KEYS)
    try:
        messages = chat.parse(record["messages"])
    except ValueError as exc:
        raise BadLine(str(exc)) from exc
    for number, message in enumerate(messages, start=1):
        _encodable(message.text)
        if message.role == "assistant" and not message.text.strip():
            raise BadLine(f"message {number}, the assistant's, is empty")
    if messages[-1].role != "assistant":
        raise BadLine("its last message is not the assistant's")
    if not any(message.role == "assistant" and message.trained for message in messages):
        raise BadLine("no answer in it has weight 1, so that there is nothing to learn")
    return Conversation(messages)


def _only(record: dict[str, Any], allowed: frozenset[str]) -> None:
    unknown = sorted(record.keys() - allowed)
    if unknown:
        raise BadLine(f'it has a key that is not supported: "{unknown[0][:40]}"')


def _encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise BadLine("it holds half of a surrogate pair (a broken \\u escape)") from exc
