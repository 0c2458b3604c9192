"""Parses a conversation in any of many formats into one example. Pure.

Supports lists of turns in a cell, as JSON or as Python prints them, and texts with chat template markup between turns.

Formats: OpenAI's `messages` (`role`, `content`), ShareGPT (`from`, `value`), Vertex (`parts`), pairs such as `{"human",
"assistant"}` (MOSS, Firefly) or `{"input", "output"}` (XTuner), lists of alternating texts (UltraChat), lists of pairs
(`history` of LLaMA-Factory), and preference lists (TRL, OpenAI's DPO).

Markup, as used by trainers that read a single `text` column: ChatML (Qwen), Llama 2 and 3, Gemma, Zephyr, Alpaca and
Vicuna, `### Human:` (Guanaco), and the `chosen` and `rejected` of HH-RLHF.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from core.datasets.importers.json_objects import BrokenJson
from core.message import msg

Role = Literal["system", "user", "assistant", "tool"]
# Names of conversation columns, most likely first.
COLUMN_NAMES = (
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
_CALL_KEYS = ("tool_calls", "function_call")
_MAX_ROLE = 40  # maximum characters of an unknown role in a message
# Non-text content parts: OpenAI and Anthropic have a type, Gemini and Bedrock a key for each.
_MEDIA_TYPE = re.compile(
    r"(input_)?(image|audio|video|document|file|pdf)(_url|_file)?|inline_?data|file_?data", re.IGNORECASE
)
_MISSING_COMMA = re.compile(r"\}\s*\n\s*\{")  # numpy prints lists without commas

_START = r"(?:<s>|<bos>|<\|begin_of_text\|>|\s)*"
_MARKUP_ROLES = {
    **dict.fromkeys(("human", "user", "instruction", "input", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "response", "output", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "ipython"), "tool"),
}
# Turn markers of each template, with the speaker's name as a group; the most specific first.
_TURN_MARKERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"<\|im_start\|>(system|user|assistant|tool)\n",
        r"<\|start_header_id\|>(system|user|assistant|ipython)<\|end_header_id\|>\n\n",
        r"<start_of_turn>(system|developer|user|model)\n",
        r"<\|(system|user|assistant|observation)\|>\s*",
        r"###\s*(System|Human|User|Assistant|Instruction|Input|Response|Output)\s*:\s*",
        r"(?:^|\n\n)(Human|Assistant): ",
        r"(?:^|\s|</s>)(SYSTEM|USER|ASSISTANT): ",
    )
)
_TURN_END = re.compile(r"(?:\s|</s>|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<\|endoftext\|>|<eos>)*$")
_LLAMA2 = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=(?:</s>|<s>|\s)*\[INST\]|$)", re.DOTALL)
_LLAMA2_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)
_MAX_PREAMBLE = 400  # characters; Alpaca and Vicuna put an introduction before the first turn


class Turn(NamedTuple):
    """One message. `trained`: False for an answer with OpenAI's `weight` 0, which is context only."""

    role: Role
    text: str
    trained: bool = True


def role_of(name: str) -> Role | None:
    """The role that a speaker's name indicates; None if unknown."""
    return _ROLES.get(name.strip().lower())


def parse_json(cell: str) -> object:
    """The list or object in a cell, as JSON or as Python or numpy prints it; None if it is something else."""
    text = cell.strip()
    if text[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    for attempt in (text, _MISSING_COMMA.sub("}, {", text)):
        try:
            return ast.literal_eval(attempt)  # literals only: no code is executed
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def is_conversation(value: object, name: str = "") -> bool:
    """True if a value is a list of turns; with a conversation column name, also if the list is invalid."""
    value = _as_list(value)
    if not isinstance(value, list):
        return False
    if name.strip().lower() in COLUMN_NAMES:
        return True
    if not value or not isinstance(value[0], Mapping):
        return name.strip().lower() == "history" and all(_is_pair(item) for item in value)
    return _turn_keys(value[0]) is not None and _role_name(value[0]) in _ROLES


def is_answered(value: object) -> bool:
    """True if a conversation ends with an answer."""
    try:
        return turns(value)[-1].role == "assistant"
    except BrokenJson:
        return False


def format_name(value: object) -> Literal["messages", "sharegpt", "turns"]:
    """The name of the format of a list of turns."""
    value = _as_list(value)
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, Mapping) and "role" in first and "content" in first:
        return "messages"
    return "sharegpt" if isinstance(first, Mapping) and "from" in first and "value" in first else "turns"


