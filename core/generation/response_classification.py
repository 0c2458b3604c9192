"""Classifies an answer: a finished story, or a failed row with a reason. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from core.message import msg
from core.providers import Choice, Completion
from core.sanitize import storable

_MAX_FINISH_REASON = 30  # characters, the size of the column; the API's own values are shorter


class ResponseVerdict(NamedTuple):
    """`state` is done or failed; a failed one has a `reason`, a sentence. The text is kept in both cases."""

    state: str
    reason: str | None
    text: str | None
    finish_reason: str | None


def classify(answer: Completion, max_tokens: int) -> ResponseVerdict:
    """The verdict on the first text of an answer. Only a text with finish reason `stop` is a finished story."""
    if not answer.texts:
        return ResponseVerdict("failed", msg("The answer was empty."), "", None)
    choice = answer.texts[0]
    text = storable(choice.text)
    reason = _unfinished_reason(text, choice, max_tokens)
    finish_reason = storable(choice.finish_reason)[:_MAX_FINISH_REASON] if choice.finish_reason else None
    return ResponseVerdict("done" if reason is None else "failed", reason, text, finish_reason)


def _unfinished_reason(text: str, choice: Choice, max_tokens: int) -> str | None:
    finish_reason = choice.finish_reason
    if choice.error:
        return storable(msg("The provider ended the text with an error: {error}", error=choice.error))
    if finish_reason == "length":
        return msg("The text was cut off at {max_tokens} tokens.", max_tokens=f"{max_tokens:,}")
    if finish_reason == "refusal":
        return msg("The model refused to write this.")
    if finish_reason == "content_filter":
        return msg("The provider's content filter blocked the text.")
    if not text.strip():
        return msg("The answer was empty.")
    if finish_reason is None:
        return msg("The provider did not say whether the text is finished.")
    if finish_reason != "stop":
        return msg("The text is not finished: the provider ended it with {finish_reason}.", finish_reason=finish_reason)
    return None


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
