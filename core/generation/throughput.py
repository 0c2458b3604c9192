"""Throughput of a run: answers per second. It decides how many rows are claimed ahead. Pure."""

from __future__ import annotations

_SAMPLE_S = 0.25  # sample interval: long enough to smooth out single answers
_MIN_ANSWERS = 16  # answers needed for an estimate within a sample interval


class Throughput:
    """Counts answers. `per_s` is a moving average: half the last sample, half the previous average."""

    def __init__(self, now: float) -> None:
        self.per_s = 0.0
        self._count, self._since = 0, now

    def record(self, answers: int) -> None:
        """Count more answers."""
        self._count += answers

    def update(self, now: float) -> None:
        """Update `per_s` if the sample interval is over."""
        if now - self._since >= _SAMPLE_S:
            self.per_s = (self.per_s + self._count / (now - self._since)) / 2
            self._count, self._since = 0, now

    def estimate(self, round_size: int, now: float) -> float:
        """`per_s`, or the current rate if it is higher and a whole round of answers has arrived since the sample."""
        if self._count < max(_MIN_ANSWERS, round_size):
            return self.per_s
        return max(self.per_s, self._count / max(_SAMPLE_S / 10, now - self._since))
