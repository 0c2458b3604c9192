"""The models that providers offer; a provider that failed is not queried again until the result could be different.

After a temporary failure (no connection, 429, 5xx), the waiting time increases with each attempt. A lasting failure (a
refused key, an address without an API) is remembered until the provider's settings change or `forget` is called:
another request would fail in the same way, and some providers block a key that is refused too often.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.errors import BadRequest, Misconfigured, Refused, Transient, WrongAddress
from core.providers.retry import RetryPolicy
from core.providers.schemas import ModelInfo, Provider

_WAITS = RetryPolicy(base_s=10.0, cap_s=300.0, jitter=False)


@dataclass(frozen=True, slots=True)
class _Failure:
    """The most recent error from a provider that failed; `count` is the number of consecutive failures."""

    provider: Provider
    error: Exception
    count: int
    ask_again_at: float


class ModelLists:
    """Queries providers for their models and remembers failures. Thread-safe.

    Args:
        clock: monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, _Failure] = {}
        self._lock = threading.Lock()

    def of(self, provider: Provider, ask: Callable[[], Sequence[ModelInfo]]) -> Sequence[ModelInfo]:
        """Return a provider's models by calling `ask()`, unless that failed with these settings and would fail again.

        Raises:
            Exception: the error that `ask` raised when it was last called.
        """
        last = self._failures.get(provider.id)
        if last is not None and last.provider != provider:
            last = None
        if last is not None and self._clock() < last.ask_again_at:
            raise last.error.with_traceback(None)  # otherwise the traceback would grow with every call
        try:
            models = ask()
        except Exception as error:
            count = 1 if last is None else last.count + 1
            again_at = self._clock() + _wait_s(provider, error, count)
            with self._lock:
                self._failures[provider.id] = _Failure(provider, error, count, again_at)
            raise
        self.forget(provider.id)
        return models

    def forget(self, provider_id: str | None = None) -> None:
        """Query this provider again at the next `of`; None means all providers."""
        with self._lock:
            if provider_id is None:
                self._failures.clear()
            else:
                self._failures.pop(provider_id, None)


def _wait_s(provider: Provider, error: Exception, count: int) -> float:
    if is_lasting(error):
        return math.inf
    if provider.capabilities.engine_api:
        return 0.0  # the engine belongs to this studio and may come up at any moment
    return _WAITS.wait_s(count, error.retry_after_s if isinstance(error, Transient) else None)


def is_lasting(error: Exception) -> bool:
    """Whether only the user can fix the error. An unknown host name or an expired certificate may be temporary."""
    if isinstance(error, Misconfigured):
        return isinstance(error, WrongAddress)
    return isinstance(error, Refused | BadRequest)
