"""Parses chat messages, with the same rules in training files and in requests. Pure, without dependencies.

Keys with a null or empty value count as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.engine import tool_calls
from core.engine.tool_calls import BadTools, ToolCall
from core.message import msg

# Control tokens of the chat templates (`core.engine.serving.chat`).
GEMMA_CONTROL_TOKENS = ("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>")
CHATML_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # zero-width characters, which `str.strip` keeps
_ROLES = ("system", "developer", "user", "assistant")
_TOOL_ROLES = ("tool", "function")
_ENGINE_ROLES = (*_ROLES, "tool")  # `function` is OpenAI's older name for a tool
_MAX_PASSES = 20  # deeper nesting is no text, but an attempt to inject a token
MAX_NAME_CHARS = 40  # maximum length of an unknown key or role in an error message


class BadLine(ValueError):
    """An invalid line of a training file, or an invalid conversation.

    Attributes:
        kind: the kind of fault, for grouping.
        sentence: the message for the user.
        path: the invalid value, as OpenAI names it (`messages[2].content`); "" if it is not part of a message.
    """

    def __init__(self, kind: str, sentence: str, path: str = "") -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.path = path


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message.

    Attributes:
        trained: OpenAI's `weight`: whether the loss includes this message.
        calls: an assistant's calls of tools.
        call_id: the call that a tool's message answers; "" for others.
    """

    role: str
    text: str
    trained: bool = True
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


def is_missing(value: object) -> bool:
    """Whether a value counts as missing: null, or an empty text, list or object."""
    return value is None or value in ("", [], {})


def parse_message(number: int, raw: object, *, text_only: bool = True) -> ChatMessage:
    """Parse message `number` (counted from 1) of a conversation.

    Raises:
        BadLine: the message is invalid.
    """
    path = f"messages[{number - 1}]"
    if not isinstance(raw, dict):
        raise BadLine("shape", msg("Message {number} is not a JSON object.", number=f"{number:,}"), path)
    role, weight, content = raw.get("role"), raw.get("weight"), raw.get("content")
    if is_missing(role):
        raise BadLine("role", msg("Message {number} has no role.", number=f"{number:,}"), f"{path}.role")
    if not isinstance(role, str) or role not in (_ENGINE_ROLES if text_only else _ROLES + _TOOL_ROLES):
        raise BadLine(
            "role",
            msg(
                "Message {number} has a role that is not valid: {role}.",
                number=f"{number:,}",
                role=repr(str(role)[:MAX_NAME_CHARS]),
            ),
            f"{path}.role",
        )
    if not is_missing(weight) and (role != "assistant" or weight not in (0, 1)):
        raise BadLine(
            "shape",
            msg("Message {number} has a weight; only answers have one, 0 or 1.", number=f"{number:,}"),
            f"{path}.weight",
        )
    calls = _tool_calls(number, raw, role) if text_only else ()
    # An answer may be null, as at OpenAI; a training file with an empty answer is rejected as a whole line.
    text = "" if role == "assistant" and content is None else _text(content, text_only)
    if text is None and not (calls or has_calls(raw)):
        raise BadLine(
            "shape",
            msg("Message {number} has no text content.", number=f"{number:,}"),
            f"{path}.content{_invalid_part(content)}",
        )
    check_encodable(text or "")
    call_id = raw.get("tool_call_id") if role == "tool" else ""
    if text_only and not isinstance(call_id, str):
        raise BadLine(
            "tools",
            msg("Message {number} is a tool's result without 'tool_call_id'.", number=f"{number:,}"),
            f"{path}.tool_call_id",
        )
    return ChatMessage(role, text or "", is_missing(weight) or bool(weight), calls, str(call_id or ""))


def _tool_calls(number: int, raw: Mapping[str, Any], role: str) -> tuple[ToolCall, ...]:
    if not is_missing(raw.get("function_call")):
        message = msg("Message {number} has a 'function_call'; write it as 'tool_calls'.", number=f"{number:,}")
        raise BadLine("tools", message, f"messages[{number - 1}].function_call")
    if is_missing(raw.get("tool_calls")):
        return ()
    path = f"messages[{number - 1}].tool_calls"
    if role != "assistant":
        message = msg("Message {number} has 'tool_calls'; only answers can have them.", number=f"{number:,}")
        raise BadLine("tools", message, path)
    try:
        calls = tool_calls.parse_calls(number, raw)
    except BadTools as exc:
        raise BadLine("tools", exc.sentence, path) from exc
    for call in calls:
        check_encodable(call.id + call.arguments)
    return calls


def without_control_tokens(text: str, control: tuple[str, ...]) -> str:
    """Remove control tokens, so that user text cannot inject a turn, and surrounding white space."""
    for _ in range(_MAX_PASSES):  # repeat, because removing one may join the halves of another
        if not any(token in text for token in control):
            return text.strip()
        for token in control:
            text = text.replace(token, "")
    # tokens are nested so deeply that removing one after another could take hours: remove what each begins with
    return text.translate(dict.fromkeys(ord(token[0]) for token in control)).strip()


def with_system_text(messages: Sequence[ChatMessage], text: str) -> list[ChatMessage]:
    """The messages with a text at the end of their system text."""
    if messages and messages[0].role in ("system", "developer"):
        return [replace(messages[0], text=f"{messages[0].text}\n\n{text}".strip()), *messages[1:]]
    return [ChatMessage("system", text, trained=False), *messages]


def is_blank(text: str) -> bool:
    """Whether a text has nothing but control tokens and invisible characters."""
    return not without_control_tokens(text, GEMMA_CONTROL_TOKENS + CHATML_CONTROL_TOKENS).strip(_INVISIBLE + " \t\r\n")


def has_calls(raw: Mapping[str, Any]) -> bool:
    """Whether a message, as JSON, has calls of tools."""
    return not is_missing(raw.get("tool_calls")) or not is_missing(raw.get("function_call"))


def check_encodable(text: str) -> None:
    """Raise BadLine for a text with a lone surrogate, which is not text."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadLine("not_json", msg("It contains an invalid character (a lone surrogate).")) from exc


def _text(content: object, text_only: bool) -> str | None:
    """The text of a message's content, which is a string or a list of parts; None if it is invalid."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
        return None
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts) or (text_only and len(texts) < len(content)):
        return None
    return "".join(texts)


def _invalid_part(content: object) -> str:
    """Index of the first part of a content that is not text, as in `[1]`; "" if the content is not a list."""
    if not isinstance(content, list):
        return ""
    is_text = [isinstance(part, dict) and part.get("type") == "text" for part in content]
    return f"[{is_text.index(False)}]" if False in is_text else ""
