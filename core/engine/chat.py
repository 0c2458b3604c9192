"""Conversations as the text that a model reads. Training files and chat requests go through the same function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `trained` is OpenAI's `weight`: whether training learns this answer."""

    role: Role
    text: str
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Template:
    """How a family of models marks the turns.

    Attributes:
        start, end: around one turn; `{role}` in `start`.
        names: what the family calls each role; without a name for the system its text goes in front of the user's.
        control: texts that mark turns. They are taken out of people's own text, so that no one can forge a turn.
    """

    start: str
    end: str
    names: dict[str, str]
    control: tuple[str, ...]

    @property
    def stop(self) -> str:
        """What ends the model's turn."""
        return self.end.strip()


_GEMMA = Template(
    "<start_of_turn>{role}\n",
    "<end_of_turn>\n",
    {"user": "user", "assistant": "model"},
    ("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>"),
)
_CHATML = Template(
    "<|im_start|>{role}\n",
    "<|im_end|>\n",
    {"system": "system", "user": "user", "assistant": "assistant"},
    ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
)
_TEMPLATES = {"gemma": _GEMMA, "gemma2": _GEMMA, "gemma3": _GEMMA, "qwen2": _CHATML, "qwen3": _CHATML}


def template_for(architecture: str) -> Template | None:
    """The template of a family of models (`general.architecture` of the GGUF); None where we know none."""
    return _TEMPLATES.get(architecture)


def prompt(messages: Sequence[Message], template: Template) -> str:
    """The text after which the model writes its answer."""
    text = "".join(text for text, _ in segments(messages, template))
    return text + template.start.format(role=template.names["assistant"])


def segments(messages: Sequence[Message], template: Template) -> tuple[tuple[str, bool], ...]:
    """(text, trained) pairs of a conversation: the answers and the mark that ends each are what is learned."""
    pairs: list[tuple[str, bool]] = []
    for role, text, trained in _turns(messages, template):
        start = template.start.format(role=template.names[role])
        if role == "assistant" and trained:
            pairs += [(start, False), (text + template.end, True)]
        else:
            pairs.append((start + text + template.end, False))
    return _joined(pairs)


def _turns(messages: Sequence[Message], template: Template) -> list[tuple[Role, str, bool]]:
    """Turns in the template's own roles; where it has none for the system, its text opens the next user turn."""
    turns: list[tuple[Role, str, bool]] = []
    waiting = ""
    for message in messages:
        text = _plain(message.text, template)
        if message.role == "system" and "system" not in template.names:
            waiting += text + "\n\n"
            continue
        if waiting and message.role != "user":
            turns.append(("user", waiting.strip(), False))
            waiting = ""
        turns.append((message.role, waiting + text, message.trained))
        waiting = ""
    return [*turns, ("user", waiting.strip(), False)] if waiting else turns


def _plain(text: str, template: Template) -> str:
    while any(mark in text for mark in template.control):  # again: taking one out may join the halves of another
        for mark in template.control:
            text = text.replace(mark, "")
    return text.strip()


def _joined(pairs: Sequence[tuple[str, bool]]) -> tuple[tuple[str, bool], ...]:
    """Neighbours that are not learned become one segment, so that they are tokenised as a prompt would be."""
    joined: list[tuple[str, bool]] = []
    for text, trained in pairs:
        if joined and not trained and not joined[-1][1]:
            joined[-1] = (joined[-1][0] + text, False)
        else:
            joined.append((text, trained))
    return tuple(joined)


def parse(raw: object) -> tuple[Message, ...]:
    """Messages as OpenAI's JSON has them: content is text, or a list of text parts.

    Raises:
        ValueError: with a sentence that names the message (counted from 1) and what is wrong.
    """
    if not isinstance(raw, list) or not raw:
        raise ValueError("messages must be a list with at least one message")
    return tuple(_message(number, item) for number, item in enumerate(raw, start=1))


def _message(number: int, raw: object) -> Message:
    if not isinstance(raw, dict):
        raise ValueError(f"message {number} is not an object")
    role = raw.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"message {number} has the role {role!r}; these can be used: {', '.join(_ROLES)}")
    if raw.get("tool_calls") or raw.get("function_call"):
        raise ValueError(f"message {number} calls a tool, and tools are not supported")
    weight = raw.get("weight", 1)
    if weight not in (0, 1):
        raise ValueError(f"message {number} has the weight {weight!r}; it must be 0 or 1")
    return Message(_ROLES[role], _content(number, raw.get("content")), bool(weight))


def _content(number: int, raw: object) -> str:
    if isinstance(raw, str):
        return raw
    parts = raw if isinstance(raw, list) else [None]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"message {number} has content that is not text")
    return "".join(str(text) for text in texts)
