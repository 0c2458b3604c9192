"""What this process wrote last, by id: a page that is loaded again finds the stories that it showed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST = 100  # rounds of up to four stories: a few megabytes in all


class Recent(Generic[T]):
    """The newest `most` things, by id. Safe to use from several threads."""

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._lock = most, threading.Lock()
        self._by_id: OrderedDict[str, T] = OrderedDict()

    def put(self, key: str, thing: T) -> None:
        """Keep it as the newest one; the oldest is dropped when there are too many."""
        with self._lock:
            self._by_id[key] = thing
            self._by_id.move_to_end(key)
            while len(self._by_id) > self._most:
                self._by_id.popitem(last=False)

    def get(self, key: str) -> T | None:
        """The thing with this id; None: it was dropped, or another process has it."""
        with self._lock:
            return self._by_id.get(key)
