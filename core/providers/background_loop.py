"""One asyncio event loop in a daemon thread, for requests that a synchronous caller may want to cancel at any moment.

A thread that blocks in a socket call cannot be interrupted, and while it looks a name up or connects there is no socket
to shut down. A task on an event loop is cancelled in every one of these states.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any, TypeVar

from core.errors import Cancelled

T = TypeVar("T")

_LOOK_S = 0.1  # how soon a stop ends a request
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, started on first use. It runs until the process ends."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="provider-streams", daemon=True).start()
        return _loop


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The same loop where it has been started; None before."""
    return _loop


def call_until(stop: threading.Event, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `request()` returns on the background loop; it is cancelled as soon as `stop` is set.

    Raises:
        Cancelled: it was stopped. `may_be_billed` says whether it may have been sent.
    """
    if stop.is_set():
        raise Cancelled(may_be_billed=False)
    future = asyncio.run_coroutine_threadsafe(request(), background_loop())
    while not wait([future], _LOOK_S).done:
        if stop.is_set():
            future.cancel()
            raise Cancelled
    return future.result()
