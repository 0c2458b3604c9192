"""Renders conversations in the format that a model expects, identically for training files and chat requests.

A model with its own chat template uses it, with the template's default system text. For models without one, this module
has formats for two families.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, Protocol

from core.engine.chat_messages import (
    CHATML_CONTROL_TOKENS,
    GEMMA_CONTROL_TOKENS,
    BadLine,
    ChatMessage,
    parse_message,
    without_control_tokens,
)
from core.engine.formats.gguf_file import ModelCard
from core.engine.serving import chat_template, tool_format
from core.engine.serving.template_limits import TemplateRefused
from core.engine.serving.tool_format import ToolFormat
from core.engine.tool_calls import BadTools, Tool, check_order
from core.message import msg

Role = Literal["system", "user", "assistant", "tool"]
Segments = tuple[tuple[str, bool], ...]
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_MARK = "fabulaanswer{number}q"  # placeholder for an answer while a template is rendered; templates do not change it


class ChatFormat(Protocol):
    """The format of a model's conversations."""

    @property
    def stop(self) -> str:
        """Text that ends the model's turn."""

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes calls of tools."""

    def prompt(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        """The prompt text, up to the start of the model's turn, without a BOS token that the tokenizer adds.

        Raises:
            BadLine: the model's template refuses the conversation.
        """

    def segments(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> Segments:
        """(text, trained) pairs of a conversation: the model is trained on answers and the tokens that end them.

        Raises:
            BadLine: the model's template refuses the conversation.
        """


@lru_cache(maxsize=64)
def format_for(card: ModelCard) -> ChatFormat | None:
    """Return a model's chat format: its own, or that of its architecture; None if there is none."""
    return OwnTemplate(card) if card.chat_template else _FAMILIES.get(card.architecture)


def parse(raw: object) -> tuple[ChatMessage, ...]:
    """Parse the messages of a request, with the same rules as in training files. Each call of a tool needs its result.

    Raises:
        BadLine: a message is invalid; the sentence names its number (from 1) and the fault.
    """
    if not isinstance(raw, list) or not raw:
        raise BadLine("shape", msg("It is not a non-empty list of messages."), "messages")
    messages = tuple(parse_message(number, item) for number, item in enumerate(raw, start=1))
    try:
        check_order(messages, open_end=False)
    except BadTools as exc:
        raise BadLine("tools", exc.sentence, "messages") from exc
    return messages


