"""Preferences whose conversation is more than one message, kept as they are, so that training reads them whole.

A row of a data set has one prompt. For a conversation of several messages, with tools, or with answers that call tools,
the column `COLUMN` keeps the parts of OpenAI's line that would be lost. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from core.datasets.importers import conversations
from core.datasets.importers.json_objects import BrokenJson
from core.engine import message_text

COLUMN: Final = "conversation"
"""Name of the column; empty for a row that is just a prompt with two answers."""
_ANSWERS = ("preferred_output", "non_preferred_output")
_SYSTEM_ROLES = ("system", "developer")


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
    return json.dumps(
        {"input": context} | (dict(zip(_ANSWERS, answers, strict=True)) if calls else {}), ensure_ascii=False
    )


def dumps(asked: Mapping[str, Any], answers: Sequence[Mapping[str, Any]] = ()) -> str:
    """A conversation as it is kept.

    Args:
        asked: its messages, and its tools if there are any.
        answers: two messages, the preferred one first, if one of them calls tools.
    """
    kept = {name: [message] for name, message in zip(_ANSWERS, answers, strict=False)}
    return json.dumps({"input": asked} | kept, ensure_ascii=False)


def line_of(conversation: str, prompt: str, preferred: str, rejected: str) -> dict[str, Any]:
    """One line of OpenAI's preference format, from the texts of a row and its conversation, if it has one.

    What was edited counts: a text that is no longer that of the conversation takes the place of its part. A new prompt
    takes the place of all messages but the system texts.
    """
    kept = _kept(conversation)
    line: dict[str, Any] = {"input": _asked(kept.get("input"), prompt)}
    for name, text in zip(_ANSWERS, (preferred, rejected), strict=True):
        raw = kept.get(name)
        line[name] = raw if raw is not None and text in _texts(raw) else [{"role": "assistant", "content": text}]
    return line


def with_system(conversation: str, prompt: str, system: str) -> str:
    """A conversation, which may be just a prompt, that begins with a system text unless it has one of its own."""
    kept = _kept(conversation)
    asked = _asked(kept.get("input"), prompt)
    if asked["messages"][0]["role"] not in _SYSTEM_ROLES:
        asked = {**asked, "messages": [{"role": "system", "content": system}, *asked["messages"]]}
    return json.dumps(kept | {"input": asked}, ensure_ascii=False)


def prompt_of(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The prompt that shows a conversation: its messages as one text, without system texts; None if one is no text."""
    try:
        turns = conversations.turns(list(messages))
    except BrokenJson:
        return None
    return conversations.transcript([one for one in turns if one.role != "system"])


def is_one_prompt(conversation: str) -> bool:
    """Whether a row's prompt says all that its conversation asks, except for a system text."""
    kept = _kept(conversation)
    if not kept:
        return True
    asked = kept["input"]
    messages = [message for message in asked["messages"] if message["role"] not in _SYSTEM_ROLES]
    return kept.keys() == {"input"} and not asked.get("tools") and len(messages) == 1 and _is_plain(messages[0])


def _asked(kept: Mapping[str, Any] | None, prompt: str) -> Mapping[str, Any]:
    """What a row asks: its conversation, unless its prompt was edited."""
    message = {"role": "user", "content": prompt}
    if kept is None:
        return {"messages": [message]}
    system = [one for one in kept["messages"] if one["role"] in _SYSTEM_ROLES]
    shown = prompt_of(kept["messages"])
    if shown is None or prompt.strip() == shown.strip():
        return kept
    first = system[0].get("content") if system else None  # as a column of its own, it begins the prompt
    with_system = isinstance(first, str) and prompt.startswith(first) and prompt.rstrip().endswith(shown.strip())
    return kept if with_system else {**kept, "messages": [*system, message]}


def _texts(answer: list[Mapping[str, Any]]) -> tuple[str | None, ...]:
    """How the text of a row may show an answer: as it is imported, and as one of a model is saved."""
    return conversations.turns(answer)[-1].text, message_text.of_answer(answer[-1])


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
