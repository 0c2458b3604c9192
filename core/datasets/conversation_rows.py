"""Conversations as training rows: every message with its weight, and the tools, exactly as in the file. Pure.

A row's prompt (its column `COLUMN`) is the conversation without its last message, as a JSON object. Its text is that
message: the words of a plain answer, calls of tools as `{"tool_calls": [{"name", "arguments"}]}`, with `content` for
words beside them, or else the message as JSON. `line` puts both together again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.datasets.importers import conversations
from core.datasets.importers.json_objects import BrokenJson
from core.engine import message_text
from core.message import msg
from core.sanitize import storable

COLUMN: Final = "conversation (JSON)"
"""The only prompt column of such data sets."""
ASKED: Final = "prompt"
"""A further column: what the conversation asks, to read and to choose a row by."""
_PLAIN = frozenset({"role", "content"})
_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class AskedConversation:
    """A conversation that a model answers.

    Attributes:
        messages: in OpenAI's format, with the system text.
        tools: the tools as JSON, or "".
        parallel_tool_calls: None leaves it to the provider.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: str = ""
    parallel_tool_calls: bool | None = None


def holds(columns: Sequence[str]) -> bool:
    """Whether the rows of a data set with these columns are conversations."""
    return list(columns) == [COLUMN]


def split(record: Mapping[str, Any]) -> tuple[str, str]:
    """A training line as the prompt and the text of its row.

    Raises:
        BrokenJson: it has no conversation that ends with an answer, or a message that is not text.
    """
    messages = record.get("messages")
    turns = conversations.turns(messages)
    if not isinstance(messages, list) or len(turns) != len(messages):
        raise BrokenJson(msg('Its "{key}" is not a non-empty list of messages.', key="messages"))
    conversations.example(turns)  # raises if there is nothing to learn
    prompt = _dumps({**record, "messages": messages[:-1]})
    return prompt, _completion(messages[-1], tools=bool(record.get("tools")))


def line(prompt: str, completion: str, system: str = "") -> dict[str, Any]:
    """The training line of a row. A row that is no conversation becomes one, with the prompt as the user's message.

    Args:
        system: a system text for conversations that have none of their own.
    """
    record = _record(prompt) or {"messages": [{"role": "user", "content": prompt}]}
    messages = list(record["messages"])
    if system and not any(_role(message) in _SYSTEM_ROLES for message in messages):
        messages.insert(0, {"role": "system", "content": system})
    return {**record, "messages": [*messages, message_of(completion, tools=bool(record.get("tools")))]}


def texts(prompt: str, completion: str) -> tuple[str, str]:
    """What a model reads of a row, and what it learns to write: to count tokens and to show the row."""
    record = _record(prompt)
    if record is None:
        return prompt, completion
    shown = [f"{_role(message)}: {_shown(message)}" for message in record["messages"]]
    tools = [_dumps(tool.get("function", tool)) for tool in record.get("tools") or () if isinstance(tool, Mapping)]
    answer = message_of(completion, tools=bool(record.get("tools")))
    return "\n\n".join([*tools, *shown]), message_text.of_answer(answer) or ""


def to_ask(prompt: str, completion: str) -> tuple[str, str]:
    """A row as a question and the expected answer: up to the last answer that is trained."""
    record = line(prompt, completion)
    messages = record["messages"]
    trained = [i for i, one in enumerate(messages) if _role(one) == "assistant" and one.get("weight") != 0]
    last = trained[-1] if trained else len(messages) - 1
    return _dumps({**record, "messages": messages[:last]}), message_text.of_message(messages[last]) or ""


def asked(prompt: str) -> AskedConversation:
    """What is sent for a prompt from `to_ask`; weights are for training only."""
    record = _record(prompt) or {"messages": [{"role": "user", "content": prompt}]}
    messages = tuple({key: value for key, value in one.items() if key != "weight"} for one in record["messages"])
    parallel = record.get("parallel_tool_calls")
    tools = _dumps(record["tools"]) if record.get("tools") else ""
    return AskedConversation(messages, tools, parallel if tools and isinstance(parallel, bool) else None)


def messages(prompt: str) -> tuple[Mapping[str, Any], ...]:
    """The messages of a conversation; none for a prompt that is plain text."""
    return () if _record(prompt) is None else asked(prompt).messages


def _record(prompt: str) -> dict[str, Any] | None:
    """The conversation in a prompt; None if it is something else."""
    if not prompt.startswith("{"):
        return None
    try:
        found = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    messages = found.get("messages") if isinstance(found, dict) else None
    is_valid = isinstance(messages, list) and all(isinstance(one, Mapping) for one in messages)
    return found if is_valid else None


def _completion(message: Mapping[str, Any], *, tools: bool) -> str:
    """The last message as the text of a row."""
    content = message.get("content")
    plain = message.keys() <= _PLAIN and isinstance(content, str) and content.strip()
    return str(content) if plain and message_of(str(content), tools=tools) == message else _dumps(message)


def message_of(completion: str, *, tools: bool) -> dict[str, Any]:
    """The message that the text of a row or of an answer stands for.

    Args:
        tools: whether the conversation has tools, so that the text may be their calls.
    """
    if completion.startswith("{"):
        try:
            found = json.loads(completion)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and found.get("role") == "assistant":
            return found
        calls = found.get("tool_calls") if isinstance(found, dict) and tools else None
        if isinstance(calls, list) and calls and all(isinstance(one, Mapping) and "name" in one for one in calls):
            words = found.get("content")
            return {
                "role": "assistant",
                "content": words if isinstance(words, str) else None,
                "tool_calls": [_call(*one) for one in enumerate(calls, 1)],
            }
    return {"role": "assistant", "content": completion}


def _call(number: int, call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else _dumps(arguments)
    return {"id": f"call_{number}", "type": "function", "function": {"name": call["name"], "arguments": text}}


def _shown(message: Mapping[str, Any]) -> str:
    """A message as text, with both its words and its calls."""
    calls = message_text.of_message(message) or "" if message.get("tool_calls") else ""
    content = message.get("content")
    words = content if isinstance(content, str) else "".join(_parts(content))
    return "\n".join(filter(None, (words, calls)))


def _parts(content: object) -> list[str]:
    parts = content if isinstance(content, list) else []
    return [str(part["text"]) for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]


def _role(message: Mapping[str, Any]) -> str:
    return str(message.get("role"))


def _dumps(value: object) -> str:
    return storable(json.dumps(value, ensure_ascii=False))
