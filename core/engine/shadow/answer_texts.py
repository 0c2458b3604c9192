"""The text and the tokens of an answer in OpenAI's format, complete or streamed, so that two answers can be compared.

Pure. Only an answer's first choice counts. Tool calls become JSON text; answers in another format have no text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
_DATA, _DONE = b"data:", b"[DONE]"


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A text, and the reported tokens; None if unknown."""

    text: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


_NOTHING = AnswerText(None)


def of_body(endpoint: str, body: object) -> AnswerText:
    """The text of a complete answer."""
    if not isinstance(body, Mapping):
        return _NOTHING
    text: str | None = None
    if endpoint == RESPONSES:
        text = _of_items(body.get("output"))
    elif choice := _first(body.get("choices")):
        text = _of_message(_mapping(choice.get("message"))) if endpoint == CHAT else _string(choice.get("text"))
    usage = _mapping(body.get("usage"))
    return AnswerText(
        text,
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
    )


def of_stream(endpoint: str, raw: bytes) -> AnswerText:
    """The text of a streamed answer that is complete; None as text if its end is missing."""
    events = [line[len(_DATA) :].strip() for line in raw.splitlines() if line.startswith(_DATA)]
    chunks = [_parsed(event) for event in events if event != _DONE]
    if endpoint == RESPONSES:
        completed = [chunk.get("response") for chunk in chunks if chunk.get("type") == "response.completed"]
        return of_body(endpoint, completed[-1]) if completed else _NOTHING
    if _DONE not in events:
        return _NOTHING
    usage = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)
    choices = [one for chunk in chunks if (one := _first(chunk.get("choices"))) and not one.get("index")]
    if endpoint == CHAT:
        message = _joined([_mapping(choice.get("delta")) for choice in choices])
        return of_body(endpoint, {"choices": [{"message": message}], "usage": usage})
    text = "".join(_string(choice.get("text")) or "" for choice in choices)
    return of_body(endpoint, {"choices": [{"text": text}], "usage": usage})


def _joined(deltas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The message that these parts of a chat answer make."""
    calls: dict[int, dict[str, str]] = {}
    for delta in deltas:
        for part in delta.get("tool_calls") or ():
            function = _mapping(part.get("function"))
            call = calls.setdefault(int(part.get("index") or 0), {"name": "", "arguments": ""})
            for name in call:
                call[name] += _string(function.get(name)) or ""
    text = "".join(_string(delta.get("content")) or _string(delta.get("refusal")) or "" for delta in deltas)
    return {"content": text, "tool_calls": [{"function": calls[index]} for index in sorted(calls)]}


def _of_message(message: Mapping[str, Any]) -> str | None:
    if calls := message.get("tool_calls"):
        return _calls(_mapping(call.get("function")) for call in calls if isinstance(call, Mapping))
    text = _string(message.get("content"))
    return _string(message.get("refusal")) if text is None else text


def _of_items(items: object) -> str | None:
    """The text of a response's items, or its function calls."""
    found = [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    calls = [item for item in found if item.get("type") == "function_call"]
    if calls:
        return _calls(calls)
    parts = [part for item in found if item.get("type") == "message" for part in item.get("content") or ()]
    texts = [_string(_mapping(part).get("text")) for part in parts]
    return "".join(text or "" for text in texts) if texts else None


def _calls(functions: Any) -> str:
    listed = [
        {"name": function.get("name"), "arguments": _arguments(function.get("arguments"))} for function in functions
    ]
    return json.dumps({"tool_calls": listed}, ensure_ascii=False)


def _arguments(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text


def _parsed(event: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(event))
    except (ValueError, RecursionError):
        return {}


def _first(choices: object) -> Mapping[str, Any]:
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    found = next((usage[name] for name in names if isinstance(usage.get(name), int)), None)
    return None if found is None else int(found)
