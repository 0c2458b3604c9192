"""Tokenises training files in the validating_files phase, and checks each example against the context length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.engine.finetune_format import BadLine, Conversation, PromptCompletion
from core.engine.formats import tokens, validate
from core.engine.formats.tokens import Encoded, SegmentedExample
from core.engine.serving import chat
from core.engine.serving.llama import BaseModel
from core.message import extra_fields, msg, sentences

_MAX_LISTED = 10  # overlong lines that one message lists
_CANCEL_CHECK_S = 0.5  # how often cancellation is checked


class JobFailed(Exception):
    """A job has failed. `code` and `param` as in OpenAI's job errors."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param

    def error(self) -> dict[str, Any]:
        """The `error` of a job object."""
        return {"code": self.code, "message": self.message, "param": self.param, **extra_fields(self.message)}


class JobCancelled(Exception):
    """The job was cancelled meanwhile."""


def prepare(
    source: Path,
    target: Path,
    base: BaseModel,
    tokenize: Callable[[str], list[int]],
    should_continue: Callable[[], bool],
    param: str,
) -> int:
    """Tokenise the training file `source` into `target`; returns the number of tokens.

    Raises:
        JobFailed: lines are longer than the context (the message lists them), or the file was deleted or changed.
        JobCancelled: `should_continue()` became false.
    """
    too_long: list[str] = []

    def encoded() -> Iterator[Encoded]:
        checked_at = time.monotonic()
        for number, example in validate.examples(source):
            if time.monotonic() - checked_at > _CANCEL_CHECK_S:
                checked_at = time.monotonic()
                if not should_continue():
                    raise JobCancelled
            encoded_example = tokens.encode(as_example(example, base), tokenize, base.card.bos, base.card.eos)
            if len(encoded_example.tokens) > base.context:
                too_long.append(
                    msg("Line {number} has {tokens} tokens.", number=number, tokens=len(encoded_example.tokens))
                )
            yield encoded_example

    try:
        total = tokens.save(target, encoded())
    except FileNotFoundError as exc:
        raise JobFailed(
            msg("The file of '{param}' was deleted before it was read.", param=param), "file_not_found", param
        ) from exc
    except BadLine as exc:
        raise JobFailed(
            msg("The file of '{param}' has a broken line. {sentence}", param=param, sentence=exc.sentence),
            "invalid_training_file",
            param,
        ) from exc
    if too_long:
        target.unlink()
        listed = too_long[:_MAX_LISTED]
        if more := len(too_long) - len(listed):
            listed.append(msg("{more} more lines are too long.", more=more))
        raise JobFailed(
            msg(
                "An example can have {context} tokens at most. {too_long} Shorten or remove them.",
                context=base.context,
                too_long=sentences(*listed),
            ),
            "invalid_training_file",
            param,
        )
    return total


def as_example(example: PromptCompletion | Conversation, base: BaseModel) -> SegmentedExample:
    """Split a line of a training file into trained and untrained segments."""
    if isinstance(example, PromptCompletion):
        return SegmentedExample(((example.prompt, False), (example.completion, True)), eos=True)
    template = chat.template_for(base.card.architecture)
    assert template is not None, "checked when the job was created"
    return SegmentedExample(chat.segments(example.messages, template), eos=False)
