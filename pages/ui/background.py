"""Short work that a page waits for, in a thread of its own: a preview, a connection test. Long work is the worker's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.errors import FabulaError
from pages.ui import unexpected

T = TypeVar("T")


class Gathering(Generic[T]):
    """Items of an iterator as they come: watch `items` and `done` from a fragment, `stop()` it when nobody waits.

    `error` says why it ended early; an error that is none of the family is told as one, and logged.
    """

    def __init__(self, make: Callable[[], Iterator[T]], expected: int) -> None:
        self.expected = expected
        self.items: list[T] = []
        self.error: FabulaError | None = None
        self.done = False
        self._stopped = False
        threading.Thread(target=self._gather, args=(make,), name="gathering", daemon=True).start()

    def stop(self) -> None:
        """No more items after the one that is being made."""
        self._stopped = True

    def _gather(self, make: Callable[[], Iterator[T]]) -> None:
        try:
            for item in make():
                if self._stopped:
                    break
                self.items.append(item)
        except Exception as error:
            self.error = unexpected.told(error, "gathering")
        finally:
            self.done = True
