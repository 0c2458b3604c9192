"""One line of a training file: what a provider would say to it, before it is sent anywhere. Pure.

The rules are the engine's own (`core.engine.training_line`), so that the check and the engine agree on every line.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.engine import training_line
from core.engine.training_line import BadLine, PromptCompletion
from core.training.job_form import FileFormat

__all__ = ["BadLine", "CheckedExample", "read"]


@dataclass(frozen=True, slots=True)
class CheckedExample:
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


def read(raw: bytes, *, text_only: bool = True) -> CheckedExample:
    """One line as an example; `text_only` as in `training_line.parse`.

    Raises:
        BadLine: what is wrong with it.
    """
    found = training_line.parse(raw, text_only=text_only)
    if isinstance(found, PromptCompletion):
        return CheckedExample("completion", found.prompt, found.completion)
    *before, last = (message.text for message in found.messages)
    return CheckedExample("chat", "\n".join(before), last, len(found.messages))
