"""Conversations as the text that a model reads. Training files and chat requests go through the same function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.engine.training_line import CHATML_MARKS, GEMMA_MARKS, BadLine, ChatMessage, message, without_marks
from core.message import msg

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


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
    GEMMA_MARKS,
)
_CHATML = Template(
    "<|im_start|>{role}\n",
    "<|im_end|>\n",
    {"system": "system", "user": "user", "assistant": "assistant"},
    CHATML_MARKS,
)
_TEMPLATES = {"gemma": _GEMMA, "gemma2": _GEMMA, "gemma3": _GEMMA, "qwen2": _CHATML, "qwen3": _CHATML}


def template_for(architecture: str) -> Template | None:
    """The template of a family of models (`general.architecture` of the GGUF); None where we know none."""
    return _TEMPLATES.get(architecture)


def prompt(messages: Sequence[ChatMessage], template: Template) -> str:
    """The text after which the model writes its answer."""
    text = "".join(text for text, _ in segments(messages, template))
    return text + template.start.format(role=template.names["assistant"])


def segments(messages: Sequence[ChatMessage], template: Template) -> tuple[tuple[str, bool], ...]:
    """(text, trained) pairs of a conversation: the answers and the mark that ends each are what is learned."""
    pairs: list[tuple[str, bool]] = []
    for role, text, trained in _turns(messages, template):
        start = template.start.format(role=template.names[role])
        if role == "assistant" and trained:
            pairs += [(start, False), (text + template.end, True)]
        else:
            pairs.append((start + text + template.end, False))
    return _joined(pairs)


def _turns(messages: Sequence[ChatMessage], template: Template) -> list[tuple[Role, str, bool]]:
    """Turns in the template's own roles; where it has none for the system, its text opens the next user turn."""
    turns: list[tuple[Role, str, bool]] = []
    waiting = ""
    for one in messages:
        role, text = _ROLES[one.role], without_marks(one.text, template.control)
        if role == "system" and "system" not in template.names:
            waiting += text + "\n\n"
            continue
        if waiting and role != "user":
            turns.append(("user", waiting.strip(), False))
            waiting = ""
        turns.append((role, waiting + text, one.trained))
        waiting = ""
    return [*turns, ("user", waiting.strip(), False)] if waiting else turns


def _joined(pairs: Sequence[tuple[str, bool]]) -> tuple[tuple[str, bool], ...]:
    """Neighbours that are not learned become one segment, so that they are tokenised as a prompt would be."""
    joined: list[tuple[str, bool]] = []
    for text, trained in pairs:
        if joined and not trained and not joined[-1][1]:
            joined[-1] = (joined[-1][0] + text, False)
        else:
            joined.append((text, trained))
    return tuple(joined)


def parse(raw: object) -> tuple[ChatMessage, ...]:
    """Messages of a request, read as those of training files are.

    Raises:
        BadLine: with a sentence that names the message (counted from 1) and what is wrong.
    """
    if not isinstance(raw, list) or not raw:
        raise BadLine("shape", msg("It is not a list with messages in it."))
    return tuple(message(number, one) for number, one in enumerate(raw, start=1))
