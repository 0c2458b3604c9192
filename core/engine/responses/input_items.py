"""The `input` of a Responses request: its items, as stored, and as the messages of a chat request. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core.engine import tool_calls
from core.engine.api.errors import ApiError, bad_value
from core.engine.store import random_code
from core.message import msg

Item = dict[str, Any]
REFERENCE = "item_reference"
"""The type of an item that stands for a stored one with the same id."""

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text", "refusal")
_MAX_SHOWN = 64  # characters of an id in an error


def parse(raw: object) -> list[tuple[str, Item]]:
    """The items of an `input`, a text or a list, each with an id, and with its place in the request (`input[2]`).

    Raises:
        ApiError: 400 for an item that is not valid, or not text.
    """
    if isinstance(raw, str):
        return [("input", _message_item("user", [{"type": "input_text", "text": raw}]))]
    if not isinstance(raw, list) or not raw:
        raise bad_value("input", msg("'{name}' must be a text or a list of items.", name="input"))
    places = [f"input[{index}]" for index in range(len(raw))]
    return [(place, item) for place, one in zip(places, raw, strict=True) for item in _items(place, one)]


def _items(param: str, raw: object) -> list[Item]:
    """The item as stored; none for a kind that means nothing here."""
    if not isinstance(raw, dict):
        raise bad_value(param, msg("'{name}' must be an object.", name=param))
    kind = raw.get("type") or "message"
    if kind == "message":
        return [_message(param, raw)]
    if kind == "function_call":
        texts = {name: _text(f"{param}.{name}", raw.get(name)) for name in ("call_id", "name", "arguments")}
        _check_call(param, **texts)
        return [{"type": kind, "id": str(raw.get("id") or new_id("fc")), **texts, "status": "completed"}]
    if kind == "function_call_output":
        output = raw.get("output")
        text = output if isinstance(output, str) else _joined(f"{param}.output", output)
        call_id = _text(f"{param}.call_id", raw.get("call_id"))
        item_id = str(raw.get("id") or new_id("fco"))
        return [{"type": kind, "id": item_id, "call_id": call_id, "output": text, "status": "completed"}]
    if kind == REFERENCE:
        return [{"type": kind, "id": _text(f"{param}.id", raw.get("id"))}]
    if kind == "reasoning":
        return []  # an answer of another model; ours are written without
    raise _not_supported(f"{param}.type", kind)


def _check_call(param: str, call_id: str, name: str, arguments: str) -> None:
    """Raise ApiError for a call that the chat request would refuse, at a place that the client does not know."""
    if not call_id:
        raise bad_value(f"{param}.call_id", msg("'{name}' must not be empty.", name=f"{param}.call_id"))
    if not tool_calls.NAME.fullmatch(name):
        form = msg("'{name}' must be 1 to 64 letters, digits, underscores or hyphens.", name=f"{param}.name")
        raise bad_value(f"{param}.name", form)
    if tool_calls.parsed_arguments(arguments) is None:
        raise bad_value(f"{param}.arguments", msg("'{name}' must be a JSON object as text.", name=f"{param}.arguments"))


def _message(param: str, raw: Mapping[str, Any]) -> Item:
    role, content = raw.get("role"), raw.get("content")
    if role not in _ROLES:
        raise bad_value(f"{param}.role", msg("'{name}' must be one of: {roles}.", name=f"{param}.role", roles=_ROLES))
    text = content if isinstance(content, str) else _joined(f"{param}.content", content)
    if role == "assistant":
        return message_output(text, str(raw.get("id") or new_id("msg")))
    return _message_item(role, [{"type": "input_text", "text": text}])


def _joined(param: str, parts: object) -> str:
    """The text of content that is a list of parts."""
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise bad_value(param, msg("'{name}' must be a text or a list of parts.", name=param))
    texts = []
    for index, part in enumerate(parts):
        if part.get("type") not in _TEXT_PARTS:
            raise _not_supported(f"{param}[{index}].type", part.get("type"))
        name = "refusal" if part["type"] == "refusal" else "text"
        texts.append(_text(f"{param}[{index}].{name}", part.get(name)))
    return "".join(texts)


def _text(param: str, value: object) -> str:
    if not isinstance(value, str):
        raise bad_value(param, msg("'{name}' must be a string.", name=param))
    return value


def _not_supported(param: str, kind: object) -> ApiError:
    return ApiError(
        400,
        msg("'{name}' is '{kind}'; this engine only reads text and function calls.", name=param, kind=str(kind)[:64]),
        param=param,
        code="unsupported_value",
    )


def check_calls(placed: Iterable[tuple[str, Item]]) -> None:
    """Check that each call has its output, before anything else follows.

    Args:
        placed: items with their places in the request.

    Raises:
        ApiError: 400 with the place of the item that is wrong, in OpenAI's words.
    """
    waiting: dict[str, None] = {}  # ids of calls without an output
    answering = False  # whether an output has followed the calls
    for place, item in placed:
        call_id = item.get("call_id", "")
        if item["type"] == "function_call_output":
            if call_id not in waiting:
                message = msg("No tool call found for function call output with call_id {id}.", id=call_id[:_MAX_SHOWN])
                raise bad_value(_in_item(place, "call_id"), message)
            del waiting[call_id]
            answering = True
        elif waiting and (item["type"] != "function_call" or answering):
            raise _without_output(place, waiting)
        elif item["type"] == "function_call":
            if call_id in waiting:
                message = msg("Two function calls have the call_id {id}.", id=call_id[:_MAX_SHOWN])
                raise bad_value(_in_item(place, "call_id"), message)
            waiting[call_id], answering = None, False
    if waiting:
        raise _without_output("input", waiting)


def _without_output(place: str, waiting: Iterable[str]) -> ApiError:
    return bad_value(place, msg("No tool output found for function call {id}.", id=next(iter(waiting))[:_MAX_SHOWN]))


def _in_item(place: str, name: str) -> str:
    """The place of a field, if the item is part of the request's own list."""
    return f"{place}.{name}" if place.startswith("input[") else place


def as_messages(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The messages of a chat request. Calls are part of the assistant's message before them."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if item["type"] == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        elif item["type"] == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
        else:
            text = "".join(part["text"] for part in item["content"])
            if text or item["role"] != "assistant":
                messages.append({"role": item["role"], "content": text})
    return messages


def message_output(text: str, item_id: str, status: str = "completed", logprobs: list[Any] | None = None) -> Item:
    """An output message."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}
    return {"type": "message", "id": item_id, "status": status, "role": "assistant", "content": [part]}


def call_output(item_id: str, call_id: str, name: str, arguments: str, status: str = "completed") -> Item:
    """An output item that calls a function."""
    call = {"call_id": call_id, "name": name, "arguments": arguments}
    return {"type": "function_call", "id": item_id, **call, "status": status}


def new_id(prefix: str) -> str:
    """An id such as `msg_…`."""
    return f"{prefix}_{random_code(40)}"


def _message_item(role: str, content: list[dict[str, Any]]) -> Item:
    return {"type": "message", "id": new_id("msg"), "status": "completed", "role": role, "content": content}
