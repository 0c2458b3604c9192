"""How many requests fly at once, and how long a run waits for what. Additive up, multiplicative down (AIMD)."""

from __future__ import annotations

from dataclasses import dataclass

_CEILINGS = {"engine": 4}  # the engine writes four texts at a time; a fifth would only wait inside it
_OTHERS = 16  # well inside the lowest rate limits of hosted providers


def ceiling(provider: str) -> int:
    """The most requests that a run keeps in flight at a provider."""
    return _CEILINGS.get(provider, _OTHERS)


@dataclass(frozen=True, slots=True)
class Limits:
    """The patience of a run.

    Attributes:
        ceiling: most requests in flight; None: the provider's (see `ceiling`).
        base_s, cap_s: a row's first wait is at most `base_s`; each further one twice that, at most `cap_s`.
        stall_s: without any answer for so long, the run ends and says so.
        strikes: a row that fails so often while others succeed is given up.
        alike: so many equal refusals (400, 422, …) before the first success end the run; four times as many later.
        most_waiting: rows that wait for their next try at the same time; then no new ones are begun.
        tick_s: how often a stop is looked for.
        storage_s: pause before a database that could not be written is tried again.
    """

    ceiling: int | None = None
    base_s: float = 1.0
    cap_s: float = 20.0
    stall_s: float = 600.0
    strikes: int = 5
    alike: int = 5
    most_waiting: int = 64
    tick_s: float = 0.25
    storage_s: float = 1.0


class Pace:
    """The number of requests that may fly now: one more per round that succeeds, half when the server complains."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._allowed = float(most)
        self._cut_at = float("-inf")

    @property
    def allowed(self) -> int:
        """How many may fly now, at least one."""
        return max(1, int(self._allowed))

    def room(self, flying: int) -> int:
        """How many more may fly now."""
        return max(0, self.allowed - flying)

    def succeeded(self) -> None:
        """An answer came: a whole round of answers makes room for one more."""
        self._allowed = min(float(self.most), self._allowed + 1 / max(1.0, self._allowed))

    def rate_limited(self, sent_at: float, now: float) -> None:
        """The server asked to slow down. Requests that were sent before the last cut do not cut again."""
        if sent_at > self._cut_at:
            self._allowed = max(1.0, self._allowed / 2)
            self._cut_at = now
