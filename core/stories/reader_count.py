"""Counts the readers of a story and reports when there are none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_FIRST_READER_S = 10.0  # time for the page to render and start reading, even on a busy machine


class ReaderCount:
    """Counts readers and calls `on_idle` some time after the last one has left, or if none ever arrives.

    Args:
        idle_timeout_s: seconds without a reader; None: `on_idle` is never called.
        on_idle: called in a separate thread, possibly more than once, while there is no reader.
    """

    def __init__(self, idle_timeout_s: float | None, on_idle: Callable[[], None]) -> None:
        self._idle_timeout_s, self._on_idle = idle_timeout_s, on_idle
        self._count, self._lock, self._closed = 0, threading.Lock(), False
        if idle_timeout_s is not None:
            self._check_after(max(idle_timeout_s, _FIRST_READER_S))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Count one reader for the duration of the block."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
            if self._idle_timeout_s is not None and not self._closed:
                self._check_after(self._idle_timeout_s)

    def keep_alive(self, seconds: float) -> None:
        """Count one more reader for this many seconds, for a page that is being reloaded."""
        reader = contextlib.ExitStack()
        reader.enter_context(self.reading())
        timer = threading.Timer(seconds, reader.close)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Stop counting: the story has ended."""
        self._closed = True

    def _check_after(self, after_s: float) -> None:
        timer = threading.Timer(after_s, self._check)
        timer.daemon = True
        timer.start()

    def _check(self) -> None:
        with self._lock:
            idle = not self._count and not self._closed
        if idle:
            self._on_idle()
