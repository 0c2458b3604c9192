"""Parses a Responses request into a chat request, and the fields that the response repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.engine.api.errors import ApiError, bad_value
from core.engine.api.job_request import parse_metadata
from core.engine.api.requests import boolean, integer, number, reject_unknown, required
from core.engine.chat_messages import is_missing
from core.engine.responses import input_items
from core.engine.responses.input_items import Item
from core.message import Message, msg

_KNOWN = frozenset(
    [
        *("model", "input", "instructions", "previous_response_id", "store", "stream", "stream_options"),
        *("temperature", "top_p", "max_output_tokens", "top_logprobs", "include", "text", "metadata", "user"),
        *("tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "truncation", "background"),
        *("conversation", "prompt", "reasoning", "service_tier", "safety_identifier", "context_management"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "moderation"),
    ]
)
# what would change the answer or how it is kept, with the values that change nothing
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "truncation": ("disabled",),
    "context_management": (),
    "moderation": (),
}
_LOGPROBS = "message.output_text.logprobs"
_NO_EFFECT = ("reasoning.encrypted_content",)  # answers are written without reasoning
# names of a chat request's parameters and what they are called here
_NAMES = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_completion_tokens", "max_output_tokens"),
)


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A parsed request.

    Attributes:
        placed: the items of the request's own input, each with its place in the request.
        previous: id of the response that it continues.
        store: whether the response is kept.
        chat: the body of the chat request, without messages.
        repeated: fields of the response that repeat the request.
    """

    placed: list[tuple[str, Item]]
    instructions: str | None
    previous: str | None
    store: bool
    stream: bool
    chat: dict[str, Any]
    repeated: dict[str, Any]

    @property
    def items(self) -> list[Item]:
        """The request's own input."""
        return [item for _, item in self.placed]

    def chat_body(self, history: list[Item]) -> dict[str, Any]:
        """The body of the chat request; `history` are the items of the responses before this one.

        Raises:
            ApiError: 400 if a function call has no output, or an output has no call.
        """
        input_items.check_calls([*(("previous_response_id", item) for item in history), *self.placed])
        before = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return {**self.chat, "messages": before + input_items.as_messages([*history, *self.items])}


def parse(body: Mapping[str, Any]) -> ResponseRequest:
    """Parse the body of POST /v1/responses. Raises ApiError 400."""
    reject_unknown(body, _KNOWN)
    for name, harmless in _UNSUPPORTED.items():
        value = body.get(name)
        if not is_missing(value) and value not in harmless:
            message = msg("'{name}' is not supported by this engine.", name=name)
            raise ApiError(400, message, param=name, code="unsupported_parameter")
    instructions, previous = (_optional_text(body, name) for name in ("instructions", "previous_response_id"))
    tools, choice = _tools(body.get("tools")), body.get("tool_choice")
    form = _format(body.get("text"))
    stream, wants_logprobs = boolean(body, "stream"), _LOGPROBS in _included(body.get("include"))
    top_logprobs = integer(body, "top_logprobs", 0, 20, 0)
    chat: dict[str, Any] = {
        "model": required(body, "model"),
        "stream": stream,
        "temperature": number(body, "temperature", 0, 2, 1.0),
        "top_p": number(body, "top_p", 0, 1, 1.0),
        "max_completion_tokens": integer(body, "max_output_tokens", 1, 1 << 20, None),
        "response_format": _chat_format(form),
        "tools": [{"type": "function", "function": _chat_function(tool)} for tool in tools],
        "tool_choice": _chat_choice(choice),
        "parallel_tool_calls": body.get("parallel_tool_calls"),
        "logprobs": wants_logprobs or bool(top_logprobs),
        "top_logprobs": top_logprobs,
    }
    store = body.get("store") is not False
    repeated = {
        "instructions": instructions,
        "max_output_tokens": chat["max_completion_tokens"],
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": parse_metadata(body.get("metadata")) or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": previous,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": "default",
        "store": store,
        "temperature": chat["temperature"],
        "text": {"format": form, "verbosity": "medium"},
        "tool_choice": choice or "auto",
        "tools": tools,
        "top_logprobs": top_logprobs,
        "top_p": chat["top_p"],
        "truncation": "disabled",
        "user": body.get("user"),
    }
    placed = input_items.parse(body.get("input"))
    return ResponseRequest(placed, instructions, previous, store, stream, chat, repeated)


def renamed(error: ApiError) -> ApiError:
    """The error of a chat request, about the parameter's name here; its sentence too."""
    if error.param is None:
        return error
    theirs, error.param = error.param, _name_here(error.param)
    if isinstance(error.message, Message):
        params = {key: error.param if value == theirs else value for key, value in error.message.params.items()}
        error.message = Message(error.message.template, params, error.message.cause)
    return error


def _name_here(param: str) -> str:
    if param.startswith("messages"):
        return "input"  # their numbers count the instructions and the responses before
    for theirs, ours in _NAMES:
        if param.startswith(theirs):
            return ours + param.removeprefix(theirs)
    if param.startswith("tool_choice."):
        return param.replace(".allowed_tools", "", 1)
    return param.replace(".function", "", 1) if param.startswith("tools[") else param


def _optional_text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise bad_value(name, msg("'{name}' must be a string.", name=name))
    return value


def _included(value: object) -> list[str]:
    if is_missing(value):
        return []
    if not isinstance(value, list):
        raise bad_value("include", msg("'{name}' must be a list.", name="include"))
    for one in value:
        if one != _LOGPROBS and one not in _NO_EFFECT:
            raise bad_value("include", msg("'include' cannot be '{value}' here.", value=str(one)[:64]))
    return value


def _tools(value: object) -> list[dict[str, Any]]:
    """The functions, with every key that OpenAI repeats."""
    if is_missing(value):
        return []
    if not isinstance(value, list):
        raise bad_value("tools", msg("'{name}' must be a list.", name="tools"))
    for index, one in enumerate(value):
        if not isinstance(one, dict) or one.get("type") != "function":
            message = msg("Only tools of type 'function' are supported by this engine.")
            raise ApiError(400, message, param=f"tools[{index}].type", code="unsupported_value")
    defaults = {"type": "function", "description": None, "parameters": None, "strict": False}
    return [{**defaults, **one} for one in value]


def _chat_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tool.get(name) for name in ("name", "description", "parameters", "strict")}


def _chat_choice(value: object) -> object:
    """The `tool_choice` of the chat request, in which names of functions are one level deeper."""
    if not isinstance(value, dict):
        return value
    if value.get("type") == "function":
        return {"type": "function", "function": {"name": value.get("name")}}
    if value.get("type") == "allowed_tools":
        tools = value.get("tools")
        listed = [_chat_choice(one) for one in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": value.get("mode"), "tools": listed}}
    return value


def _format(value: object) -> dict[str, Any]:
    """`text.format`, or that of plain text."""
    if is_missing(value):
        return {"type": "text"}
    if not isinstance(value, dict):
        raise bad_value("text", msg("'{name}' must be an object.", name="text"))
    reject_unknown(value, frozenset({"format", "verbosity"}), "text.")
    form = value.get("format") or {"type": "text"}
    if not isinstance(form, dict):
        raise bad_value("text.format", msg("'{name}' must be an object.", name="text.format"))
    return form


def _chat_format(form: Mapping[str, Any]) -> dict[str, Any]:
    if form.get("type") != "json_schema":
        return dict(form)
    return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
