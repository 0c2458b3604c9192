"""Keeps an outage cheap: while all requests fail, one at a time is sent. Each may be billed. No clock, no I/O."""

from __future__ import annotations

from core.providers.retry import wait_s


class CircuitBreaker:
    """A circuit breaker (M. Nygard, "Release It!", 2007; https://martinfowler.com/bliki/CircuitBreaker.html).

    Opens after `threshold` requests in a row whose cost is unknown. Then nothing is sent for a pause, and after it one
    request at a time. Each failure increases the pause (full jitter, or as long as the server asks). The first answer
    closes the circuit.

    Args:
        threshold: failures in a row before the circuit opens. The requests in flight fail anyway when a provider goes
            down, so there is no use in a number far below theirs.
        base_s, cap_s: the first pause is at most `base_s`; each further pause at most twice that, up to `cap_s`.
    """

    def __init__(self, threshold: int, base_s: float, cap_s: float) -> None:
        self._threshold, self._base_s, self._cap_s = threshold, base_s, cap_s
        self._failures = 0
        self._opened_at = float("-inf")
        self._resume_at = float("-inf")

    @property
    def is_open(self) -> bool:
        """True while requests are held back."""
        return self._failures >= self._threshold

    @property
    def resume_at(self) -> float | None:
        """When the next request may be sent (monotonic seconds). None: the circuit is closed."""
        return self._resume_at if self.is_open else None

    def available(self, in_flight: int, now: float) -> int | None:
        """How many more requests may be sent now. None: no limit."""
        if not self.is_open:
            return None
        return 1 if now >= self._resume_at and not in_flight else 0

    def on_failure(self, sent_at: float, now: float, retry_after_s: float | None = None) -> None:
        """Record a failure. Ignored for requests sent before the last pause: they carry no new information."""
        if sent_at < self._opened_at:
            return
        self._failures += 1
        if self.is_open:
            tries = self._failures - self._threshold + 1
            self._opened_at, self._resume_at = now, now + wait_s(tries, retry_after_s, self._base_s, self._cap_s)

    def on_success(self) -> bool:
        """Record an answer. Returns True if it closed an open circuit."""
        was_open = self.is_open
        self._failures = 0
        return was_open
