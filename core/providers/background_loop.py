"""One asyncio event loop in a daemon thread, for requests that a synchronous caller may want to cancel at any moment.

A thread that blocks in a socket call cannot be interrupted, and while it looks a name up or connects there is no socket
to shut down. A task on an event loop is cancelled in every one of these states.
"""

from __future__ import annotations

import asyncio
import threading

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
