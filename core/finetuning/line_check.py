"""Checks one line of a training file by the providers' rules before it is sent. Pure.

The rules are the engine's own (`core.engine.training_line`), so that the check and the engine agree on every line.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.engine import training_line
from core.engine.training_line import BadLine, PromptCompletion
from core.finetuning.job_form import FileFormat

__all__ = ["BadLine", "CheckedExample", "read"]


@dataclass(frozen=True, slots=True)
class CheckedExample:
    """A valid line.

    Attributes:
        prompt: the prompt; for a conversation, all turns except the last.
        completion: the text that is trained on; for a conversation, the last answer.
        turns: number of messages; 0 for a prompt and completion.
    """

    file_format: FileFormat
    prompt: str
    completion: str
    turns: int = 0


def read(raw: bytes, *, text_only: bool = True) -> CheckedExample:
    """Parse one line as an example; `text_only`: see `training_line.parse`.

    Raises:
        BadLine: what is wrong with it.
    """
    parsed = training_line.parse(raw, text_only=text_only)
    if isinstance(parsed, PromptCompletion):
        return CheckedExample("completion", parsed.prompt, parsed.completion)
    *context, last = (message.text for message in parsed.messages)
    return CheckedExample("chat", "\n".join(context), last, len(parsed.messages))
