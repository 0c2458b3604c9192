"""Who reads a story, and what happens when nobody does any more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_ARRIVE_S = 10.0  # a first reader comes when the page is drawn, on a busy machine too; later it does not come at all


class ReaderCount:
    """Counts readers; some time after the last one has gone, or when none ever comes, `left` is called.

    Args:
        leave_s: that time in seconds; None: a story is written whether somebody reads it or not.
        left: called in a thread of its own, maybe more than once, while nobody reads.
    """

    def __init__(self, leave_s: float | None, left: Callable[[], None]) -> None:
        self._leave_s, self._left = leave_s, left
        self._count, self._lock, self._over = 0, threading.Lock(), False
        if leave_s is not None:
            self._look(max(leave_s, _ARRIVE_S))

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Somebody reads, for the length of the block."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
            if self._leave_s is not None and not self._over:
                self._look(self._leave_s)

    def hold(self, seconds: float) -> None:
        """Count one reader more for so many seconds: one who is expected back."""
        reading = contextlib.ExitStack()
        reading.enter_context(self.one())
        timer = threading.Timer(seconds, reading.close)
        timer.daemon = True
        timer.start()

    def forget(self) -> None:
        """The story has ended: nobody is looked for any more."""
        self._over = True

    def _look(self, after_s: float) -> None:
        timer = threading.Timer(after_s, self._leave)
        timer.daemon = True
        timer.start()

    def _leave(self) -> None:
        with self._lock:
            gone = not self._count and not self._over
        if gone:
            self._left()
