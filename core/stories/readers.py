"""Support for readers of a story that is being written: waiting for text, counting readers, and finding the story after
a reload.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

FIRST_READER_S = 10.0  # time for the page to render and start reading, even on a busy machine

T = TypeVar("T")

_MAX_ITEMS = 100  # rounds of up to four stories: a few megabytes in all


class Subscribers(threading.Condition):
    """New text wakes only readers in `wait_for_words`; the end of a story wakes all.

    Otherwise, a fast model with 100 chunks per second would wake each reader ten times between two screen updates.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting_readers = 0

    def wait_for_words(self, predicate: Callable[[], bool], timeout: float | None = None) -> None:
        """Wait until `predicate` is true, at most `timeout` seconds. The lock must be held, as for `wait_for`."""
        self._waiting_readers += 1
        try:
            self.wait_for(predicate, timeout)
        finally:
            self._waiting_readers -= 1

    def notify_waiting(self) -> None:
        """Wake the readers that wait for text. The lock must be held."""
        if self._waiting_readers:
            self.notify_all()


class ReaderCount:
    """Counts readers and calls `on_idle` some time after the last one has left, or if none ever arrives.

    Args:
        idle_timeout_s: seconds without a reader; if None, `on_idle` is never called.
        on_idle: called in a separate thread, possibly more than once, while there is no reader.
        first_reader_s: minimum seconds to wait for the first reader.
    """

    def __init__(
        self, idle_timeout_s: float | None, on_idle: Callable[[], None], first_reader_s: float = FIRST_READER_S
    ) -> None:
        self._idle_timeout_s, self._on_idle = idle_timeout_s, on_idle
        self._count, self._lock, self._closed = 0, threading.Lock(), False
        if idle_timeout_s is not None:
            self._check_after(max(idle_timeout_s, first_reader_s))

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


class Recent(Generic[T]):
    """The newest `max_items` items by id. Thread-safe."""

    def __init__(self, max_items: int = _MAX_ITEMS) -> None:
        self._max_items, self._lock = max_items, threading.Lock()
        self._by_id: OrderedDict[str, T] = OrderedDict()

    def put(self, key: str, item: T) -> None:
        """Add an item as the newest; the oldest is dropped when there are too many."""
        with self._lock:
            self._by_id[key] = item
            self._by_id.move_to_end(key)
            while len(self._by_id) > self._max_items:
                self._by_id.popitem(last=False)

    def get(self, key: str) -> T | None:
        """The item with this id; None if it was dropped, or belongs to another process."""
        with self._lock:
            return self._by_id.get(key)
