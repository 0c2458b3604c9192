"""Parses and checks training files, for both the engine and the studio's form. Pure, without dependencies.

The rules are OpenAI's (guides "Supervised fine-tuning" and "Direct preference optimization", and the cookbook's "Data
preparation and analysis for chat model fine-tuning"), which Azure and Together share. Keys with a null or empty value
count as missing, because tables exported as JSON lines contain such keys on every line. `check_file` validates a whole
file with bounded memory before a job is created.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from core.engine import tool_calls
from core.engine.chat_messages import (
    MAX_NAME_CHARS,
    BadLine,
    ChatMessage,
    check_encodable,
    has_calls,
    is_blank,
    is_missing,
    parse_message,
)
from core.engine.tool_calls import BadTools, Tool
from core.message import msg, sentences

Format = Literal["chat", "completion", "preference", "text_preference"]
PREFERENCES: tuple[Format, ...] = ("preference", "text_preference")
"""Formats with two answers to each prompt, for DPO."""
TEXTS: tuple[Format, ...] = ("completion", "text_preference")
"""Formats of models that continue a text; the others are conversations."""

MAX_LINE_BYTES = 1 << 20  # far above any context length; bounds memory if a file has no line breaks
_BOM = b"\xef\xbb\xbf"
_PAIR_KEYS = frozenset({"prompt", "completion"})
_TOOL_KEYS = frozenset({"tools", "functions"})
_CHAT_KEYS = _TOOL_KEYS | {"messages", "parallel_tool_calls"}
_PREFERENCE_KEYS = frozenset({"input", "preferred_output", "non_preferred_output"})
_TEXT_PREFERENCE_KEYS = frozenset({"prompt", "chosen", "rejected"})
_MAX_LISTED = 10  # maximum number of broken lines listed in one message


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A line of the form `{"prompt": …, "completion": …}`."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A line of the form `{"messages": […], "tools": […]}`."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """A line of the form `{"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}`: one
    conversation with two answers. Only the answers are trained, not those in the conversation before.

    For models that continue a text, TRL's form `{"prompt": …, "chosen": …, "rejected": …}`, which OpenAI does not have.
    """

    preferred: Conversation | PromptCompletion
    rejected: Conversation | PromptCompletion


Example: TypeAlias = PromptCompletion | Conversation | Preference


@dataclass(frozen=True, slots=True)
class TrainingLine:
    """A non-blank line: its number (from 1), its bytes, and either its example or what is wrong with it."""

    number: int
    raw: bytes
    parsed: Example | BadLine


def parse_lines(numbered: Iterable[tuple[int, bytes]], *, text_only: bool = True) -> Iterator[TrainingLine]:
    """Parse all lines of a file except blank ones.

    All lines must have the same format as the first valid line.

    Args:
        numbered: (number, bytes) pairs as returned by `lines`.
        text_only: see `parse`.
    """
    file_format: Format | None = None
    for number, raw in numbered:
        if not raw.strip():
            continue
        try:
            example = parse_line(raw, text_only=text_only)
            file_format = file_format or format_of(example)
            if format_of(example) != file_format:
                raise BadLine(
                    "mixed",
                    msg(
                        "It is in the {file_format} format; the lines before it are not.",
                        file_format=format_of(example),
                    ),
                )
        except BadLine as exc:
            yield TrainingLine(number, raw, exc)
        else:
            yield TrainingLine(number, raw, example)


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, bytes) for each line; overlong lines are truncated."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        line = raw.removeprefix(_BOM) if number == 1 else raw
        while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raw = file.readline(MAX_LINE_BYTES + 1)
        yield number, line


def parse_line(raw: bytes, *, text_only: bool = True) -> Example:
    """Parse one line.

    Args:
        raw: the bytes of the line.
        text_only: whether to accept only text and tools, with the engine's checks; OpenAI and Azure also accept images.

    Raises:
        BadLine: the line is invalid.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine("too_long_line", msg("It is larger than {max_mib} MiB.", max_mib=MAX_LINE_BYTES >> 20))
    record = _record(raw)
    present = {name: value for name, value in record.items() if not is_missing(value)}
    if "messages" in present:
        return _conversation(present, text_only)
    if {"chosen", "rejected"} & present.keys():
        return _text_preference(record, present)
    if _PAIR_KEYS & present.keys():
        return _pair(record, present)
    if _PREFERENCE_KEYS & present.keys():
        return _preference(present, text_only)
    if "messages" in record:
        raise BadLine("shape", msg('Its "{key}" is not a non-empty list of messages.', key="messages"))
    raise BadLine("shape", msg('It has neither "messages" nor "prompt" and "completion".'))