def turns(value: object, what: str = "messages") -> list[Turn]:
    """The turns of a conversation.

    Args:
        value: the result of `parse_json`.
        what: name of its column, for error messages.

    Raises:
        BrokenJson: it is not a conversation, or a turn has no known role or no text.
    """
    value = _as_list(value)
    if not isinstance(value, list) or not value:
        raise BrokenJson(msg('Its "{key}" is not a non-empty list of messages.', key=what))
    if len(value) > 1 and all(isinstance(item, str) for item in value):
        return [Turn("assistant" if i % 2 else "user", item) for i, item in enumerate(value)]
    if all(_is_pair(item) for item in value):
        return [turn for question, answer in value for turn in (Turn("user", question), Turn("assistant", answer))]
    result = []
    for position, item in enumerate(value, 1):
        if not isinstance(item, Mapping):
            raise BrokenJson(msg("Message {number} is not a JSON object.", number=f"{position:,}"))
        pair = None if any(key in item for key in _ROLE_KEYS) else _pair_keys(item)
        result += [_turn(position, item)] if pair is None else _pair_turns(position, item, pair)
    return result


def example(messages: list[Turn], system: str = "") -> dict[str, str]:
    """One example: the last answer is the completion, everything before it the prompt; `system` is used if there is no
    system message.

    Final answers with weight 0 are left out, together with the messages before them.

    Raises:
        BrokenJson: the last turn is not an answer, none is trained on, or there is no user message.
    """
    if messages[-1].role == "assistant" and not messages[-1].trained:
        trained_answers = [i for i, turn in enumerate(messages) if turn.role == "assistant" and turn.trained]
        if not trained_answers:
            raise BrokenJson(msg("All its answers have weight 0: there is nothing to learn."))
        messages = messages[: trained_answers[-1] + 1]
    if messages[-1].role != "assistant":
        raise BrokenJson(msg("Its last message is from the {role}, not the assistant.", role=messages[-1].role))
    if not messages[-1].text.strip():
        raise BrokenJson(msg("Its completion is empty."))
    system_texts = [turn.text for turn in messages if turn.role == "system" and turn.text.strip()]
    context = [turn for turn in messages[:-1] if turn.role != "system"]
    if not any(turn.role == "user" for turn in context):
        raise BrokenJson(msg("It has no user message."))
    return {
        "system": "\n\n".join(system_texts) or system,
        "prompt": transcript(context),
        "completion": messages[-1].text,
    }


def system_text(cell: str) -> str:
    """A system message from a separate column: plain text, or content in parts (Gemini, Bedrock)."""
    value = parse_json(cell)
    return cell if value is None else _content_text(value) or ""