@dataclass(frozen=True, slots=True)
class Turns:
    """The chat format of a family, for models without a template of their own.

    Attributes:
        start, end: text before and after one turn; `start` contains `{role}`.
        names: the family's name of each role. If the family has no system role, system text is put before the user's
            text.
        control: control tokens. They are removed from messages, so that user text cannot inject a turn.
    """

    start: str
    end: str
    names: dict[str, str]
    control: tuple[str, ...]

    @property
    def stop(self) -> str:
        """See `ChatFormat`."""
        return self.end.strip()

    @property
    def tool_format(self) -> ToolFormat:
        """See `ChatFormat`."""
        return tool_format.GENERAL

    def prompt(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        """See `ChatFormat`."""
        text = "".join(text for text, _ in self.segments(messages, tools))
        return text + self.start.format(role=self.names["assistant"])

    def segments(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> Segments:
        """See `ChatFormat`."""
        pairs: list[tuple[str, bool]] = []
        for item in self._turns(messages, tools):
            start = self.start.format(role=self.names[item.role])
            if item.role == "assistant" and item.trained:
                pairs += [(start, False), (item.text + self.end, True)]
            else:
                pairs.append((start + item.text + self.end, False))
        return _merge_untrained(pairs)

    def _turns(self, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[ChatMessage]:
        written = tool_format.plain(
            messages, tools, self.tool_format, lambda text: without_control_tokens(text, self.control)
        )
        cleaned = [replace(item, role=_ROLES[item.role]) for item in written]
        return cleaned if "system" in self.names else _with_system_in_user_turns(cleaned)


class OwnTemplate:
    """A model's own chat template.

    A request's prompt is rendered with `add_generation_prompt` and with thinking disabled. A training text consists of
    the prompt for its last trained answer, the answer, and the text that the template puts after an answer, so the
    answer's context is exactly what a request would send. Earlier answers appear as the template renders them.
    """

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        texts = dict.fromkeys(text for text in (*card.control, card.bos_text, card.eos_text) if text)
        self._tokens = tuple(sorted(texts, key=len, reverse=True))
        self._control = re.compile("|".join(map(re.escape, self._tokens)) or r"(?!)")
        self.tool_format = tool_format.learned(self._render)
        self._lead, self._end = self._start_of_answer(), self._end_of_turn()

    @property
    def stop(self) -> str:
        """See `ChatFormat`."""
        found = self._control.search(self._end)
        return found[0] if found else self._end.strip()

    def prompt(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        """See `ChatFormat`."""
        return self._accepted(self._cleaned(messages, tools), tools)

    def segments(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> Segments:
        """See `ChatFormat`."""
        cleaned = self._cleaned(messages, tools)
        last = max(index for index, item in enumerate(cleaned) if item.role == "assistant" and item.trained)
        marks = {index: _MARK.format(number=index) for index, item in enumerate(cleaned) if item.role == "assistant"}
        marked = [replace(item, text=marks.get(index, item.text)) for index, item in enumerate(cleaned[:last])]
        text = self._accepted(marked, tools)
        pairs: list[tuple[str, bool]] = []
        for index, mark in marks.items():
            before, found, after = text.partition(mark)
            if index >= last or not found:
                continue
            if cleaned[index].trained:
                end = self._end if after.startswith(self._end) else ""
                lead = self._lead if before.endswith(self._lead) else ""
                pairs += [(before.removesuffix(lead), False), (lead + cleaned[index].text + end, True)]
                text = after.removeprefix(end)
            else:
                text = before + cleaned[index].text + after
        answer = self._lead + cleaned[last].text + self._end
        return _merge_untrained([*pairs, (text, False), (answer, True)])

    def _start_of_answer(self) -> str:
        """Text that the template puts between the prompt and an answer, such as a space."""
        mark, user = _MARK.format(number=0), ChatMessage("user", "a")
        try:
            prompt = self._rendered([user], generate=True)
            whole = self._rendered([user, ChatMessage("assistant", mark)], generate=False)
        except TemplateRefused:
            return ""
        return whole.removeprefix(prompt).partition(mark)[0] if whole.startswith(prompt) else ""

    def _end_of_turn(self) -> str:
        """Text that the template puts after an answer, both at the end of a conversation and before the next turn."""
        mark = _MARK.format(number=0)
        turns = [ChatMessage("user", "a"), ChatMessage("assistant", mark)]
        try:
            at_end = self._rendered(turns, generate=False).partition(mark)[2]
            between = self._rendered([*turns, ChatMessage("user", "b")], generate=True).partition(mark)[2]
        except TemplateRefused:
            at_end = between = ""
        common = _common_start(at_end, between)
        found = re.match(rf"(?:\s|{self._control.pattern})*", common)
        return (found[0] if found else "") or self._card.eos_text

    def _accepted(self, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> str:
        """Render the prompt; if the template has no system role, system text is put in the user's turn."""
        try:
            return self._rendered(messages, tools, generate=True)
        except TemplateRefused as exc:
            refusal = exc
        merged = _with_system_in_user_turns(messages)
        if merged != list(messages):
            try:
                return self._rendered(merged, tools, generate=True)
            except TemplateRefused as exc:
                refusal = exc
        raise BadLine(
            "role", msg("The model's chat template does not accept this conversation: {detail}.", detail=refusal)
        ) from refusal

    def _rendered(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = (), *, generate: bool) -> str:
        given = [
            {"role": item.role, "content": item.text} | ({"tool_call_id": item.call_id} if item.role == "tool" else {})
            for item in messages
        ]
        return self._render(given, tools if self.tool_format.native else (), generate)

    def _render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], generate: bool) -> str:
        text = chat_template.render(
            self._card.chat_template,
            messages,
            [tool.as_json() for tool in tools],
            add_generation_prompt=generate,
            enable_thinking=False,
            bos_token=self._card.bos_text,
            eos_token=self._card.eos_text,
        )
        return text if self._card.bos is None else text.removeprefix(self._card.bos_text)

    def _cleaned(self, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[ChatMessage]:
        """Return the messages without control tokens and surrounding white space, using the roles that templates
        support.
        """
        written = tool_format.plain(messages, tools, self.tool_format, self._without_control)
        return [replace(item, role=_ROLES[item.role]) for item in written]

    def _without_control(self, text: str) -> str:
        return without_control_tokens(text, self._tokens)


def _common_start(one: str, other: str) -> str:
    """The longest common prefix of both texts."""
    length = next((index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return one[: min(len(one), len(other)) if length is None else length]


def _with_system_in_user_turns(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Move system text to the start of the next user turn."""
    turns: list[ChatMessage] = []
    pending = ""
    for item in messages:
        if item.role == "system":
            pending += item.text + "\n\n"
            continue
        if pending and item.role != "user":
            turns.append(ChatMessage("user", pending.strip(), trained=False))
            pending = ""
        turns.append(replace(item, text=pending + item.text))
        pending = ""
    return [*turns, ChatMessage("user", pending.strip(), trained=False)] if pending else turns


def _merge_untrained(pairs: Sequence[tuple[str, bool]]) -> Segments:
    """Merge adjacent untrained segments, so that they are tokenised in the same way as a prompt."""
    merged: list[tuple[str, bool]] = []
    for trained, group in groupby(filter(itemgetter(0), pairs), itemgetter(1)):
        texts = [text for text, _ in group]
        merged += [(text, True) for text in texts] if trained else [("".join(texts), False)]
    return tuple(merged)


_GEMMA = Turns(
    "<start_of_turn>{role}\n",
    "<end_of_turn>\n",
    {"user": "user", "assistant": "model"},
    GEMMA_CONTROL_TOKENS,
)
_CHATML = Turns(
    "<|im_start|>{role}\n",
    "<|im_end|>\n",
    {"system": "system", "user": "user", "assistant": "assistant"},
    CHATML_CONTROL_TOKENS,
)
_FAMILIES = {"gemma": _GEMMA, "gemma2": _GEMMA, "gemma3": _GEMMA, "qwen2": _CHATML, "qwen3": _CHATML}
