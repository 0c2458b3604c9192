"""Retries of provider calls: which errors are repeated, how often, and how long to wait in between.

`core.errors.Transient` covers errors that may not occur on a later call. A single request is retried for a minute
(`with_retries`); a background job can wait for minutes, shows the reason, and stops on request (`call_with_retries`);
runs and batches schedule their own requests and only need to know how long to wait (`RetryPolicy.wait_s`).

Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import backoff

from core.errors import FabulaError, Transient

T = TypeVar("T")

_STOP_POLL_S = 0.5  # a stopped job stops waiting within this time


class RetryLater(Exception):
    """Resume this job after `seconds`, possibly in another worker, because it is waiting for something slow.

    Raise this only when everything the job needs is in the ledger.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nothing to do for {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to repeat a call, and how long to wait in between. The defaults are for a single request.

    Attributes:
        tries: maximum number of calls; None means no limit.
        base_s, cap_s: the first wait is at most `base_s`; the bound doubles with each further one, up to `cap_s`.
        jitter: whether waits are random, up to their bound, so that many requests are not repeated at the same moment.
        total_s: limit on the total time for all calls and waits; applies to `with_retries`.
        max_retry_after_s: if a server asks for a longer wait, it is not called again; applies to `call_with_retries`.
    """

    tries: int | None = 5
    base_s: float = 0.5
    cap_s: float = 20.0
    jitter: bool = True
    total_s: float = 60.0
    max_retry_after_s: float = math.inf

    def wait_s(self, tries: int, retry_after_s: float | None = None) -> float:
        """Seconds to wait before the next call, after `tries` (≥ 1) failed calls.

        A server's `retry-after` is respected, plus up to a tenth of it (at most `base_s`) as jitter. Without jitter,
        the wait equals the bound, or `retry_after_s` if that is longer.
        """
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(tries - 1, 30))
        if not self.jitter:
            return max(retry_after_s or 0.0, bound_s)
        if retry_after_s is None:
            return float(backoff.full_jitter(bound_s))
        spread_s = min(self.base_s, retry_after_s / 10) if retry_after_s >= self.base_s else self.base_s
        return float(retry_after_s + backoff.full_jitter(spread_s))


BACKGROUND = RetryPolicy(tries=12, base_s=2.0, cap_s=30.0, jitter=False, max_retry_after_s=120.0)
"""Policy for `call_with_retries`: the waits add up to about four minutes."""


def is_transient(error: FabulaError) -> bool:
    """Whether the same call may succeed later: the provider is unavailable or has reached its rate limit."""
    return isinstance(error, Transient)


def with_retries(call: Callable[[], T], policy: RetryPolicy, *, paid: bool = False) -> T:
    """Return `call()`, retried after transient errors. Only for calls that are safe to repeat.

    Args:
        call: one attempt.
        policy: limits on time and number of calls.
        paid: whether each attempt costs money. If so, it is repeated only after errors that were certainly not billed;
            a request that timed out may have been.

    Raises:
        ProviderError: the last error, when a limit is reached or the server asks for a longer wait than the remaining
            time.
    """
    result: T = _retrying(policy, paid)(call)()
    return result


async def with_retries_async(call: Callable[[], Awaitable[T]], policy: RetryPolicy, *, paid: bool = False) -> T:
    """`with_retries` for the running event loop; waits can be cancelled."""

    async def awaited() -> T:
        return await call()

    result: T = await _retrying(policy, paid)(awaited)()
    return result


def call_with_retries(
    call: Callable[[], T],
    *,
    pause: Callable[[float], object],
    note: Callable[[FabulaError | None], object],
    policy: RetryPolicy = BACKGROUND,
    retryable: Callable[[FabulaError], bool] = is_transient,
) -> T:
    """Return `call()`, retrying it in a background job while it raises a retryable error.

    Args:
        call: a call that is safe to repeat.
        pause: waits the given number of seconds (see `interruptible_pause`); an exception from it ends the retries.
        note: called with the error before each pause, and with None once a retry has succeeded.
        policy: limits on the number of calls and the length of the pauses.
        retryable: decides whether an error is worth another call.

    Raises:
        FabulaError: the error of the last call, or one that is not retryable.
    """
    for tries in count(1):
        try:
            result = call()
        except FabulaError as exc:
            retry_after_s = exc.retry_after_s if isinstance(exc, Transient) else None
            if tries == policy.tries or (retry_after_s or 0.0) > policy.max_retry_after_s or not retryable(exc):
                raise
            note(exc)
            pause(policy.wait_s(tries, retry_after_s))
        else:
            if tries > 1:
                note(None)
            return result
    raise AssertionError("the last call returns or raises")


def interruptible_pause(stopping: threading.Event, check: Callable[[], object]) -> Callable[[float], None]:
    """Create a pause for `call_with_retries` that ends when `check` raises; `check` is called at least twice per
    second.
    """

    def pause(seconds: float) -> None:
        while seconds > 0:
            stopping.wait(min(_STOP_POLL_S, seconds))
            check()
            seconds -= _STOP_POLL_S

    return pause


def _retrying(policy: RetryPolicy, paid: bool) -> Callable[[Any], Any]:
    """A decorator that retries a function or coroutine function within the limits."""

    def waits() -> Generator[float, Any, None]:
        error = yield 0.0
        for tries in count(1):
            error = yield policy.wait_s(tries, error.retry_after_s)

    started = time.monotonic()

    def give_up(error: Any) -> bool:
        elapsed_s = time.monotonic() - started
        return (paid and error.may_be_billed) or elapsed_s + (error.retry_after_s or 0.0) > policy.total_s

    return backoff.on_exception(
        waits,
        Transient,
        max_tries=policy.tries,
        max_time=policy.total_s,
        jitter=None,  # `wait_s` already includes jitter
        giveup=give_up,
        logger=None,
    )
