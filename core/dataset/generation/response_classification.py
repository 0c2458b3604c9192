"""What an answer means for its row: a finished story, or a text that is not one, and why. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from core.message import msg
from core.providers import Choice, Completion
from core.sanitize import storable as storable

_LONGEST_WORD = 30  # characters, as the table has it; the API's own words are shorter


class ResponseVerdict(NamedTuple):
    """`state` is done or failed; `reason` a sentence for a failed one. The text is kept in both cases."""

    state: str
    reason: str | None
    text: str | None
    finish_reason: str | None


def classify(answer: Completion, max_tokens: int) -> ResponseVerdict:
    """The verdict on the first text of an answer. Only a text that ended by itself is a finished story."""
    if not answer.texts:
        return ResponseVerdict("failed", msg("The answer was empty."), "", None)
    choice = answer.texts[0]
    text = storable(choice.text)
    reason = _why_unfinished(text, choice, max_tokens)
    word = storable(choice.finish_reason)[:_LONGEST_WORD] if choice.finish_reason else None
    return ResponseVerdict("done" if reason is None else "failed", reason, text, word)


def _why_unfinished(text: str, choice: Choice, max_tokens: int) -> str | None:
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
    """Tells when requests fail for a reason that is not their own: many in a row, all in the same words.

    Args:
        first: how many before anything has succeeded; four times as many afterwards.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._words = ""
        self._count = 0
        self._succeeded = False

    def succeeded(self) -> None:
        """One request was good."""
        self._succeeded, self._count = True, 0

    def failed(self, words: str) -> bool:
        """One was refused with these words; whether that makes it pointless to go on."""
        words = re.sub(r"\d+", "#", words)  # token counts and ids differ where the cause is the same
        self._count = self._count + 1 if words == self._words else 1
        self._words = words
        return self._count >= (4 * self._first if self._succeeded else self._first)
