"""One asyncio event loop in a daemon thread, for requests that a synchronous caller may cancel at any time.

A thread that blocks in a socket call cannot be interrupted, and during name lookup or connecting there is no socket to
shut down. A task on an event loop can be cancelled in each of these states.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any, TypeVar

from core.errors import Cancelled

T = TypeVar("T")

_POLL_S = 0.1  # latency of a stop
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process, started on first use; it runs until the process exits."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="provider-streams", daemon=True).start()
        return _loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The same loop if it was started; else None."""
    return _loop


def call_until(stop: threading.Event, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `request()` on the background loop and return its result; cancels it as soon as `stop` is set.

    Raises:
        Cancelled: it was stopped. `may_be_billed`: it may have been sent.
    """
    if stop.is_set():
        raise Cancelled(may_be_billed=False)
    future = asyncio.run_coroutine_threadsafe(request(), background_loop())
    while not wait([future], _POLL_S).done:
        if stop.is_set():
            future.cancel()
            raise Cancelled
    return future.result()
