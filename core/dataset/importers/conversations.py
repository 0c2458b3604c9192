"""Conversations under any name: lists of turns, in a cell as JSON (or as Python prints it), as one example. Pure.

Formats: OpenAI's `messages` (`role`, `content`), ShareGPT (`from`, `value`), Vertex (`parts`), pairs such as
`{"human", "assistant"}` (MOSS, Firefly) or `{"input", "output"}` (XTuner), lists of texts that alternate (UltraChat),
lists of pairs (`history` of LLaMA-Factory), and preference lists (TRL, OpenAI's DPO).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from core.dataset.importers.json_objects import BrokenJson
from core.message import msg

Role = Literal["system", "user", "assistant", "tool"]
# Names of columns that hold conversations, the likeliest first.
NAMES = (
    *("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat", "contents"),
    *("对话", "会话", "多轮对话"),
)
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer", "系统"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer", "question", "用户", "人类", "问"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "agent", "bing", "bard", "claude", "answer"),
        "assistant",
    ),
    **dict.fromkeys(("function_call", "tool_call", "助手", "机器人", "客服", "答"), "assistant"),
    **dict.fromkeys(
        ("tool", "function", "observation", "function_response", "tool_response", "tool_result", "ipython"), "tool"
    ),
}
_ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
_TEXT_KEYS = ("content", "value", "text", "message", "utterance", "parts")
_PAIRS = (
    *(("human", "assistant"), ("user", "assistant"), ("human", "gpt"), ("user", "bot"), ("input", "output")),
    *(("instruction", "output"), ("question", "answer"), ("query", "response"), ("prompt", "response"), ("q", "a")),
    *(("问", "答"), ("问题", "回答"), ("用户", "助手")),
)
_CALLS = ("tool_calls", "function_call")
_LONGEST_ROLE = 40  # characters of an unknown role in a sentence
# Parts of a content that are no text: OpenAI and Anthropic name their type, Gemini and Bedrock have a key for each.
_MEDIA = re.compile(
    r"(input_)?(image|audio|video|document|file|pdf)(_url|_file)?|inline_?data|file_?data", re.IGNORECASE
)
_BETWEEN_ITEMS = re.compile(r"\}\s*\n\s*\{")  # numpy prints lists without commas


class Turn(NamedTuple):
    """One message. `trained` is OpenAI's `weight`: an answer with weight 0 is context, not text to learn."""

    role: Role
    text: str
    trained: bool = True


def role_of(name: str) -> Role | None:
    """The role that a speaker's name stands for; None: the name does not say."""
    return _ROLES.get(name.strip().lower())


def decoded(cell: str) -> object:
    """The list or object that a cell holds, as JSON or as Python or numpy print it; None: it holds something else."""
    text = cell.strip()
    if text[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    for attempt in (text, _BETWEEN_ITEMS.sub("}, {", text)):
        try:
            return ast.literal_eval(attempt)  # constants only: nothing is run
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def is_conversation(value: object, name: str = "") -> bool:
    """Whether a value is a list of turns; under a name that says so, also a list that is not a good one."""
    value = _listed(value)
    if not isinstance(value, list):
        return False
    if name.strip().lower() in NAMES:
        return True
    if not value or not isinstance(value[0], Mapping):
        return name.strip().lower() == "history" and all(_is_pair(one) for one in value)
    return _keys(value[0]) is not None and _role(value[0]) in _ROLES


def is_answered(value: object) -> bool:
    """Whether a conversation ends with an answer."""
    try:
        return turns(value)[-1].role == "assistant"
    except BrokenJson:
        return False


def form_of(value: object) -> Literal["messages", "sharegpt", "turns"]:
    """What people call the format of a list of turns."""
    value = _listed(value)
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, Mapping) and "role" in first and "content" in first:
        return "messages"
    return "sharegpt" if isinstance(first, Mapping) and "from" in first and "value" in first else "turns"


def turns(value: object, what: str = "messages") -> list[Turn]:
    """The turns of a conversation.

    Args:
        value: what `decoded` gave.
        what: its column, for sentences.

    Raises:
        BrokenJson: it is none, or a turn has no known role or no text.
    """
    value = _listed(value)
    if not isinstance(value, list) or not value:
        raise BrokenJson(msg('Its "{what}" is not a list with messages in it.', what=what))
    if len(value) > 1 and all(isinstance(one, str) for one in value):
        return [Turn("assistant" if place % 2 else "user", one) for place, one in enumerate(value)]
    if all(_is_pair(one) for one in value):
        return [turn for asked, said in value for turn in (Turn("user", asked), Turn("assistant", said))]
    found = []
    for number, one in enumerate(value, 1):
        if not isinstance(one, Mapping):
            raise BrokenJson(msg("Message {number} is not an object in braces.", number=f"{number:,}"))
        pair = None if any(key in one for key in _ROLE_KEYS) else _pair_of(one)
        found += [_turn(number, one)] if pair is None else _both(number, one, pair)
    return found


