"""Preferences whose conversation is more than one message, kept as they are, so that training reads them whole.

A row of a data set has one prompt. For a conversation of several messages, with tools, or with answers that call tools,
the column `COLUMN` keeps the parts of OpenAI's line that would be lost. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from core.datasets.importers import conversations

COLUMN: Final = "conversation"
"""Name of the column; empty for a row that is just a prompt with two answers."""
_ANSWERS = ("preferred_output", "non_preferred_output")


def conversation_of(prompt: str, preferred: str, rejected: str) -> str:
    """The conversation of one preference as JSON: `{"input": …}`, with both outputs if one calls tools; "" if the
    conversation is one message of the user.

    Args:
        prompt, preferred, rejected: the cells of a file. Conversations in other formats than OpenAI's are not kept.
    """
    asked = conversations.parse_json(prompt)
    if isinstance(asked, list):
        asked = {"messages": asked}
    if not isinstance(asked, Mapping) or not _messages(asked.get("messages")):
        return ""
    answers = [conversations.parse_json(cell) for cell in (preferred, rejected)]
    calls = all(map(_messages, answers)) and any(one[-1].get("tool_calls") for one in answers if isinstance(one, list))
    context = {name: value for name, value in asked.items() if value not in (None, [], {}, "")}
    if "tools" not in context:
        context.pop("parallel_tool_calls", None)
    messages = context["messages"]
    if not calls and context.keys() == {"messages"} and len(messages) == 1 and _is_plain(messages[0]):
        return ""
    return dumps(context, dict(zip(_ANSWERS, answers, strict=True)) if calls else {})


def dumps(asked: Mapping[str, Any], answers: Mapping[str, Any] | None = None) -> str:
    """A conversation as it is kept: `asked` has its messages, and its tools if there are any."""
    return json.dumps({"input": asked, **(answers or {})}, ensure_ascii=False)


def line_of(conversation: str, prompt: str, preferred: str, rejected: str) -> dict[str, Any]:
    """One line of OpenAI's preference format, from the texts of a row and its conversation, if it has one."""
    kept = _kept(conversation)
    line: dict[str, Any] = {"input": kept.get("input") or {"messages": [{"role": "user", "content": prompt}]}}
    for name, text in zip(_ANSWERS, (preferred, rejected), strict=True):
        raw = kept.get(name)
        same = raw is not None and conversations.turns(raw)[-1].text == text  # otherwise it was edited
        line[name] = raw if same else [{"role": "assistant", "content": text}]
    return line


def stored_in(values: Mapping[str, Any]) -> str:
    """The conversation among the values of a row; "" if there is none, or if its column holds something else."""
    cell = values.get(COLUMN)
    return cell if isinstance(cell, str) and _kept(cell) else ""


def _kept(cell: str) -> dict[str, Any]:
    """A conversation as it was kept; empty for any other text."""
    try:
        found = json.loads(cell) if cell.startswith('{"input":') else {}
    except (ValueError, RecursionError):
        return {}
    asked = found.get("input")
    return found if isinstance(asked, dict) and _messages(asked.get("messages")) else {}


def _messages(value: object) -> bool:
    """Whether a value is a list of messages in OpenAI's format."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and "role" in one for one in value)


def _is_plain(message: Mapping[str, Any]) -> bool:
    return (
        message["role"] == "user" and isinstance(message.get("content"), str) and message.keys() <= {"role", "content"}
    )
