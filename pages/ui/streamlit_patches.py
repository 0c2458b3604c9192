"""Replaces two parts of Streamlit's server: how it keeps sessions of closed browsers, and data of download buttons.

Streamlit keeps a closed browser's session for two minutes and then drops it without a shutdown: uploaded files and the
data of download buttons stay in memory until the server ends, and the event loop keeps three descriptors until it is
garbage-collected. Here it is kept for a minute, then all its resources are released.

Streamlit discards a button's data when a run re-renders the button, so a click in flight fails ("Deferred file … not
found"). On a page that is re-rendered every second this affects some clicks, on busy cores one in three. Here the data
is kept for a while.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamlit import runtime

if TYPE_CHECKING:
    from streamlit.runtime.session_manager import SessionInfo

KEEP_S = 60.0  # a browser that has lost its connection reconnects within seconds and finds its session
_MOST = 128  # sessions, as in Streamlit

_log = logging.getLogger("fabula.sessions")

_SWEEP_S = 20.0  # a click just before a sweep can still be lost; the data kept until then is small


class ClosingSessionStorage:
    """Streamlit's `SessionStorage`: an expired session is shut down.

    All methods run on the server's event loop, from which Streamlit calls them.

    Args:
        keep_s: seconds for which a session can be resumed.
        most: maximum number of sessions; above it, the one that disconnected first is shut down.
        clock: seconds, monotonic.
    """

    def __init__(self, keep_s: float = KEEP_S, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._most, self._clock = keep_s, most, clock
        self._left: OrderedDict[str, tuple[float, SessionInfo]] = OrderedDict()  # with its expiry time

    def get(self, session_id: str) -> SessionInfo | None:
        """The session, if it has not expired."""
        ends, info = self._left.get(session_id, (0.0, None))
        return info if self._clock() < ends else None

    def save(self, session_info: SessionInfo) -> None:
        """Keep a session whose browser has disconnected."""
        self._left.pop(session_info.session.id, None)
        self._left[session_info.session.id] = (self._clock() + self._keep_s, session_info)
        loop = asyncio.get_running_loop()
        loop.call_soon(self.close_expired)  # not directly, because Streamlit holds a lock here
        loop.call_later(self._keep_s, self.close_expired)

    def delete(self, session_id: str) -> None:
        """Remove a session without closing it: Streamlit resumes it or shuts it down."""
        self._left.pop(session_id, None)

    def list(self) -> list[SessionInfo]:
        """The sessions that can still be resumed."""
        now = self._clock()
        return [info for ends, info in self._left.values() if now < ends]

    def close_expired(self) -> None:
        """Shut down expired sessions, and those above the limit."""
        now = self._clock()
        while self._left:
            session_id, (ends, info) = next(iter(self._left.items()))
            if now < ends and len(self._left) <= self._most:
                return
            del self._left[session_id]
            try:
                info.session.shutdown()
            except Exception:
                _log.exception("A session of a closed browser could not be shut down.")


def close_left_sessions() -> None:
    """Make the running server use this storage."""
    manager = runtime.get_instance()._session_mgr
    manager._session_storage = ClosingSessionStorage()  # type: ignore[attr-defined]  # no setting for it in Streamlit


class ThrottledCleanup:
    """`sweep`, but no sooner than `every_s` seconds after the last time. Safe to call from any thread."""

    def __init__(self, sweep: Callable[[], None], every_s: float = _SWEEP_S) -> None:
        self._sweep, self._every_s = sweep, every_s
        self._lock, self._swept = threading.Lock(), time.monotonic()

    def __call__(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._swept < self._every_s:
                return
            self._swept = now
        self._sweep()


def keep_for_a_while() -> None:
    """Make the running server sweep less often."""
    files = runtime.get_instance().media_file_mgr
    files.remove_orphaned_files = ThrottledCleanup(files.remove_orphaned_files)  # type: ignore[method-assign]