def transcript(messages: list[Turn]) -> str:
    """Turns as one text; a single user turn is returned as is."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].text
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in messages)


def _as_list(value: object) -> object:
    """The list of turns in a container: `{"messages": [...]}`, or a single turn."""
    if not isinstance(value, Mapping):
        return value
    return value["messages"] if "messages" in value else [value] if _turn_keys(value) is not None else None


def _turn(number: int, message: Mapping[str, Any]) -> Turn:
    keys = _turn_keys(message)
    if keys is None and not any(key in message for key in _ROLE_KEYS):
        raise BrokenJson(msg("Message {number} has no role.", number=f"{number:,}"))
    role_name = _role_name(message)
    if (role := _ROLES.get(role_name)) is None:
        raw_role = str(next(message[key] for key in _ROLE_KEYS if key in message))
        raise BrokenJson(
            msg(
                "Message {number} has a role that is not valid: {role}.",
                number=f"{number:,}",
                role=repr(raw_role[:_MAX_ROLE]),
            )
        )
    if keys is not None and _has_media(message.get(keys[1])):
        raise BrokenJson(msg("Message {number} has an image or other content that is not text.", number=f"{number:,}"))
    text = None if keys is None else _content_text(message.get(keys[1]))
    calls = next((message[key] for key in _CALL_KEYS if message.get(key)), None)
    if text is None and calls is None:
        raise BrokenJson(msg("Message {number} has no text content.", number=f"{number:,}"))
    weight = message.get("weight")
    trained = role != "assistant" or weight is None or weight != 0
    return Turn(role, (text or "") + (json.dumps(calls, ensure_ascii=False) if calls is not None else ""), trained)


def _pair_turns(number: int, message: Mapping[str, Any], pair: tuple[str, str]) -> list[Turn]:
    """The two turns of `{"human": …, "assistant": …}`, optionally preceded by a system message."""
    result = [Turn("system", str(message["system"]))] if message.get("system") else []
    for role, key in (("user", pair[0]), ("assistant", pair[1])):
        if not isinstance(message[key], str):
            raise BrokenJson(msg("Message {number} has no text content.", number=f"{number:,}"))
        result.append(Turn("user" if role == "user" else "assistant", message[key]))
    return result


def _turn_keys(message: Mapping[str, Any]) -> tuple[str, str] | None:
    role = next((key for key in _ROLE_KEYS if key in message), None)
    text = next((key for key in _TEXT_KEYS if key in message), None)
    return None if role is None or text is None else (role, text)


def _role_name(message: Mapping[str, Any]) -> str:
    name = next((message[key] for key in _ROLE_KEYS if key in message), "")
    if isinstance(name, Mapping):  # ChatGPT's own export: {"author": {"role": "user"}}
        name = name.get("role", "")
    return str(name).strip().lower()


def _pair_keys(message: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in message and pair[1] in message), None)


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _has_media(content: object) -> bool:
    """True if the content has a non-text part, such as an image, which the text may refer to."""
    parts = content.get("parts", [content]) if isinstance(content, Mapping) else content
    if not isinstance(parts, list):
        return False
    mappings = [part for part in parts if isinstance(part, Mapping)]
    return any(
        _MEDIA_TYPE.fullmatch(str(part.get("type", "")))
        or any(_MEDIA_TYPE.fullmatch(str(key)) and part[key] for key in part)
        for part in mappings
    )


def _content_text(content: object) -> str | None:
    """Content as text: the string itself, or the text of its parts; None if it has none."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = content.get("parts", [content])
    if not isinstance(content, list):
        return None
    parts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | Mapping)]
    texts = [text for text in parts if isinstance(text, str)]
    return "".join(texts) if texts else None


def turns_from_markup(text: str) -> list[dict[str, str]] | None:
    """The turns of a marked-up text, each with `speaker` and `text`; None without markup or without a final answer."""
    result = _split_llama2(text)
    if result is None:
        result = next((parts for marker in _TURN_MARKERS if (parts := _split(text, marker)) is not None), None)
    if result is None or result[-1]["speaker"] != "assistant" or not result[-1]["text"]:
        return None
    return result if any(turn["speaker"] == "user" for turn in result) else None


def _split(text: str, marker: re.Pattern[str]) -> list[dict[str, str]] | None:
    """The turns between the markers of one template; consecutive turns of a speaker are joined (Alpaca's input)."""
    matches = list(marker.finditer(text))
    if len(matches) < 2:
        return None
    preamble = re.sub(f"^{_START}", "", text[: matches[0].start()]).strip()
    if len(preamble) > _MAX_PREAMBLE:
        return None
    result: list[dict[str, str]] = [{"speaker": "system", "text": preamble}] if preamble else []
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=True):
        role, content = _MARKUP_ROLES[match[1].lower()], _TURN_END.sub("", text[match.end() : end])
        if result and result[-1]["speaker"] == role:
            result[-1]["text"] = "\n".join(filter(None, (result[-1]["text"], content)))
        else:
            result.append({"speaker": role, "text": content})
    return result


def _split_llama2(text: str) -> list[dict[str, str]] | None:
    if not re.match(rf"{_START}\[INST\]", text):
        return None
    result: list[dict[str, str]] = []
    for question, answer in _LLAMA2.findall(text):
        if not result and (system := _LLAMA2_SYSTEM.match(question)):
            result.append({"speaker": "system", "text": system[1].strip()})
            question = question[system.end() :]
        result += [
            {"speaker": "user", "text": question.strip()},
            {"speaker": "assistant", "text": _TURN_END.sub("", answer).strip()},
        ]
    return result
