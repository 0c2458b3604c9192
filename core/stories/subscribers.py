"""A condition on which readers wait for new story text."""

from __future__ import annotations

import threading
from collections.abc import Callable


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
