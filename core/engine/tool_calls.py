"""Tools, calls of tools and their results, in training files and in requests. Pure, without dependencies.

The shapes and rules are OpenAI's: `tools`, an assistant's `tool_calls`, and one `tool` message for each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from core.message import msg

MAX_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Names of tools."""
_MAX_SHOWN_CHARS = 64  # of a name or id in an error


class BadTools(ValueError):
    """Tools or calls that are not valid; `sentence` is the message for the user."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call.

    Attributes:
        parameters: its JSON Schema as text; an empty object if it takes none.
        strict: whether the arguments must follow the schema exactly.
    """

    name: str
    description: str
    parameters: str
    strict: bool = False

    def as_json(self) -> dict[str, Any]:
        """The tool as a chat template expects it."""
        function = {"name": self.name, "description": self.description, "parameters": json.loads(self.parameters)}
        return {"type": "function", "function": function}


class CallOrder(Protocol):
    """What the order of calls and results is checked on."""

    @property
    def role(self) -> str:
        """The message's role."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls of an assistant's message."""

    @property
    def call_id(self) -> str:
        """The call that a tool's message answers."""


def parse_tools(raw: object) -> tuple[Tool, ...]:
    """Parse a list of tools. Raises BadTools."""
    if raw in (None, [], {}):
        return ()
    if not isinstance(raw, list) or len(raw) > MAX_TOOLS:
        raise BadTools(msg("'tools' must be a list of at most {most} tools.", most=MAX_TOOLS))
    tools = tuple(_tool(number, item) for number, item in enumerate(raw, start=1))
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadTools(msg("Two tools have the name '{name}'.", name=twice))
    return tools


def _tool(number: int, raw: object) -> Tool:
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or raw.get("type") != "function" or not isinstance(function, dict):
        raise BadTools(msg("Tool {number} is not of the form {form}.", number=number, form=_TOOL_FORM))
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadTools(
            msg("Tool {number} needs a name of 1 to 64 letters, digits, underscores or hyphens.", number=number)
        )
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(description, str) or not isinstance(parameters, dict):
        raise BadTools(msg("The description or the parameters of tool '{name}' are not valid.", name=name))
    return Tool(name, description, json.dumps(parameters, ensure_ascii=False), function.get("strict") is True)


def parse_calls(number: int, raw: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """Parse the `tool_calls` of message `number`. Raises BadTools."""
    calls = raw.get("tool_calls") or []
    if not isinstance(calls, list):
        raise BadTools(msg("Message {number} has 'tool_calls' that are not a list.", number=f"{number:,}"))
    return tuple(_call(number, item) for item in calls)


def _call(number: int, raw: object) -> ToolCall:
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(function, dict) or raw.get("type", "function") != "function":
        raise BadTools(
            msg(
                "Message {number} has a tool call that is not of the form {form}.",
                number=f"{number:,}",
                form=_CALL_FORM,
            )
        )
    call_id, name, arguments = raw.get("id"), function.get("name"), function.get("arguments")
    if not isinstance(call_id, str) or not call_id or not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadTools(msg("Message {number} has a tool call without an id or a name.", number=f"{number:,}"))
    parsed = parsed_arguments(arguments)
    if parsed is None:
        raise BadTools(
            msg(
                "Message {number} calls '{name}' with arguments that are not a JSON object.",
                number=f"{number:,}",
                name=name,
            )
        )
    return ToolCall(call_id, name, json.dumps(parsed, ensure_ascii=False))


def parsed_arguments(arguments: object) -> dict[str, Any] | None:
    """A call's arguments, a JSON object or its text; None if they are neither."""
    try:
        parsed = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def check_order(messages: Sequence[CallOrder], *, open_end: bool) -> None:
    """Check that each call has exactly one result, before any other message.

    Args:
        open_end: whether calls in the last message need no results, as in training files.

    Raises:
        BadTools: the sentence names the call.
    """
    waiting: dict[str, None] = {}  # in the calls' order
    for number, message in enumerate(messages, start=1):
        if message.role == "tool":
            if message.call_id not in waiting:
                raise BadTools(
                    msg(
                        "Message {number} is a tool's result, but no call before it has the id '{id}'.",
                        number=f"{number:,}",
                        id=message.call_id[:_MAX_SHOWN_CHARS],
                    )
                )
            del waiting[message.call_id]
            continue
        _check_answered(waiting)
        waiting = dict.fromkeys(call.id for call in message.calls)
        if len(waiting) < len(message.calls):
            raise BadTools(msg("Message {number} has two tool calls with one id.", number=f"{number:,}"))
    if not (open_end and messages and messages[-1].calls):
        _check_answered(waiting)


def _check_answered(waiting: Iterable[str]) -> None:
    shown = list(islice(waiting, 5))
    if shown:
        raise BadTools(
            msg(
                "Each of an assistant's tool calls must be followed by a 'tool' message with its result. "
                "Without a result: {ids}.",
                ids=", ".join(one[:_MAX_SHOWN_CHARS] for one in shown),
            )
        )


_TOOL_FORM = '{"type": "function", "function": {"name": …, "parameters": …}}'
_CALL_FORM = '{"id": …, "type": "function", "function": {"name": …, "arguments": …}}'
