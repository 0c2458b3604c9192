"""Keeps the data of download buttons for a while after they are drawn again.

Streamlit discards a button's data when a run redraws the button, so a click in flight fails ("Deferred file … not
found"). On a page that is redrawn every second this affects some clicks, on busy cores one in three.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from streamlit import runtime

_SWEEP_S = 20.0  # a click just before a sweep can still be lost; the data kept until then is small


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
