"""Short work that a page waits for, in a background thread: a preview, a connection test.

Long work belongs to the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.errors import Cancelled, FabulaError
from pages.ui import unexpected_errors

T = TypeVar("T")


class BackgroundIterator(Generic[T]):
    """Items of an iterator as they arrive: watch `items` and `done` from a fragment, call `stop()` when they are no
    longer needed.

    `make` gets the event that `stop()` sets, so that it can end its own waiting.

    `error` says why it ended early; an unexpected error becomes a `FabulaError` and is logged.
    """

    def __init__(self, make: Callable[[threading.Event], Iterator[T]], expected: int) -> None:
        self.expected = expected
        self.items: list[T] = []
        self.error: FabulaError | None = None
        self.done = False
        self._stop = threading.Event()
        threading.Thread(target=self._gather, args=(make,), name="background-iterator", daemon=True).start()

    def stop(self) -> None:
        """Stop; items so far are kept."""
        self._stop.set()

    def _gather(self, make: Callable[[threading.Event], Iterator[T]]) -> None:
        try:
            for item in make(self._stop):
                self.items.append(item)
                if self._stop.is_set():
                    break
        except Cancelled:
            pass  # the user has pressed Stop
        except Exception as error:
            self.error = unexpected_errors.as_fabula_error(error, "background-iterator")
        finally:
            self.done = True
