"""Retries provider calls of background jobs while the provider is starting, unavailable or busy.

`core.providers` itself retries each request for a minute or two; this is for jobs that can wait longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from core.errors import FabulaError, RateLimited, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number of attempts and pauses between them. The defaults add up to about four minutes.

    Attributes:
        tries: total number of calls.
        first_pause_s: pause after the first call; each further pause is twice as long.
        longest_pause_s: upper limit of these pauses; a `retry-after` may be longer.
        longest_retry_after_s: a provider that asks for a longer pause is not called again.
    """

    tries: int = 12
    first_pause_s: float = 2.0
    longest_pause_s: float = 30.0
    longest_retry_after_s: float = 120.0


def transient(error: FabulaError) -> bool:
    """Whether the same call may succeed later: the provider is unavailable or rate-limits."""
    return isinstance(error, (RateLimited, Unavailable))


def call_with_retries(
    call: Callable[[], T],
    *,
    pause: Callable[[float], object],
    note: Callable[[str | None], object],
    policy: RetryPolicy = RetryPolicy(),
    retryable: Callable[[FabulaError], bool] = transient,
) -> T:
    """Return the result of `call`, retrying it while it raises a retryable error.

    Args:
        call: safe to repeat.
        pause: waits the given number of seconds; an exception from it ends the retries.
        note: called with the error's text before each pause, and with None once a retry has succeeded.
        policy: number of attempts and length of the pauses.
        retryable: decides whether an error is worth another call.

    Raises:
        FabulaError: the error of the last call, or one that is not retryable.
    """
    for tries in count(1):
        try:
            result = call()
        except FabulaError as exc:
            retry_after_s = getattr(exc, "retry_after_s", None) or 0.0
            if tries >= policy.tries or retry_after_s > policy.longest_retry_after_s or not retryable(exc):
                raise
            note(exc.what)
            pause(max(retry_after_s, min(policy.longest_pause_s, policy.first_pause_s * 2 ** (tries - 1))))
        else:
            if tries > 1:
                note(None)
            return result
    raise AssertionError("the last call returns or raises")
