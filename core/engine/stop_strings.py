"""Stop strings, matched in the text as it is generated.

llama.cpp can match them too, but drops the text that it holds back for a stop string when the token limit comes, and
misses a stop in a token that ends in the middle of a character. So the engine matches them itself.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the first stop string in a text that arrives in parts, and holds back what may become one.

    The result does not depend on how the text is divided: the stop that is complete first ends the text, and of
    several that are complete at the same character the longest.

    Attributes:
        found: whether a stop string was found; nothing is given out after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._progress = [_Progress(stop) for stop in dict.fromkeys(stops) if stop]
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Take the next part of the text; what can be given out now."""
        if self.found or not self._progress:
            return "" if self.found else text
        waiting = self._held + text
        for read, character in enumerate(text, start=len(self._held) + 1):
            lengths = [len(each.stop) for each in self._progress if each.advance(character)]
            if lengths:
                self.found, self._held = True, ""
                return waiting[: read - max(lengths)]
        keep = len(waiting) - max(each.matched for each in self._progress)
        self._held = waiting[keep:]
        return waiting[:keep]

    def flush(self) -> str:
        """What is still held back, given out because the text ends here without a stop string."""
        held, self._held = self._held, ""
        return held


class _Progress:
    """How much of one stop string the text ends with (Knuth, Morris and Pratt: no character is read twice)."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._shorter = _borders(stop)

    def advance(self, character: str) -> bool:
        """Read one character; whether the stop string is complete."""
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._shorter[self.matched - 1]
        if self.stop[self.matched] == character:
            self.matched += 1
        return self.matched == len(self.stop)


def _borders(stop: str) -> list[int]:
    """For each beginning of `stop`: the length of its longest proper beginning that is also its end."""
    borders = [0]
    for character in stop[1:]:
        length = borders[-1]
        while length and stop[length] != character:
            length = borders[length - 1]
        borders.append(length + (stop[length] == character))
    return borders
