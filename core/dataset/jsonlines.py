"""JSONL as fine-tuning APIs read it: one object a line, `prompt` and `completion` or `messages`. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from core.dataset.problems import LONGEST_CELL, Problems
from core.errors import BadFile

_SHAPES = 'Each line must be {"prompt": "…", "completion": "…"} or {"messages": […]}.'
_ROLES = {"system", "developer", "user", "assistant"}


def read(text: str, filename: str, problems: Problems) -> pd.DataFrame:
    """The good lines as columns `prompt` and `completion`, with `system` in front where a line has it.

    Raises:
        BadFile: no line can be used.
    """
    if text.lstrip()[:1] == "[":
        raise BadFile(
            f"{filename} is one JSON list, not JSONL.", "Write one object a line, without brackets and commas around."
        )
    rows = [row for row in _rows(text, problems) if row is not None]
    if not rows:
        told = problems.told()
        raise BadFile(f"{filename} has no line that can be used. {told[0] if told else ''}".strip(), _SHAPES)
    columns = ["prompt", "completion"]
    if any(row.get("system") for row in rows):
        columns.insert(0, "system")
    frame = pd.DataFrame([[row.get(c, "") for c in columns] for row in rows], columns=columns, dtype="str")
    frame.attrs["chat"] = all("system" in row for row in rows)  # only lines of messages have that key
    return frame


def _rows(text: str, problems: Problems) -> Iterator[dict[str, str] | None]:
    start, number = 0, 0
    while start < len(text):  # not splitlines(): a story may hold characters that it takes for line ends
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        number += 1
        line = text[start:end].strip("\r \t\ufeff")
        start = end + 1
        if line:
            try:
                yield _row(line)
            except _Broken as exc:
                problems.add(f"Line {number:,}: {exc}")


class _Broken(ValueError):
    """Why a line cannot be used."""


def _row(line: str) -> dict[str, str]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as exc:
        raise _Broken(f"this is not JSON: {exc.msg} at column {exc.colno:,}.") from exc
    except (ValueError, RecursionError) as exc:  # a number of 10,000 digits, a million brackets
        raise _Broken("this JSON cannot be read.") from exc
    if not isinstance(found, dict):
        raise _Broken("this is not an object in braces.")
    row = _messages(found["messages"]) if "messages" in found else _pair(found)
    for name, cell in row.items():
        if "\0" in cell:
            raise _Broken(f"{name} has a NUL character.")
        if len(cell) > LONGEST_CELL:
            raise _Broken(f"{name} has more than {LONGEST_CELL:,} characters.")
        try:
            cell.encode()
        except UnicodeEncodeError as exc:
            raise _Broken(f"{name} has half of a character (a lone surrogate).") from exc
    if not row["completion"].strip():
        raise _Broken("the completion is empty.")
    return row


def _pair(found: dict[str, Any]) -> dict[str, str]:
    missing = [name for name in ("prompt", "completion") if not isinstance(found.get(name), str)]
    if missing:
        raise _Broken(f"there is no text under {' and '.join(missing)}.")
    return {"prompt": found["prompt"], "completion": found["completion"]}


def _messages(messages: object) -> dict[str, str]:
    """Several turns become one example: the last answer, with everything before it as the prompt."""
    if not isinstance(messages, list) or not all(_is_message(m) for m in messages):
        raise _Broken("messages must be a list of objects with a role and a text as content.")
    if not messages or messages[-1]["role"] != "assistant":
        raise _Broken("the last message must be the assistant's.")
    system = "\n\n".join(m["content"] for m in messages if m["role"] in ("system", "developer"))
    turns = [m for m in messages[:-1] if m["role"] in ("user", "assistant")]
    if not turns:
        raise _Broken("there is no message of the user.")
    if len(turns) == 1:
        prompt = turns[0]["content"]
    else:
        prompt = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in turns)
    return {"system": system, "prompt": prompt, "completion": messages[-1]["content"]}


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in _ROLES and isinstance(message.get("content"), str)
