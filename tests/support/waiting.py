"""Helpers for waiting on a condition without fixed sleeps, and for running many threads at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

WAIT_LIMIT_S = 180.0
"""How long a test waits for a condition before it fails. A passing test never waits this long; a busy machine is ten
times slower than an idle one.
"""

_POLL_S = 0.02


def until(look: Callable[[], T | None], what: str | Callable[[], str], timeout_s: float = WAIT_LIMIT_S) -> T:
    """Poll `look()` until it returns a true value; fail with `what`, or what it returns then, at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout_s} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(_POLL_S)
    return found


def at_once(n: int, act: Callable[[], T]) -> list[T]:
    """Run `act` in `n` threads that start together and return the results; raise the first error."""
    start = threading.Barrier(n)

    def run() -> T:
        start.wait()
        return act()

    with ThreadPoolExecutor(n) as threads:
        return [each.result() for each in [threads.submit(run) for _ in range(n)]]


def run_to_end(go: Callable[[], float | None], pause: Callable[[float], object]) -> None:
    """Run an item as the worker does, resuming it after each wait, until it is finished.

    `pause` is called with the seconds; a true return value ends the loop.
    """
    while (wait_s := go()) is not None and not pause(wait_s):
        pass


class InstantStopSignal(threading.Event):
    """A stop signal that does not wait; it records the waiting times."""

    def __init__(self, then: Callable[[int], None] = lambda number: None) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.then = then

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self.then(len(self.waits))
        return self.is_set()
