"""How many requests fly at once, and how long a run waits for what. Additive up, multiplicative down."""

from __future__ import annotations

from dataclasses import dataclass

_CEILINGS = {"engine": 4}  # the engine writes four texts at a time; a fifth would only wait inside it
_ROUNDS_UP = 16  # rounds without complaint from nothing to the ceiling
_OTHERS = 16  # well inside the lowest rate limits of hosted providers


def ceiling(provider: str) -> int:
    """The most requests that a run keeps in flight at a provider."""
    return _CEILINGS.get(provider, _OTHERS)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The patience of a run.

    Attributes:
        ceiling: most requests in flight; None: the provider's (see `ceiling`).
        base_s, cap_s: a row's first wait is at most `base_s`; each further one twice that, at most `cap_s`.
        stall_s: without any answer for so long, the run ends and says so.
        strikes: a row that fails so often while others succeed is given up.
        alike: so many equal refusals (400, 422, …) before the first success end the run; four times as many later.
        most_waiting: rows that wait for their next try at the same time; then no new ones are begun. Where answers
            come, as many more as came in the last second: those waits are not the server's refusal of everything.
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


class ConcurrencyControl:
    """The number of requests that may fly now.

    As DCTCP does it (Alizadeh et al., 2010, doi:10.1145/1851182.1851192): replies are looked at in rounds of as many
    as may fly. The number falls by half the share of replies that complained, and grows by a sixteenth of the ceiling
    (one at least) times the share of those that did not. So a server that refuses everything halves it each round, and
    one that refuses now and then, whatever the number, costs little.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._allowed = float(most)
        self._replies = 0
        self._complaints = 0
        self._cut_at = float("-inf")

    @property
    def allowed(self) -> int:
        """How many may fly now, at least one."""
        return max(1, int(self._allowed))

    def room(self, flying: int) -> int:
        """How many more may fly now."""
        return max(0, self.allowed - flying)

    def succeeded(self) -> None:
        """An answer came."""
        self._reply(0)

    def rate_limited(self, sent_at: float, now: float) -> None:
        """The server asked to slow down. Requests that were sent before the last cut tell nothing new."""
        if sent_at > self._cut_at and self._reply(1):
            self._cut_at = now

    def _reply(self, complaint: int) -> bool:
        """Count one reply; whether it ended a round that lowered the number."""
        self._replies += 1
        self._complaints += complaint
        if self._replies < self.allowed:
            return False
        complained = self._complaints / self._replies
        more = max(1.0, self.most / _ROUNDS_UP) * (1 - complained)
        self._allowed = min(float(self.most), max(1.0, self._allowed * (1 - complained / 2) + more))
        self._replies = self._complaints = 0
        return complained > 0
