"""Where readers of stories wait for words."""

from __future__ import annotations

import threading
from collections.abc import Callable


class News(threading.Condition):
    """Where readers wait. Pieces wake only those who have nothing to show (`awaited`); an end wakes all.

    A hundred pieces a second would otherwise wake a reader ten times between two of its updates.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hungry = 0

    def await_words(self, enough: Callable[[], bool], timeout: float | None = None) -> None:
        """Until `enough`, or so many seconds; called with the lock held, as `wait_for` is."""
        self._hungry += 1
        try:
            self.wait_for(enough, timeout)
        finally:
            self._hungry -= 1

    def came(self) -> None:
        """A piece has come; called with the lock held."""
        if self._hungry:
            self.notify_all()
