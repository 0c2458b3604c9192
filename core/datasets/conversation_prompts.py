"""A conversation as the prompt of a row: its messages as JSON, as they are sent. Pure.

Rows whose prompts come from a list of conversations are stored this way (`Recipe.conversations`); the model answers the
last message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.datasets.importers import conversations
from core.datasets.importers.conversations import Turn
from core.datasets.importers.json_objects import BrokenJson
from core.message import msg
from core.sanitize import storable

_KEPT_KEYS = ("name", "tool_calls", "tool_call_id", "function_call")
_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class UnansweredConversation:
    """A conversation that ends with a message to be answered.

    Attributes:
        system: its system text, or "".
        messages: the messages after the system text, in OpenAI's format.
        text: the messages as one text; a single user message as it is.
        tools: the tools that the model may call, in OpenAI's format.
        parallel_tool_calls: None leaves it to the provider.
        dropped: number of messages after the last one to be answered, which were left out.
    """

    system: str
    messages: tuple[Mapping[str, Any], ...]
    text: str
    dropped: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()
    parallel_tool_calls: bool | None = None

    @property
    def is_single(self) -> bool:
        """Whether there is only one message, from the user, and no tool."""
        return (
            not self.tools
            and len(self.messages) == 1
            and self.messages[0]["role"] == "user"
            and self.messages[0].keys() <= _PLAIN
        )


_PLAIN = {"role", "content"}


def unanswered(value: object, what: str = "messages") -> UnansweredConversation:
    """A conversation in any known format, up to the last message that a model can answer: its answers after that are
    dropped.

    Args:
        value: the result of `conversations.parse_json`.
        what: name of its column, for error messages.

    Raises:
        BrokenJson: it is not a conversation, has content other than text, or no user message with text.
    """
    raw = _raw_messages(value)
    turns = conversations.turns(value if raw is None else raw, what)
    messages = _messages(raw, turns)
    end = max((i for i, turn in enumerate(turns, 1) if turn.role in ("user", "tool")), default=0)
    start = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if not any(turn.role == "user" for turn in turns):
        raise BrokenJson(msg("It has no user message."))
    if not turns[end - 1].text.strip():
        raise BrokenJson(msg("Its last user message is empty."))
    return UnansweredConversation(
        system=storable("\n\n".join(turn.text for turn in turns[:start] if turn.text.strip())),
        messages=tuple(messages[start:end]),
        text=storable(conversations.transcript(turns[start:end])),
        dropped=len(turns) - end,
    )


def dumps(asked: UnansweredConversation, system: str = "") -> str:
    """A conversation as the prompt of a row: an object like a line of a training file, without the answer.

    Args:
        system: a system text of its own, or "".
    """
    own = [{"role": "system", "content": system}] if system else []
    record: dict[str, Any] = {"messages": [*own, *asked.messages]}  # names and tool calls are kept as they are
    if asked.tools:
        record["tools"] = list(asked.tools)
    if asked.tools and asked.parallel_tool_calls is not None:
        record["parallel_tool_calls"] = asked.parallel_tool_calls
    return storable(json.dumps(record, ensure_ascii=False))


def loads(prompt: str) -> UnansweredConversation:
    """The conversation in the prompt of a row; "" is an empty one. Rows of earlier versions have only its messages."""
    found = json.loads(prompt) if prompt else []
    record: Mapping[str, Any] = found if isinstance(found, Mapping) else {"messages": found}
    messages: list[dict[str, Any]] = list(record["messages"])
    system = str(messages.pop(0)["content"]) if messages and messages[0]["role"] == "system" else ""
    turns, tools = conversations.turns(messages) if messages else [], tuple(record.get("tools") or ())
    definitions = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    return UnansweredConversation(
        system,
        tuple(messages),
        "\n\n".join([*definitions, conversations.transcript(turns)]),
        tools=tools,
        parallel_tool_calls=record.get("parallel_tool_calls"),
    )


def _raw_messages(value: object) -> list[Any] | None:
    """The messages in the file; a stored chat completion can have their content in `content_parts` instead."""
    messages = value.get("messages") if isinstance(value, Mapping) else value
    if not isinstance(messages, list):
        return None
    return [
        {**message, "content": message["content_parts"]}
        if isinstance(message, Mapping) and message.get("content") is None and message.get("content_parts")
        else message
        for message in messages
    ]


def _messages(raw: list[Any] | None, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as messages; tool calls and names are kept where the conversation is already in OpenAI's format."""
    result: list[dict[str, Any]] = []
    for i, turn in enumerate(turns):
        source = raw[i] if raw is not None and len(raw) == len(turns) and isinstance(raw[i], Mapping) else {}
        extra = {key: source[key] for key in _KEPT_KEYS if source.get(key)}
        if "tool_calls" in extra or "function_call" in extra:
            result.append({"role": turn.role, "content": source.get("content"), **extra})
        else:
            result.append({"role": turn.role, "content": storable(turn.text), **extra})
    return result
