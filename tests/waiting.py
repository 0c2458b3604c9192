"""Waiting for something real (a process, a thread) without sleeping for a guess; and many threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

WAIT_LIMIT_S = 180.0
"""How long a test waits for a condition before it fails. A test that passes never waits so long; a busy machine is
ten times slower than a quiet one."""

_POLL_S = 0.02


def until(look: Callable[[], T | None], what: str, timeout_s: float = WAIT_LIMIT_S) -> T:
    """The first true answer of `look()`; fails, naming `what`, when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(_POLL_S)
    return found


def at_once(n: int, act: Callable[[], T]) -> list[T]:
    """What `act` returns in each of `n` threads that begin together; the first error, where one fails."""
    start = threading.Barrier(n)

    def run() -> T:
        start.wait()
        return act()

    with ThreadPoolExecutor(n) as threads:
        return [each.result() for each in [threads.submit(run) for _ in range(n)]]


def run_to_end(go: Callable[[], float | None], pause: Callable[[float], object]) -> None:
    """Go on with a piece of work as the worker does: again after each wait, until it waits no more.

    `pause` is called with the seconds; a true answer ends it.
    """
    while (wait_s := go()) is not None and not pause(wait_s):
        pass
