"""The validating_files phase: every example is tokenised as it will be served, and measured against the context."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.engine import chat, tokens, validate
from core.engine.llama import BaseModel
from core.engine.tokens import Encoded, SegmentedExample
from core.engine.training_line import BadLine, Conversation, PromptCompletion
from core.message import extra_fields, msg, sentences

_NAMED = 10  # over-long lines named in one message
_ASK_EVERY_S = 0.5  # how soon a cancelled job stops being prepared


class JobFailed(Exception):
    """A job cannot go on. `code` and `param` as in OpenAI's job errors."""

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
    wanted: Callable[[], bool],
    param: str,
) -> int:
    """Tokenise the training file `source` into `target`; the number of tokens.

    Raises:
        JobFailed: lines that are longer than the context, by number and length; the file is gone or has changed.
        JobCancelled: `wanted()` became false.
    """
    too_long: list[str] = []

    def encoded() -> Iterator[Encoded]:
        asked_at = time.monotonic()
        for number, example in validate.examples(source):
            if time.monotonic() - asked_at > _ASK_EVERY_S:
                asked_at = time.monotonic()
                if not wanted():
                    raise JobCancelled
            made = tokens.encode(as_example(example, base), tokenize, base.card.bos, base.card.eos)
            if len(made.tokens) > base.context:
                too_long.append(msg("Line {number} has {tokens} tokens.", number=number, tokens=len(made.tokens)))
            yield made

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
        named = too_long[:_NAMED]
        if more := len(too_long) - len(named):
            named.append(msg("{more} more lines are too long.", more=more))
        raise JobFailed(
            msg(
                "An example can have {context} tokens at most. {too_long} Shorten or remove them.",
                context=base.context,
                too_long=sentences(*named),
            ),
            "invalid_training_file",
            param,
        )
    return total


def as_example(example: PromptCompletion | Conversation, base: BaseModel) -> SegmentedExample:
    """A line of a training file as the segments that the trainer learns."""
    if isinstance(example, PromptCompletion):
        return SegmentedExample(((example.prompt, False), (example.completion, True)), eos=True)
    template = chat.template_for(base.card.architecture)
    assert template is not None, "checked when the job was made"
    return SegmentedExample(chat.segments(example.messages, template), eos=False)
