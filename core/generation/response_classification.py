"""What an answer or an error means: a finished story, a failed row with a reason, or the end of the run. Pure.

A request may ask for several texts (`n`); `split_completion` divides its answer, tokens and cost among their rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from core.errors import FabulaError
from core.message import msg, sentences, with_cause
from core.providers import Choice, Completion
from core.sanitize import storable

_EMPTY = with_cause(msg("The answer was empty."), "empty_answer")
_MAX_FINISH_REASON = 30  # characters, the size of the column; the API's own values are shorter
_COST_UNIT = Decimal("1e-12")  # US dollars; a token costs at least a thousand times as much


class ResponseVerdict(NamedTuple):
    """`state` is done or failed; a failed one has a `reason`, a sentence. The text is kept in both cases."""

    state: str
    reason: str | None
    text: str | None
    finish_reason: str | None


def classify(answer: Completion, max_tokens: int) -> ResponseVerdict:
    """The verdict on the first text of an answer. Only a text with finish reason `stop` is a finished story."""
    if not answer.texts:
        return ResponseVerdict("failed", _EMPTY, "", None)
    choice = answer.texts[0]
    text = storable(choice.text)
    reason = _unfinished_reason(text, choice, max_tokens)
    finish_reason = storable(choice.finish_reason)[:_MAX_FINISH_REASON] if choice.finish_reason else None
    return ResponseVerdict("done" if reason is None else "failed", reason, text, finish_reason)


def _unfinished_reason(text: str, choice: Choice, max_tokens: int) -> str | None:
    finish_reason = choice.finish_reason
    if choice.error:
        return storable(
            with_cause(msg("The provider ended the text with an error: {message}", message=choice.error), "interrupted")
        )
    if finish_reason == "length":
        return with_cause(
            msg("The text was cut off at {max_tokens} tokens.", max_tokens=f"{max_tokens:,}"), "token_limit"
        )
    if finish_reason == "refusal":
        return with_cause(msg("The model refused to write this."), "refused")
    if finish_reason == "content_filter":
        return with_cause(msg("The provider's content filter blocked the text."), "content_filter")
    if not text.strip():
        return _EMPTY
    if finish_reason is None:
        return with_cause(msg("The provider did not say whether the text is finished."), "interrupted")
    if finish_reason != "stop":
        return with_cause(
            msg("The text is not finished: the provider ended it with {finish_reason}.", finish_reason=finish_reason),
            "interrupted",
        )
    return None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ends: its final state and a reason.

    Attributes:
        wait_s: for state "waiting": seconds until the run resumes.
        increasing: the provider did not say how long to wait: each pause without an answer in between is longer than
            the previous one.
    """

    state: str
    reason: str | None = None
    wait_s: float | None = None
    increasing: bool = False


def end_for_error(error: FabulaError) -> RunEnd:
    """The end of a run that failed with this error: what happened and what to do."""
    return RunEnd("failed", storable(sentences(error.what, error.next_step)))


class RepeatedFailures:
    """Detects requests that fail for a reason that is not their own: many in a row with the same error message.

    Args:
        first: number of failures that counts as many before the first success; four times as many afterwards.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._last_message = ""
        self._count = 0
        self._succeeded = False

    def succeeded(self) -> None:
        """Record a success."""
        self._succeeded, self._count = True, 0

    def failed(self, message: str) -> bool:
        """Record a failure with this error message. Returns True if continuing is pointless."""
        message = re.sub(r"\d+", "#", message)  # token counts and ids differ for the same cause
        self._count = self._count + 1 if message == self._last_message else 1
        self._last_message = message
        return self._count >= (4 * self._first if self._succeeded else self._first)


def split_completion(answer: Completion, expected: int) -> list[Completion]:
    """One completion for each text, up to `expected`, at least one. Their tokens add up to those of the answer."""
    if expected == 1:
        return [answer]
    texts: list[tuple[Choice, ...]] = [(text,) for text in answer.texts[:expected]] or [()]
    prompt, completion = (split_tokens(t, len(texts)) for t in (answer.prompt_tokens, answer.completion_tokens))
    return [
        replace(answer, texts=text, prompt_tokens=used, completion_tokens=written)
        for text, used, written in zip(texts, prompt, completion, strict=True)
    ]


def split_tokens(total: int | None, parts: int) -> Sequence[int | None]:
    """`total` in whole parts; the first part gets the remainder. None: unknown."""
    if total is None:
        return [None] * parts
    each, remainder = divmod(total, parts)
    return [each + remainder] + [each] * (parts - 1)


def split_cost(total: Decimal | None, parts: int) -> Sequence[Decimal | None]:
    """`total` in parts that add up to it exactly; the first part gets the remainder. None: unknown."""
    if total is None or parts == 1:
        return [total] * parts
    each = (total / parts).quantize(_COST_UNIT, rounding="ROUND_DOWN")
    return [total - each * (parts - 1)] + [each] * (parts - 1)
