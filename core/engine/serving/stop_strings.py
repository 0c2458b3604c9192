"""Matches stop strings in generated text.

llama.cpp can match them too, but at the token limit it drops text that it buffered for a stop string, and it misses a
stop string in a token that ends in the middle of a character. So the engine matches them itself.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the first stop string in a text that arrives in chunks, and buffers text that may become one.

    The result does not depend on the chunks: the stop string that is complete first ends the text; of several that are
    complete at the same character, the longest.

    Attributes:
        found: a stop string was found; no text is returned after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._progress = [_Progress(stop) for stop in dict.fromkeys(stops) if stop]
        self._buffer = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Add a chunk; returns the text that cannot be part of a stop string."""
        if self.found or not self._progress:
            return "" if self.found else text
        text_so_far = self._buffer + text
        for read, character in enumerate(text, start=len(self._buffer) + 1):
            lengths = [len(progress.stop) for progress in self._progress if progress.advance(character)]
            if lengths:
                self.found, self._buffer = True, ""
                return text_so_far[: read - max(lengths)]
        n_safe = len(text_so_far) - max(progress.matched for progress in self._progress)
        self._buffer = text_so_far[n_safe:]
        return text_so_far[:n_safe]

    def flush(self) -> str:
        """The buffered text, at the end of a text without a stop string."""
        text, self._buffer = self._buffer, ""
        return text


class _Progress:
    """Length of the prefix of one stop string that the text ends with (Knuth–Morris–Pratt algorithm)."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._failure = _failure_function(stop)

    def advance(self, character: str) -> bool:
        """Read one character; returns whether the stop string is complete."""
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._failure[self.matched - 1]
        if self.stop[self.matched] == character:
            self.matched += 1
        return self.matched == len(self.stop)


def _failure_function(stop: str) -> list[int]:
    """For each prefix of `stop`: the length of its longest proper prefix that is also a suffix."""
    prefix_lengths = [0]
    for character in stop[1:]:
        length = prefix_lengths[-1]
        while length and stop[length] != character:
            length = prefix_lengths[length - 1]
        prefix_lengths.append(length + (stop[length] == character))
    return prefix_lengths
