"""Retries with exponential backoff: full jitter, the server's `retry-after` first, a limit on the total time.

Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import backoff

from core.errors import ProviderError, RateLimited, Unavailable
from core.providers.errors import retry_after_s

T = TypeVar("T")

RETRIED = (RateLimited, Unavailable)  # other errors would not go away on a retry


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Limits for retrying one call.

    Attributes:
        total_s: limit on the total time, with all attempts and waits.
        tries: maximum number of attempts.
        base_s, cap_s: the first wait is at most `base_s`; the bound doubles with each attempt, up to `cap_s`.
    """

    total_s: float = 60.0
    tries: int = 5
    base_s: float = 0.5
    cap_s: float = 20.0


def wait_s(tries: int, server_wait_s: float | None, base_s: float, cap_s: float) -> float:
    """Seconds until the next attempt, after `tries` (≥ 1) failed ones.

    A server's `retry-after` is honoured, plus up to a tenth of it (at most `base_s`) so that many waiting requests do
    not return at the same moment; otherwise full jitter under an exponential bound.
    """
    if server_wait_s is not None:
        return float(
            server_wait_s + backoff.full_jitter(min(base_s, server_wait_s / 10) if server_wait_s >= base_s else base_s)
        )
    return float(backoff.full_jitter(min(cap_s, base_s * 2.0 ** min(tries - 1, 30))))


def with_retries(call: Callable[[], T], retry_limits: RetryLimits, *, paid: bool = False) -> T:
    """Return `call()`, retrying after `RateLimited` and `Unavailable`. Only for calls that are safe to repeat.

    Args:
        call: one attempt.
        retry_limits: limits on time and attempts.
        paid: each attempt costs money. It is then repeated only after errors that were certainly not billed; a request
            that timed out may be.

    Raises:
        ProviderError: the last error, when a limit is reached or the server asks for a longer wait.
    """
    result: T = _retrying(retry_limits, paid)(call)()
    return result


async def with_retries_async(call: Callable[[], Awaitable[T]], retry_limits: RetryLimits, *, paid: bool = False) -> T:
    """`with_retries` on the running event loop: waits can be cancelled."""

    async def awaited() -> T:
        return await call()

    result: T = await _retrying(retry_limits, paid)(awaited)()
    return result


def _retrying(retry_limits: RetryLimits, paid: bool) -> Callable[[Any], Any]:
    """A decorator that retries a function or coroutine function within the limits."""

    def waits() -> Generator[float, Any, None]:
        error = yield 0.0
        tries = 1
        while True:
            error = yield wait_s(tries, retry_after_s(error), retry_limits.base_s, retry_limits.cap_s)
            tries += 1

    started = time.monotonic()

    def give_up(error: Exception) -> bool:
        if paid and isinstance(error, ProviderError) and error.may_be_billed:
            return True
        return (time.monotonic() - started) + (retry_after_s(error) or 0.0) > retry_limits.total_s

    return backoff.on_exception(
        waits,
        RETRIED,
        max_tries=retry_limits.tries,
        max_time=retry_limits.total_s,
        jitter=None,  # `wait_s` already includes jitter
        giveup=give_up,
        logger=None,
    )
