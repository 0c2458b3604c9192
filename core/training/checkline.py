"""One line of a training file: what a provider would say to it, before it is sent anywhere. Pure.

The rules are OpenAI's (guide "Supervised fine-tuning", and the cookbook's "Data preparation and analysis for chat model
fine-tuning"), which Azure, Together and the engine share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FileFormat = Literal["completion", "chat"]
LONGEST_LINE = 10 << 20  # bytes, far above any context; what keeps memory bounded when a file has no line breaks
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_PAIR_KEYS = frozenset({"prompt", "completion"})
_LONGEST_NAME = 40  # characters of a foreign key or role in a message


class BadLine(ValueError):
    """A line that cannot be used. `kind` groups its kind of fault; the message is a sentence for people."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Example:
    """A line in good form.

    Attributes:
        prompt: the text in front of what is learned; of a conversation, all turns but the last.
        completion: what is learned; of a conversation, its last answer.
        turns: how many messages; 0 for a pair.
    """

    file_format: FileFormat
    prompt: str
    completion: str
    turns: int = 0


def read(raw: bytes) -> Example:
    """One line as an example.

    Raises:
        BadLine: what is wrong with it.
    """
    if len(raw) > LONGEST_LINE:
        raise BadLine("too_long_line", f"It has more than {LONGEST_LINE >> 20} MiB.")
    found = _object(raw)
    if "messages" in found:
        return _conversation(found)
    if _PAIR_KEYS & found.keys():
        return _pair(found)
    raise BadLine("shape", 'It has neither "messages" nor "prompt" and "completion".')


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        if b"\x00" in raw or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise BadLine("not_utf8", "It is not UTF-8 but looks like UTF-16: save the file as UTF-8.") from exc
        raise BadLine("not_utf8", f"It is not UTF-8: byte {exc.start + 1} fits no character.") from exc
    except json.JSONDecodeError as exc:
        raise BadLine("not_json", f"It is not JSON: {exc.msg}, at column {exc.colno:,}.") from exc
    except (ValueError, RecursionError) as exc:  # a number of 10,000 digits, a million brackets
        raise BadLine("not_json", "It is JSON that cannot be read.") from exc
    if not isinstance(found, dict):
        raise BadLine("not_object", "It is not an object in braces.")
    return found


def _pair(found: Mapping[str, Any]) -> Example:
    _only(found, _PAIR_KEYS)
    for name in ("prompt", "completion"):
        if not isinstance(found.get(name), str):
            raise BadLine("shape", f'There is no text under "{name}".')
        _whole(found[name])
    if not found["completion"].strip():
        raise BadLine("empty", "Its completion is empty.")
    return Example("completion", found["prompt"], found["completion"])


def _conversation(found: Mapping[str, Any]) -> Example:
    _only(found, _CHAT_KEYS)
    messages = found["messages"]
    if not isinstance(messages, list) or not messages:
        raise BadLine("shape", 'Its "messages" is not a list with messages in it.')
    texts = [_message(number, message) for number, message in enumerate(messages, 1)]
    last = messages[-1]
    if last["role"] != "assistant":
        raise BadLine("no_answer", f"Its last message is the {last['role']}'s, not the assistant's.")
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not any(messages[number].get("weight", 1) for number in answers):
        raise BadLine("no_answer", "All its answers have weight 0: there is nothing to learn.")
    for number in answers:
        if not texts[number].strip() and not _calls(messages[number]):
            raise BadLine("empty", f"Message {number + 1:,}, the assistant's, is empty.")
    if not any(message["role"] == "user" for message in messages):
        raise BadLine("role", "There is no message of the user.")
    return Example("chat", "\n".join(texts[:-1]), texts[-1], len(messages))


def _message(number: int, message: object) -> str:
    """Its text.

    Raises:
        BadLine: it is no message.
    """
    if not isinstance(message, dict):
        raise BadLine("shape", f"Message {number:,} is not an object in braces.")
    if "role" not in message:
        raise BadLine("role", f"Message {number:,} has no role.")
    role = message["role"]
    if role not in _ROLES:
        raise BadLine("role", f"Message {number:,} has a role that is none: {str(role)[:_LONGEST_NAME]!r}.")
    if message.get("weight", 1) not in (0, 1) or ("weight" in message and role != "assistant"):
        raise BadLine("shape", f"Message {number:,} has a weight; only answers have one, 0 or 1.")
    text = _text(message.get("content"))
    if text is None and not _calls(message):
        raise BadLine("shape", f"Message {number:,} has no text as content.")
    _whole(text or "")
    return text or ""


def _text(content: object) -> str | None:
    """The text of a content, given as text or as a list of parts; None: there is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    return None


def _calls(message: Mapping[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _only(found: Mapping[str, Any], allowed: frozenset[str]) -> None:
    if unknown := sorted(found.keys() - allowed):
        raise BadLine("shape", f"It has a key that fine-tuning does not take: {unknown[0][:_LONGEST_NAME]!r}.")


def _whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadLine("not_json", "It has half of a character (a lone surrogate).") from exc
