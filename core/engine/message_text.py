"""What an answer says as one text, to compare two: its words, or its calls of tools as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

CALLS: Final = '{"tool_calls": '
"""How the text of calls begins."""


def of_message(message: Mapping[str, Any]) -> str | None:
    """The text of a message: its calls of tools as JSON, otherwise its words or its refusal; None if it has none."""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        functions = (call.get("function") if isinstance(call, Mapping) else None for call in calls)
        return of_calls(function if isinstance(function, Mapping) else {} for function in functions)
    text = message.get("content")
    if not isinstance(text, str):
        text = message.get("refusal")
    return text if isinstance(text, str) else None


def of_answer(message: Mapping[str, Any]) -> str | None:
    """Like `of_message`, with the words that stand beside calls of tools as a further key, `content`."""
    text, words = of_message(message), message.get("content")
    if text is None or not message.get("tool_calls") or not isinstance(words, str) or not words.strip():
        return text
    return f"{text[:-1]}, {json.dumps({'content': words}, ensure_ascii=False)[1:]}"


def calls_only(text: str) -> str:
    """The text of an answer without the words beside its calls of tools, which two answers need not have in common."""
    if not text.startswith(CALLS):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, dict) or value.keys() != {"tool_calls", "content"}:
        return text
    return json.dumps({"tool_calls": value["tool_calls"]}, ensure_ascii=False)


def of_calls(functions: Iterable[Mapping[str, Any]]) -> str | None:
    """Names and arguments of calls as JSON; None if they are nested too deeply."""
    listed = [
        {"name": function.get("name"), "arguments": _arguments(function.get("arguments"))} for function in functions
    ]
    try:
        return json.dumps({"tool_calls": listed}, ensure_ascii=False)
    except RecursionError:
        return None


def _arguments(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text
