"""Renders conversations with a model's chat template, the same way for training files and chat requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.engine.finetune_format import (
    CHATML_CONTROL_TOKENS,
    GEMMA_CONTROL_TOKENS,
    BadLine,
    ChatMessage,
    parse_message,
    without_control_tokens,
)
from core.message import msg

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Template:
    """The chat template of a model family.

    Attributes:
        start, end: text before and after one turn; `start` contains `{role}`.
        names: the family's name of each role. Without a system role, system text is put before the user's.
        control: control tokens. They are removed from messages, so that user text cannot inject a turn.
    """

    start: str
    end: str
    names: dict[str, str]
    control: tuple[str, ...]

    @property
    def stop(self) -> str:
        """The text that ends the model's turn."""
        return self.end.strip()


_GEMMA = Template(
    "<start_of_turn>{role}\n",
    "<end_of_turn>\n",
    {"user": "user", "assistant": "model"},
    GEMMA_CONTROL_TOKENS,
)
_CHATML = Template(
    "<|im_start|>{role}\n",
    "<|im_end|>\n",
    {"system": "system", "user": "user", "assistant": "assistant"},
    CHATML_CONTROL_TOKENS,
)
_TEMPLATES = {"gemma": _GEMMA, "gemma2": _GEMMA, "gemma3": _GEMMA, "qwen2": _CHATML, "qwen3": _CHATML}


def template_for(architecture: str) -> Template | None:
    """The template for an architecture (`general.architecture` of the GGUF); None if there is none."""
    return _TEMPLATES.get(architecture)


def prompt(messages: Sequence[ChatMessage], template: Template) -> str:
    """The prompt text, up to the start of the model's turn."""
    text = "".join(text for text, _ in segments(messages, template))
    return text + template.start.format(role=template.names["assistant"])


def segments(messages: Sequence[ChatMessage], template: Template) -> tuple[tuple[str, bool], ...]:
    """(text, trained) pairs of a conversation: the model is trained on the assistant messages and their end tokens."""
    pairs: list[tuple[str, bool]] = []
    for role, text, trained in _turns(messages, template):
        start = template.start.format(role=template.names[role])
        if role == "assistant" and trained:
            pairs += [(start, False), (text + template.end, True)]
        else:
            pairs.append((start + text + template.end, False))
    return _merge_untrained(pairs)


def _turns(messages: Sequence[ChatMessage], template: Template) -> list[tuple[Role, str, bool]]:
    """Turns in the template's roles. Without a system role, system text starts the next user turn."""
    turns: list[tuple[Role, str, bool]] = []
    pending_system = ""
    for item in messages:
        role, text = _ROLES[item.role], without_control_tokens(item.text, template.control)
        if role == "system" and "system" not in template.names:
            pending_system += text + "\n\n"
            continue
        if pending_system and role != "user":
            turns.append(("user", pending_system.strip(), False))
            pending_system = ""
        turns.append((role, pending_system + text, item.trained))
        pending_system = ""
    return [*turns, ("user", pending_system.strip(), False)] if pending_system else turns


def _merge_untrained(pairs: Sequence[tuple[str, bool]]) -> tuple[tuple[str, bool], ...]:
    """Merge adjacent untrained segments, so that they are tokenised like a prompt."""
    merged: list[tuple[str, bool]] = []
    for text, trained in pairs:
        if merged and not trained and not merged[-1][1]:
            merged[-1] = (merged[-1][0] + text, False)
        else:
            merged.append((text, trained))
    return tuple(merged)


def parse(raw: object) -> tuple[ChatMessage, ...]:
    """Parse the messages of a request, with the same rules as in training files.

    Raises:
        BadLine: a message is invalid; the sentence names its number (from 1) and the fault.
    """
    if not isinstance(raw, list) or not raw:
        raise BadLine("shape", msg("It is not a non-empty list of messages."))
    return tuple(parse_message(number, item) for number, item in enumerate(raw, start=1))
