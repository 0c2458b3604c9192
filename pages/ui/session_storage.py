"""Keeps the sessions of closed browsers for a minute, then releases all their resources.

Streamlit keeps them for two minutes and then drops them without a shutdown: uploaded files and the data of download
buttons stay in memory until the server ends, and the event loop keeps three descriptors until it is garbage-collected.
"""

from __future__ import annotations

import asyncio
import logging
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
        loop.call_soon(self.close_expired)  # not here: Streamlit holds a lock
        loop.call_later(self._keep_s, self.close_expired)

    def delete(self, session_id: str) -> None:
        """Remove a session without closing it: Streamlit resumes it or shuts it down."""
        self._left.pop(session_id, None)

    def list(self) -> list[SessionInfo]:
        """Those that can still be resumed."""
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