def format_of(example: Example) -> Format:
    """The example's format."""
    if isinstance(example, Preference):
        return "text_preference" if isinstance(example.preferred, PromptCompletion) else "preference"
    return "completion" if isinstance(example, PromptCompletion) else "chat"


def prompt_and_completion(example: Example) -> tuple[str, str]:
    """An example's prompt and completion; for a conversation, all turns except the last, and the last answer; for a
    preference, those of the preferred answer.
    """
    if isinstance(example, Preference):
        return prompt_and_completion(example.preferred)
    if isinstance(example, PromptCompletion):
        return example.prompt, example.completion
    tools = [tool.name + tool.description + tool.parameters for tool in example.tools]
    *context, last = (
        message.text + "".join(call.name + call.arguments for call in message.calls) for message in example.messages
    )
    return "\n".join([*tools, *context]), last


def rejected_completion(example: Example) -> str | None:
    """The rejected answer of a preference; None for other examples."""
    return prompt_and_completion(example.rejected)[1] if isinstance(example, Preference) else None


def _record(raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        if b"\x00" in raw or raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise BadLine("not_utf8", msg("It is not UTF-8 but looks like UTF-16: save the file as UTF-8.")) from exc
        raise BadLine(
            "not_utf8", msg("It is not valid UTF-8: byte {position} is invalid.", position=exc.start + 1)
        ) from exc
    except json.JSONDecodeError as exc:
        raise BadLine(
            "not_json", msg("It is not JSON: {error}, at column {column}.", error=exc.msg, column=f"{exc.colno:,}")
        ) from exc
    except (ValueError, RecursionError) as exc:  # for example a number of 10,000 digits or a million brackets
        raise BadLine("not_json", msg("It is JSON that can't be parsed.")) from exc
    if not isinstance(record, dict):
        raise BadLine("not_object", msg("It is not a JSON object."))
    return record


def _pair(record: Mapping[str, Any], present: Mapping[str, Any]) -> PromptCompletion:
    _reject_unknown_keys(present, _PAIR_KEYS)
    prompt, completion = (_text(record, name) for name in ("prompt", "completion"))
    if is_blank(completion):
        raise BadLine("empty", msg("Its completion is empty."))
    return PromptCompletion(prompt, completion)


def _text(record: Mapping[str, Any], name: str) -> str:
    text = record.get(name)
    if not isinstance(text, str):
        raise BadLine("shape", msg('There is no text under "{name}".', name=name))
    check_encodable(text)
    return text


def _text_preference(record: Mapping[str, Any], present: Mapping[str, Any]) -> Preference:
    _reject_unknown_keys(present, _TEXT_PREFERENCE_KEYS)
    prompt, preferred, rejected = (_text(record, name) for name in ("prompt", "chosen", "rejected"))
    if is_blank(preferred) or is_blank(rejected):
        raise BadLine("empty", msg("One of its two answers is empty."))
    if preferred == rejected:
        raise BadLine("empty", msg("Its two answers are the same: there is nothing to prefer."))
    return Preference(PromptCompletion(prompt, preferred), PromptCompletion(prompt, rejected))


def _conversation(present: Mapping[str, Any], text_only: bool) -> Conversation:
    _reject_unknown_keys(present, _CHAT_KEYS)
    if text_only and "functions" in present:
        raise BadLine("tools", msg("It has 'functions'; write them as 'tools'."))
    raw_messages = present["messages"]
    if not isinstance(raw_messages, list):
        raise BadLine("shape", msg('Its "{key}" is not a non-empty list of messages.', key="messages"))
    messages = [parse_message(number, item, text_only=text_only) for number, item in enumerate(raw_messages, 1)]
    if messages[-1].role != "assistant":
        raise BadLine(
            "no_answer", msg("Its last message is from the {role}, not the assistant.", role=messages[-1].role)
        )
    if not any(item.role == "assistant" and item.trained for item in messages):
        raise BadLine("no_answer", msg("All its answers have weight 0: there is nothing to learn."))
    for number, item in enumerate(messages, 1):
        if item.role == "assistant" and is_blank(item.text) and not has_calls(raw_messages[number - 1]):
            raise BadLine("empty", msg("Message {number}, from the assistant, is empty.", number=f"{number:,}"))
    if all(item.role == "assistant" for item in messages):
        raise BadLine("role", msg("It has no user message."))
    return Conversation(tuple(messages), _tools(present, messages) if text_only else ())


def _preference(present: Mapping[str, Any], text_only: bool) -> Preference:
    _reject_unknown_keys(present, _PREFERENCE_KEYS)
    asked = present.get("input")
    if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list) or not asked["messages"]:
        raise BadLine("shape", msg('Its "{key}" is not a non-empty list of messages.', key="input.messages"))
    if _answers(asked["messages"][-1:]):
        raise BadLine("no_answer", msg("The last message of its input is an answer; it must be from the user."))
    context = {name: value for name, value in asked.items() if not is_missing(value)}
    preferred, rejected = (_answered(context, present, f"{kind}preferred_output", text_only) for kind in ("", "non_"))
    calls = [present[f"{kind}preferred_output"][0].get("tool_calls") or None for kind in ("", "non_")]
    if preferred.messages[-1].text == rejected.messages[-1].text and calls[0] == calls[1]:
        raise BadLine("empty", msg("Its two answers are the same: there is nothing to prefer."))
    return Preference(preferred, rejected)