def example(found: list[Turn], system: str = "") -> dict[str, str]:
    """One example: the last answer is its completion, all before it its prompt; `system` stands for itself.

    Answers at the end that have weight 0 are left out, with what was asked before them.

    Raises:
        BrokenJson: the last turn is no answer, there is none to learn, or nothing stands before it.
    """
    if found[-1].role == "assistant" and not found[-1].trained:
        learned = [place for place, turn in enumerate(found) if turn.role == "assistant" and turn.trained]
        if not learned:
            raise BrokenJson(msg("All its answers have weight 0: there is nothing to learn."))
        found = found[: learned[-1] + 1]
    if found[-1].role != "assistant":
        raise BrokenJson(msg("Its last message is the {role}'s, not the assistant's.", role=found[-1].role))
    if not found[-1].text.strip():
        raise BrokenJson(msg("Its completion is empty."))
    said = [turn.text for turn in found if turn.role == "system" and turn.text.strip()]
    before = [turn for turn in found[:-1] if turn.role != "system"]
    if not any(turn.role == "user" for turn in before):
        raise BrokenJson(msg("There is no message of the user."))
    return {"system": "\n\n".join(said) or system, "prompt": transcript(before), "completion": found[-1].text}


def system_text(cell: str) -> str:
    """A system text that stands beside the turns: a text, or a content in parts (Gemini, Bedrock)."""
    value = decoded(cell)
    return cell if value is None else _text(value) or ""


def transcript(found: list[Turn]) -> str:
    """Turns as one text; a single turn of the user is its text."""
    if len(found) == 1 and found[0].role == "user":
        return found[0].text
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in found)


def _listed(value: object) -> object:
    """The list of turns in what holds one: `{"messages": [...]}`, or a turn that stands alone."""
    if not isinstance(value, Mapping):
        return value
    return value["messages"] if "messages" in value else [value] if _keys(value) is not None else None


def _turn(number: int, message: Mapping[str, Any]) -> Turn:
    keys = _keys(message)
    if keys is None and not any(key in message for key in _ROLE_KEYS):
        raise BrokenJson(msg("Message {number} has no role.", number=f"{number:,}"))
    named = _role(message)
    if (role := _ROLES.get(named)) is None:
        told = str(next(message[key] for key in _ROLE_KEYS if key in message))
        raise BrokenJson(
            msg(
                "Message {number} has a role that is not valid: {told}.",
                number=f"{number:,}",
                told=repr(told[:_LONGEST_ROLE]),
            )
        )
    if keys is not None and _has_media(message.get(keys[1])):
        raise BrokenJson(msg("Message {number} has an image or another part that is not text.", number=f"{number:,}"))
    text = None if keys is None else _text(message.get(keys[1]))
    calls = next((message[key] for key in _CALLS if message.get(key)), None)
    if text is None and calls is None:
        raise BrokenJson(msg("Message {number} has no text as content.", number=f"{number:,}"))
    weight = message.get("weight")
    trained = role != "assistant" or weight is None or weight != 0
    return Turn(role, (text or "") + (json.dumps(calls, ensure_ascii=False) if calls is not None else ""), trained)


def _both(number: int, message: Mapping[str, Any], pair: tuple[str, str]) -> list[Turn]:
    """The two turns of `{"human": …, "assistant": …}`, perhaps with a system text in front."""
    found = [Turn("system", str(message["system"]))] if message.get("system") else []
    for role, key in (("user", pair[0]), ("assistant", pair[1])):
        if not isinstance(message[key], str):
            raise BrokenJson(msg("Message {number} has no text as content.", number=f"{number:,}"))
        found.append(Turn("user" if role == "user" else "assistant", message[key]))
    return found


def _keys(message: Mapping[str, Any]) -> tuple[str, str] | None:
    role = next((key for key in _ROLE_KEYS if key in message), None)
    text = next((key for key in _TEXT_KEYS if key in message), None)
    return None if role is None or text is None else (role, text)


def _role(message: Mapping[str, Any]) -> str:
    named = next((message[key] for key in _ROLE_KEYS if key in message), "")
    if isinstance(named, Mapping):  # ChatGPT's own export: {"author": {"role": "user"}}
        named = named.get("role", "")
    return str(named).strip().lower()


def _pair_of(message: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in message and pair[1] in message), None)


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, str) for one in value)


def _has_media(content: object) -> bool:
    """Whether a content has a part that is no text, such as an image; the text alone may ask about it."""
    parts = content.get("parts", [content]) if isinstance(content, Mapping) else content
    if not isinstance(parts, list):
        return False
    mappings = [part for part in parts if isinstance(part, Mapping)]
    return any(
        _MEDIA.fullmatch(str(part.get("type", ""))) or any(_MEDIA.fullmatch(str(key)) and part[key] for key in part)
        for part in mappings
    )


def _text(content: object) -> str | None:
    """A content as text: as it is, or the text of its parts; None: there is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = content.get("parts", [content])
    if not isinstance(content, list):
        return None
    parts = [one if isinstance(one, str) else one.get("text") for one in content if isinstance(one, str | Mapping)]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts else None
