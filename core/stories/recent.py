"""The latest stories of this process by id, so that a reloaded page finds the ones it showed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

_MAX_ITEMS = 100  # rounds of up to four stories: a few megabytes in all


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
        """The item with this id; None: it was dropped, or belongs to another process."""
        with self._lock:
            return self._by_id.get(key)
