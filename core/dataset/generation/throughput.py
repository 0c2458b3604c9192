"""How many answers come in a second: how much may be begun, and claimed ahead, follows from it. Pure."""

from __future__ import annotations

_TAKEN_S = 0.25  # how often the rate is taken: long enough not to follow single answers
_MANY = 16  # answers that say something about a rate before it is taken


class Throughput:
    """Counts answers. `per_s` is the rate as it was last taken, half of it the one before."""

    def __init__(self, now: float) -> None:
        self.per_s = 0.0
        self._count, self._since = 0, now

    def record(self, answers: int) -> None:
        """So many more have come."""
        self._count += answers

    def take(self, now: float) -> None:
        """Take the rate, where it is time to."""
        if now - self._since >= _TAKEN_S:
            self.per_s = (self.per_s + self._count / (now - self._since)) / 2
            self._count, self._since = 0, now

    def at_least(self, a_round: int, now: float) -> float:
        """As last taken, or more where a whole round of `a_round` answers has come since."""
        if self._count < max(_MANY, a_round):
            return self.per_s
        return max(self.per_s, self._count / max(_TAKEN_S / 10, now - self._since))
