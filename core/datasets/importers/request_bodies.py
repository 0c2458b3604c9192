"""Bodies of requests to OpenAI's APIs, as logs and batch files have them: chat completions, responses and completions.

All become the body of a chat completion, whose messages are asked again. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CALL, _RESULT = "function_call", "function_call_output"


def as_chat(value: object) -> object:
    """A request as that of a chat completion; anything else unchanged.

    Responses: `input` (a text or items) with `instructions`; completions: one `prompt`. Tools get the form of chat.
    """
    if not isinstance(value, Mapping):
        return value
    if value.get("messages"):
        return with_tools(value) if value.get("functions") else value
    asked = value.get("input")
    if isinstance(asked, str) and asked.strip() and ("model" in value or "instructions" in value):
        messages: list[Any] = [{"role": "user", "content": asked}]
    elif isinstance(asked, list) and asked and all(isinstance(item, Mapping) for item in asked):
        messages = [message for item in asked if (message := _message(item)) is not None]
    elif isinstance(value.get("prompt"), str) and "model" in value:
        messages = [{"role": "user", "content": value["prompt"]}]
    else:
        return value
    if isinstance(instructions := value.get("instructions"), str) and instructions.strip():
        messages.insert(0, {"role": "system", "content": instructions})
    rest = {key: one for key, one in value.items() if key not in ("input", "prompt", "instructions")}
    if (limit := rest.pop("max_output_tokens", None)) is not None:
        rest["max_tokens"] = limit
    text = rest.pop("text", None)
    if isinstance(text, Mapping) and isinstance(text.get("format"), Mapping):
        rest["response_format"] = _response_format(text["format"])
    return {**rest, "messages": messages}


def with_tools(record: Mapping[str, Any]) -> dict[str, Any]:
    """A line in OpenAI's older form (`functions`, `function_call`) with `tools` and `tool_calls` instead."""
    messages, number = list[Any](), 0
    for message in record.get("messages") or ():
        if not isinstance(message, Mapping):
            messages.append(message)
            continue
        kept = {key: value for key, value in message.items() if key != "function_call"}
        if isinstance(call := message.get("function_call"), Mapping):
            number += 1
            kept["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": dict(call)}]
        elif message.get("role") == "function":
            kept = {"role": "tool", "tool_call_id": f"call_{number}", "content": message.get("content") or ""}
        messages.append(kept)
    tools = [{"type": "function", "function": one} for one in record["functions"] or ()]
    rest = {key: value for key, value in record.items() if key not in ("functions", "messages")}
    return {**rest, "messages": messages, **({"tools": tools} if tools else {})}


def tools_of(request: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The tools of a request, in the form of a chat completion."""
    listed = request.get("tools") or []
    tools = [_tool(one) for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    return tuple(tools)


def _response_format(form: Mapping[str, Any]) -> dict[str, Any]:
    """The format of a response in the form of a chat completion."""
    if form.get("type") != "json_schema":
        return dict(form)
    return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _message(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """An item of a response's input as a message; None for one without a counterpart, such as reasoning."""
    if item.get("type") == _CALL:
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if item.get("type") == _RESULT:
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    return dict(item) if "role" in item else None
