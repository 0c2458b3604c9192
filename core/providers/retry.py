"""How long to wait before the next try: full jitter, the server's own wish first, a cap on the whole.

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

RETRIED = (RateLimited, Unavailable)  # everything else stays wrong however often it is sent


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How long a call is worth waiting for.

    Attributes:
        total_s: cap on one call with all its tries and waits.
        tries: how often it is sent at most.
        base_s, cap_s: the first wait is at most `base_s`; each further one twice that, at most `cap_s`.
    """

    total_s: float = 60.0
    tries: int = 5
    base_s: float = 0.5
    cap_s: float = 20.0


def wait_s(tries: int, asked_s: float | None, base_s: float, cap_s: float) -> float:
    """Seconds until the next try, after `tries` (≥ 1) that failed.

    What the server asked for is honoured, with up to a tenth of it (`base_s` at most) on top so that many waiting
    requests do not come back in one crowd; else full jitter under an exponential bound.
    """
    if asked_s is not None:
        return float(asked_s + backoff.full_jitter(min(base_s, asked_s / 10) if asked_s >= base_s else base_s))
    return float(backoff.full_jitter(min(cap_s, base_s * 2.0 ** min(tries - 1, 30))))


def with_retries(call: Callable[[], T], retry_limits: RetryLimits, *, pays: bool = False) -> T:
    """`call()`, again after `RateLimited` and `Unavailable` while patience lasts. Only for calls safe to repeat.

    Args:
        call: one try.
        retry_limits: for how long, and how often.
        pays: each try costs money. It is repeated only after errors that say that it was not carried out: a request
            that timed out may be on the bill already.

    Raises:
        ProviderError: the last error, when patience is over or the server asks to wait longer than that.
    """
    result: T = _retried(retry_limits, pays)(call)()
    return result


async def with_retries_async(call: Callable[[], Awaitable[T]], retry_limits: RetryLimits, *, pays: bool = False) -> T:
    """`with_retries` on the running event loop: its waits can be cancelled."""

    async def awaited() -> T:
        return await call()

    result: T = await _retried(retry_limits, pays)(awaited)()
    return result


def _retried(retry_limits: RetryLimits, pays: bool) -> Callable[[Any], Any]:
    """The decorator that repeats a function, or a coroutine function, while patience lasts."""

    def waits() -> Generator[float, Any, None]:
        error = yield 0.0
        tries = 1
        while True:
            error = yield wait_s(tries, retry_after_s(error), retry_limits.base_s, retry_limits.cap_s)
            tries += 1

    began = time.monotonic()

    def hopeless(error: Exception) -> bool:
        if pays and isinstance(error, ProviderError) and error.may_be_billed:
            return True
        return (time.monotonic() - began) + (retry_after_s(error) or 0.0) > retry_limits.total_s

    return backoff.on_exception(
        waits,
        RETRIED,
        max_tries=retry_limits.tries,
        max_time=retry_limits.total_s,
        jitter=None,  # already in `wait_s`
        giveup=hopeless,
        logger=None,
    )
