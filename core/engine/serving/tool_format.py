"""How a model writes calls of tools, and reads tools and their results: its template's way, or a general one.

A template's way is learned by rendering a call and looking at the text. It can be used if a call is a JSON object with
a name and arguments between two fixed texts, as in most families. Other models get the general way: the tools are
described in the system text, and results are user messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from core.engine.chat_messages import ChatMessage, with_system_text
from core.engine.serving.template_limits import TemplateRefused
from core.engine.tool_calls import Tool, ToolCall

Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Tool], bool], str]
"""Renders messages with tools; the last argument is whether to start an answer. Raises TemplateRefused."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The text of calls.

    Attributes:
        begin, end: text before and after the JSON object of a call.
        between: text between two calls.
        after_text: text between an answer's words and its first call.
        name_key, arguments_key: the object's two keys.
        native: whether the model's template renders tools and results itself.
    """

    begin: str = "<tool_call>\n"
    end: str = "\n</tool_call>"
    between: str = "\n"
    after_text: str = "\n"
    name_key: str = "name"
    arguments_key: str = "arguments"
    native: bool = False

    @property
    def head(self) -> str:
        """Text of a call up to the tool's name."""
        return f'{self.begin}{{"{self.name_key}": "'

    @property
    def marker(self) -> str:
        """Text that tells a call from an answer's words."""
        return self.begin.strip() or self.head

    def text(self, calls: Sequence[ToolCall]) -> str:
        """The text of calls, as the model writes it."""
        return self.between.join(
            f'{self.head}{call.name}", "{self.arguments_key}": {call.arguments}}}{self.end}' for call in calls
        )

    def answer(self, text: str, calls: Sequence[ToolCall]) -> str:
        """The whole text of an answer."""
        return text + (self.after_text if text and calls else "") + self.text(calls)


GENERAL = ToolFormat()
_NAMES = ("fabulatool0q", "fabulatool1q")
_CALLS = tuple(ToolCall(f"call{number}", name, '{"fabulakey": "fabulavalue"}') for number, name in enumerate(_NAMES))
_TOOLS = tuple(Tool(name, "fabuladescription", '{"type": "object", "properties": {}}') for name in _NAMES)
_TEXT, _RESULT = "fabulatext0q", "fabularesult0q"


def plain(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], form: ToolFormat, clean: Callable[[str], str]
) -> list[ChatMessage]:
    """Messages whose calls are part of their text; without a native format, tools and results are too.

    Args:
        clean: removes control tokens and surrounding white space from a text.
    """
    written: list[ChatMessage] = []
    for is_results, group in groupby(messages, lambda item: item.role == "tool" and not form.native):
        if is_results:
            texts = [f"<tool_response>\n{clean(item.text)}\n</tool_response>" for item in group]
            written.append(ChatMessage("user", "\n".join(texts), trained=False))
            continue
        for item in group:
            calls = [replace(call, arguments=clean(call.arguments)) for call in item.calls]
            text = form.answer(clean(item.text), calls)
            written.append(ChatMessage(item.role, text, item.trained, call_id=item.call_id))
    return written if form.native or not tools else with_system_text(written, clean(_description(tools)))


def _description(tools: Sequence[Tool]) -> str:
    listed = "\n".join(json.dumps(tool.as_json()["function"], ensure_ascii=False) for tool in tools)
    example = f'{GENERAL.head}…", "{GENERAL.arguments_key}": {{…}}}}{GENERAL.end}'
    return (
        f"You can call these functions:\n<tools>\n{listed}\n</tools>\n"
        f"To call one, answer with its name and its arguments as JSON:\n{example}"
    )


def learned(render: Render) -> ToolFormat:
    """The format of a template, or the general one if the template has none that can be used."""
    try:
        found = _from_calls(render)
        return found if found is not None and _is_complete(found, render) else GENERAL
    except TemplateRefused:
        return GENERAL


def _from_calls(render: Render) -> ToolFormat | None:
    """Find the fixed texts in one call, in two, and in one after some words."""
    one = _rendered_answer(render, "", _CALLS[:1])
    begin, arguments_key = _before_name(one), _arguments_key(one)
    if begin is None or arguments_key is None:
        return None
    before, name_key = begin
    form = ToolFormat(before, "", "", "", name_key, arguments_key, native=True)
    if not one.startswith(form.text(_CALLS[:1])):
        return None
    two = _rendered_answer(render, "", _CALLS)
    first, second = form.text(_CALLS[:1]), form.text(_CALLS[1:])
    inner, found, end = two.removeprefix(first).partition(second)
    if not two.startswith(first) or not found or not inner.startswith(end):
        return None
    form = replace(form, end=end, between=inner.removeprefix(end))
    after, found, _ = _rendered_answer(render, _TEXT, _CALLS[:1]).removeprefix(_TEXT).partition(form.text(_CALLS[:1]))
    return replace(form, after_text=after) if found else None


def _rendered_answer(render: Render, text: str, calls: Sequence[ToolCall]) -> str:
    """The text that a template writes for an answer with calls, without what begins and ends a turn."""
    user = {"role": "user", "content": "a"}
    given = [{"id": one.id, "type": "function", "function": _function(one)} for one in calls]
    marked: list[Mapping[str, Any]] = [user, {"role": "assistant", "content": _TEXT}]
    start, _, end = render(marked, _TOOLS, False).rpartition(_TEXT)
    whole = render([user, {"role": "assistant", "content": text, "tool_calls": given}], _TOOLS, False)
    if not whole.startswith(start) or not whole.endswith(end):
        raise TemplateRefused("calls are written in another place than answers")
    return whole[len(start) : len(whole) - len(end)]


def _function(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": json.loads(call.arguments)}


def _before_name(text: str) -> tuple[str, str] | None:
    """The text before the JSON object of the first call, and the key of the name."""
    before, found, _ = text.partition(f'": "{_NAMES[0]}"')
    start, brace, key = before.rpartition('{"')
    return (start, key) if found and brace and key.isidentifier() else None


def _arguments_key(text: str) -> str | None:
    before, found, _ = text.partition(f'": {_CALLS[0].arguments}')
    key = before.rpartition(', "')[2]
    return key if found and key.isidentifier() else None


def _is_complete(form: ToolFormat, render: Render) -> bool:
    """Whether the template renders tools and results, also after calls that are written as text."""
    called = {"role": "assistant", "content": form.text(_CALLS[:1])}
    result = {"role": "tool", "content": _RESULT, "tool_call_id": _CALLS[0].id, "name": _NAMES[0]}
    text = render([{"role": "user", "content": "a"}, called, result], _TOOLS, True)
    return _RESULT in text and "fabuladescription" in text
