"""Background work calls a provider again while it starts, is away or is busy, and says meanwhile what it waits for.

`core.providers` retries each request for a minute or two by itself; this is for work that can wait longer than that.
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
    """How often to call, and how long to pause in between. The defaults add up to about four minutes.

    Attributes:
        tries: calls in all.
        first_pause_s: after the first call; each further pause is twice as long.
        longest_pause_s: of those pauses; a `retry-after` may be longer.
        longest_retry_after_s: a provider that asks for a longer pause is not called again.
    """

    tries: int = 12
    first_pause_s: float = 2.0
    longest_pause_s: float = 30.0
    longest_retry_after_s: float = 120.0


def transient(error: FabulaError) -> bool:
    """Whether the same call may succeed later: the provider is away, or asks to slow down."""
    return isinstance(error, (RateLimited, Unavailable))


def call_with_retries(
    call: Callable[[], T],
    *,
    pause: Callable[[float], object],
    note: Callable[[str | None], object],
    policy: RetryPolicy = RetryPolicy(),
    retryable: Callable[[FabulaError], bool] = transient,
) -> T:
    """What `call` returns, called again while it raises a retryable error.

    Args:
        call: safe to repeat.
        pause: waits for so many seconds; what it raises ends the retries.
        note: is told what the work waits for, and None once it goes on.
        policy: how often and how long.
        retryable: which errors are worth another call.

    Raises:
        FabulaError: of the last call, or one that is not retryable.
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
