"""Where readers of stories wait for words."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Subscribers(threading.Condition):
    """Where readers wait. Pieces wake only those who have nothing to show (`awaited`); an end wakes all.

    A hundred pieces a second would otherwise wake a reader ten times between two of its updates.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting_readers = 0

    def wait_for_words(self, enough: Callable[[], bool], timeout: float | None = None) -> None:
        """Until `enough`, or so many seconds; called with the lock held, as `wait_for` is."""
        self._waiting_readers += 1
        try:
            self.wait_for(enough, timeout)
        finally:
            self._waiting_readers -= 1

    def notify_waiting(self) -> None:
        """A piece has come; called with the lock held."""
        if self._waiting_readers:
            self.notify_all()
