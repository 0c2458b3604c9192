"""Flow control for a run: the number of requests in flight, its throughput, and the limits for retries and pauses.

`ConcurrencyControl` adapts to rate limits (additive increase, multiplicative decrease). `CircuitBreaker` limits the
cost of an outage: while all requests fail, they are sent one at a time, because each may be billed. No clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.processes import DRAIN_S
from core.providers import RetryPolicy

MAX_SHARED = 8  # answers per request; a broken connection causes at most eight retries
_ROUNDS_TO_LIMIT = 16  # rounds that it takes to rise from zero to the ceiling without a rate limit
DEFAULT_LIMIT = 16  # for providers that do not report one; well below the lowest rate limits of hosted providers
_SAMPLE_S = 0.25  # sample interval: long enough to smooth out single answers
_MIN_ANSWERS = 16  # answers needed for an estimate within a sample interval


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits for retries, pauses and concurrency of a run.

    Attributes:
        ceiling: maximum number of requests in flight; None uses the provider's reported limit, or `DEFAULT_LIMIT`.
        base_s, cap_s: a row's first wait is at most `base_s`; this bound doubles with each further wait, up to `cap_s`.
        stall_s: the run ends if there is no answer for this long.
        max_row_failures: a row that fails this often while others succeed, or may have been billed this often, is
            marked as failed. If no row of the run has been answered, the run ends instead.
        max_lost_requests: after this many consecutive requests that may be billed but produced no answer, requests are
            sent one at a time, with an increasing pause before each.
        max_repeated_failures: this many consecutive equal refusals (400, 422, …) end the run before the first success;
            afterwards, four times as many do.
        max_waiting: maximum number of rows waiting for a retry at the same time. At this limit, no new rows are
            started. The limit rises by the number of answers in the last second, because a server that answers is not
            refusing everything.
        tick_s: interval between checks for a stop request.
        storage_retry_s: pause before a failed database write is retried.
        drain_s: how long a stopping worker waits for answers to requests in flight; then it cancels them.
    """

    ceiling: int | None = None
    base_s: float = 1.0
    cap_s: float = 20.0
    stall_s: float = 600.0
    max_row_failures: int = 5
    max_lost_requests: int = 8
    max_repeated_failures: int = 5
    max_waiting: int = 64
    tick_s: float = 0.25
    storage_retry_s: float = 1.0
    drain_s: float = DRAIN_S


class ConcurrencyControl:
    """Adapts the number of requests that may be in flight.

    Follows DCTCP (Alizadeh et al., 2010, doi:10.1145/1851182.1851192): replies are evaluated in rounds of as many
    replies as requests may be in flight. The limit falls by half the fraction of rate-limited replies, and grows by a
    sixteenth of the ceiling (at least one) times the fraction of the others. If a server refuses everything, the limit
    is halved each round; occasional refusals have little effect.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._allowed = float(limit)
        self._replies = 0
        self._rate_limits = 0
        self._decreased_at = float("-inf")

    @property
    def allowed(self) -> int:
        """How many requests may be in flight now, at least one."""
        return max(1, int(self._allowed))

    def available(self, in_flight: int) -> int:
        """How many more requests may be sent now."""
        return max(0, self.allowed - in_flight)

    def start(self, limit: int) -> None:
        """Set a different initial limit, before the first request."""
        self.limit, self._allowed = limit, float(limit)

    def succeeded(self) -> None:
        """Record an answer."""
        self._record_reply(0)

    def rate_limited(self, sent_at: float, now: float) -> None:
        """Record a rate limit. Requests sent before the last decrease are ignored, because they carry no new
        information.
        """
        if sent_at > self._decreased_at and self._record_reply(1):
            self._decreased_at = now

    def restart(self) -> None:
        """Start again with one request in flight, after an outage."""
        self._allowed = 1.0
        self._replies = self._rate_limits = 0

    def _record_reply(self, rate_limited: int) -> bool:
        """Count one reply. Return True if it ended a round that lowered the limit."""
        self._replies += 1
        self._rate_limits += rate_limited
        if self._replies < self.allowed:
            return False
        share = self._rate_limits / self._replies
        increase = max(1.0, self.limit / _ROUNDS_TO_LIMIT) * (1 - share)
        self._allowed = min(float(self.limit), max(1.0, self._allowed * (1 - share / 2) + increase))
        self._replies = self._rate_limits = 0
        return share > 0


class CircuitBreaker:
    """A circuit breaker (M. Nygard, "Release It!", 2007; https://martinfowler.com/bliki/CircuitBreaker.html).

    Opens after `threshold` consecutive requests whose cost is unknown. Nothing is sent during a pause; after it,
    requests are sent one at a time. Each failure increases the pause (full jitter, or as long as the server asks). The
    first answer closes the circuit.

    Args:
        threshold: consecutive failures before the circuit opens. When a provider goes down, all requests in flight fail
            anyway, so a threshold far below their number is useless.
        policy: length of the pauses.
    """

    def __init__(self, threshold: int, policy: RetryPolicy) -> None:
        self._threshold, self._policy = threshold, policy
        self._failures = 0
        self._opened_at = float("-inf")
        self._resume_at = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether requests are being held back."""
        return self._failures >= self._threshold

    @property
    def resume_at(self) -> float | None:
        """When the next request may be sent (monotonic seconds); None while the circuit is closed."""
        return self._resume_at if self.is_open else None

    def available(self, in_flight: int, now: float) -> int | None:
        """How many more requests may be sent now; None means no limit."""
        if not self.is_open:
            return None
        return 1 if now >= self._resume_at and not in_flight else 0

    def on_failure(self, sent_at: float, now: float, retry_after_s: float | None = None) -> None:
        """Record a failure. Requests sent before the last pause are ignored, because they carry no new information."""
        if sent_at < self._opened_at:
            return
        self._failures += 1
        if self.is_open:
            tries = self._failures - self._threshold + 1
            self._opened_at, self._resume_at = now, now + self._policy.wait_s(tries, retry_after_s)

    def on_success(self) -> bool:
        """Record an answer. Return True if it closed an open circuit."""
        was_open = self.is_open
        self._failures = 0
        return was_open


class Throughput:
    """Measures answers per second, which determines how many rows are claimed ahead. `per_s` is a moving average: half
    the last sample, half the previous average.
    """

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
        """Return `per_s`, or the current rate if that is higher and a whole round of answers has arrived since the last
        sample.
        """
        if self._count < max(_MIN_ANSWERS, round_size):
            return self.per_s
        return max(self.per_s, self._count / max(_SAMPLE_S / 10, now - self._since))
