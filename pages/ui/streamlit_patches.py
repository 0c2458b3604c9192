"""Replaces four parts of Streamlit's server: how it keeps sessions of closed browsers, and data of download buttons,
how many scripts it runs at the same time, and how often it checks its configuration files.

Streamlit keeps a closed browser's session for two minutes and then drops it without a shutdown: uploaded files and the
data of download buttons stay in memory until the server ends, and the event loop keeps three descriptors until it is
garbage-collected. Here it is kept for a minute, then all its resources are released.

Streamlit discards a button's data when a run re-renders the button, so a click in flight fails ("Deferred file … not
found"). On a page that is re-rendered every second this affects some clicks, on busy cores one in three. Here the data
is kept for a while.

Streamlit runs the scripts of all tabs at once, and Python runs one thread at a time: with 25 viewers, threads that wait
for the interpreter while they hold a lock stop all others. Here only a few scripts run at the same time.

Streamlit checks five times per second whether someone has edited its configuration or secrets, also with
`fileWatcherType = "none"`; on an idle server that is a tenth of the CPU time. Here it checks every few seconds.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from streamlit import config, runtime
from streamlit.runtime.scriptrunner import script_runner
from streamlit.watcher import polling_path_watcher

if TYPE_CHECKING:
    from streamlit.runtime.session_manager import SessionInfo

KEEP_S = 60.0  # a browser that has lost its connection reconnects within seconds and finds its session
_MOST = 128  # sessions, as in Streamlit

_AT_ONCE = 2  # scripts: one that computes, and one that waits for the database
_SHORT_S = 0.5  # a script that runs for longer waits for something, such as a story, and keeps no other waiting
P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger("fabula.sessions")

_FILE_CHECK_S = 5.0
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


class ScriptLimit:
    """Limits how many scripts run at the same time. Thread-safe.

    Args:
        at_once: maximum number of running scripts.
        short_s: seconds after which a running script no longer counts.
        clock: seconds, monotonic.
    """

    def __init__(
        self, at_once: int = _AT_ONCE, short_s: float = _SHORT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once, self._short_s, self._clock = at_once, short_s, clock
        self._changed = threading.Condition()
        self._begun: dict[object, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Wait until a script may run, and count it as running during the block."""
        script = object()
        with self._changed:
            while (wait_s := self._wait_s()) > 0:
                self._changed.wait(wait_s)
            self._begun[script] = self._clock()
        try:
            yield
        finally:
            with self._changed:
                del self._begun[script]
                self._changed.notify()

    def _wait_s(self) -> float:
        """Seconds until the next script no longer counts; 0 if another one may run."""
        now = self._clock()
        counted = [begun for begun in self._begun.values() if begun > now - self._short_s]
        return 0.0 if len(counted) < self._at_once else min(counted) + self._short_s - now


def limit_scripts() -> None:
    """Make the running server run only a few scripts at the same time."""
    runner: Any = script_runner  # it only imports the function
    if not hasattr(runner.exec_func_with_error_handling, "__wrapped__"):
        runner.exec_func_with_error_handling = _limited(runner.exec_func_with_error_handling)


def _limited(run: Callable[P, T]) -> Callable[P, T]:
    limit = ScriptLimit()

    @functools.wraps(run)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        with limit.running():
            return run(*args, **kwargs)

    return limited


def check_files_rarely() -> None:
    """Make the running server check its configuration files less often; with `make dev`, as often as usual."""
    if config.get_option("server.fileWatcherType") == "none":
        polling_path_watcher._POLLING_PERIOD_SECS = _FILE_CHECK_S  # type: ignore[misc]  # no setting for it
