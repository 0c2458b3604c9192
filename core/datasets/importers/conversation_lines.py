"""Reads training files whose rows are more than a prompt and an answer, such as conversations of several turns or with
tools, into rows that keep everything (`core.datasets.conversation_rows`). Bounded memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from core.datasets import conversation_rows
from core.datasets.importers import request_bodies
from core.datasets.importers.json_objects import BrokenJson
from core.datasets.importers.table import ImportProblems, TableBuilder, position, with_position
from core.engine import finetune_format, message_text
from core.errors import BadFile
from core.message import msg

COMPLETION: Final = "completion"
_MESSAGE_KEYS = frozenset({"role", "content", "weight"})
_PLAIN_ROLES = (["user", "assistant"], ["system", "user", "assistant"])
_EXTRA = ("tools", "functions", "parallel_tool_calls")  # fields of a training line besides the messages
_KEPT = ("messages", *_EXTRA)
_PAIR, _PREFERRED = {"prompt", "completion"}, "preferred_output"


@dataclass(frozen=True, slots=True)
class ConversationFile:
    """The rows of a file.

    Attributes:
        frame: the columns `conversation_rows.COLUMN`, the last message before the answer, and `COMPLETION`.
        left_out: rows that can't be used; first: why, for the first of them.
        rewritten: rows with `functions`, the older form of `tools`, which were rewritten.
        cut_short: why reading ended before the end of the file; None if it did not.
    """

    frame: pd.DataFrame
    left_out: int
    first: str
    rewritten: int
    cut_short: str | None


def needed(paths: Sequence[Path]) -> bool:
    """Whether rows of these files would lose something as prompt and answer: turns, tools, weights, system texts."""
    system: str | None = None
    for path in paths:
        for _line, record in _records(path):
            if record is not None and (record.keys() >= _PAIR or _PREFERRED in record):
                return False  # prompts and completions, or preferences, which keep their conversations themselves
            try:
                line = _supervised(record)
            except BrokenJson:  # named when the file is read
                continue
            own = _plain_system(line)
            if own is not None and system in (None, own):
                system = own
            elif _is_usable(line):
                return True
    return False


def _is_usable(line: Mapping[str, Any]) -> bool:
    try:
        conversation_rows.split(line)
    except BrokenJson:  # it will be left out, and named
        return False
    return True


def read(path: Path, filename: str) -> ConversationFile:
    """The conversations of a file.

    Raises:
        BadFile: none can be used.
    """
    builder = TableBuilder((conversation_rows.COLUMN, conversation_rows.ASKED, COMPLETION))
    found, rewritten = ImportProblems(), 0
    for number, record in _records(path):
        if builder.full:
            found.end_early(msg("Only the first {rows} rows of {file} are in the data set.", rows=f"{len(builder):,}",
                                file=filename))  # fmt: skip
            break
        try:
            line = _supervised(record)
            old_form = bool(line.get("functions"))
            line = request_bodies.with_tools(line) if old_form else line
            prompt, completion = conversation_rows.split(line)
        except BrokenJson as exc:
            found.add(with_position(position("Line", number), str(exc)))
            continue
        rewritten += old_form
        builder.add([prompt, _last(line["messages"]), completion], number)
    if not len(builder):
        raise BadFile(
            msg("{filename} has no conversation that can be used. {first}", filename=filename, first=found.first()),
            msg("Each conversation must end with an answer and have a user message before it."),
        )
    frame = builder.rows("Line").frame
    return ConversationFile(frame, found.left_out, found.first(), rewritten, found.cut_short)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The objects of a JSONL file with their line; None for a line that is no object."""
    with path.open("rb") as file:
        for number, raw in finetune_format.lines(file):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                record = None
            yield number, record if isinstance(record, dict) else None


def _plain_system(record: Mapping[str, Any]) -> str | None:
    """The system text of a line that is only a question and its answer; None if it is more than that."""
    messages = record["messages"]
    if not all(isinstance(one, dict) for one in messages):
        return None
    has_more = any(record.get(name) not in (None, [], "") for name in _EXTRA)
    given = ({key for key, value in one.items() if value not in (None, [])} for one in messages)
    others = any(not names <= _MESSAGE_KEYS for names in given)
    if has_more or others or [one.get("role") for one in messages] not in _PLAIN_ROLES:
        return None
    if not all(isinstance(one.get("content"), str) for one in messages) or messages[-1].get("weight") == 0:
        return None
    return str(messages[0]["content"]).strip() if len(messages) > 2 else ""


def _supervised(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """A line as a conversation with its answer. What a training file does not have, such as the parameters of a stored
    completion, is left out.

    Raises:
        BrokenJson: it has no messages.
    """
    if record is None:
        raise BrokenJson(msg("It is not a JSON object."))
    if not isinstance(record.get("messages"), list) or not record["messages"]:
        raise BrokenJson(msg('Its "{key}" is not a non-empty list of messages.', key="messages"))
    return {key: value for key, value in record.items() if key in _KEPT}


def _last(messages: Sequence[Mapping[str, Any]]) -> str:
    """The last message before the answer, to recognise a row by."""
    return message_text.of_message(messages[-2]) or "" if len(messages) > 1 else ""