def _answered(context: Mapping[str, Any], present: Mapping[str, Any], key: str, text_only: bool) -> Conversation:
    """The conversation of a preference with one of its answers, which alone is trained."""
    answer = present.get(key)
    if not isinstance(answer, list) or len(answer) != 1 or not _answers(answer):
        raise BadLine("shape", msg('Its "{key}" is not a list with one message of the assistant.', key=key))
    last = {name: value for name, value in answer[0].items() if name != "weight"}
    whole = _conversation({**context, "messages": [*context["messages"], last]}, text_only)
    untrained = (replace(message, trained=False) for message in whole.messages[:-1])
    return replace(whole, messages=(*untrained, whole.messages[-1]))


def _answers(raw: Sequence[object]) -> bool:
    """Whether all of these messages are the assistant's."""
    return bool(raw) and all(isinstance(one, dict) and one.get("role") == "assistant" for one in raw)


def _tools(present: Mapping[str, Any], messages: Sequence[ChatMessage]) -> tuple[Tool, ...]:
    """The tools of a conversation; each call must be of one of them and have its result."""
    try:
        tools = tool_calls.parse_tools(present.get("tools"))
        tool_calls.check_order(messages, open_end=True)
    except BadTools as exc:
        raise BadLine("tools", exc.sentence) from exc
    check_encodable("".join(tool.description + tool.parameters for tool in tools))
    names = {tool.name for tool in tools}
    if unknown := next((call.name for item in messages for call in item.calls if call.name not in names), None):
        raise BadLine("tools", msg("It calls '{name}', which is not one of its tools.", name=unknown))
    return tools


def _reject_unknown_keys(present: Mapping[str, Any], allowed: frozenset[str]) -> None:
    if unknown := sorted(present.keys() - allowed):
        raise BadLine(
            "shape",
            msg("It has a key that fine-tuning does not accept: {unknown}.", unknown=repr(unknown[0][:MAX_NAME_CHARS])),
        )


class InvalidTrainingFile(ValueError):
    """The training file is invalid; the message lists lines and reasons."""


@dataclass(frozen=True, slots=True)
class TrainingFileSummary:
    """Format and number of examples in a valid file."""

    format: Format
    examples: int


def check_file(path: Path) -> TrainingFileSummary:
    """Validate a whole file.

    Raises:
        InvalidTrainingFile: lines are broken; the message lists the first ten and says how many more there are.
        OSError: the file cannot be read.
    """
    file_format: Format | None = None
    examples, problems = 0, 0
    listed: list[str] = []
    with path.open("rb") as file:
        for line in parse_lines(lines(file)):
            if isinstance(line.parsed, BadLine):
                problems += 1
                if len(listed) < _MAX_LISTED:
                    listed.append(msg("Line {line}: {sentence}", line=line.number, sentence=line.parsed.sentence))
            else:
                file_format = file_format or format_of(line.parsed)
                examples += 1
    if problems > len(listed):
        listed.append(msg("{count} more lines are broken.", count=problems - len(listed)))
    if listed:
        raise InvalidTrainingFile(sentences(*listed))
    if file_format is None:
        raise InvalidTrainingFile(msg("The file contains no examples."))
    return TrainingFileSummary(file_format, examples)


def read_examples(path: Path) -> Iterator[tuple[int, Example]]:
    """Yield (line number, example) for each line of a valid file. Raises BadLine for an invalid line."""
    with path.open("rb") as file:
        for number, raw in lines(file):
            if raw.strip():
                yield number, parse_line(raw)
