"""One thing that is worked out beside the page when it takes long: few rows at once, many in a thread with progress."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import streamlit as st

from core.errors import FabulaError
from pages.ui.lang import _, number

T = TypeVar("T")

_AT_ONCE = 5_000  # rows that take less than a second
_LOOK_S = 0.5
_PATIENCE_S = 0.4  # what is there by then is there without a flicker


class Beside(Generic[T]):
    """The answer of `make`, which calls what it is given once for each row that it has seen.

    Args:
        make: works the answer out.
        rows: how many it looks at.
        asks: it asks an endpoint, so that few rows may take long too.

    Raises:
        FabulaError: what `make` raised, where there are few rows; where there are many, `get` raises it.
    """

    def __init__(self, make: Callable[[Callable[[], None]], T], rows: int, *, asks: bool = False) -> None:
        self.rows = rows
        self.seen = 0
        self.done = False
        self._made: T | None = None
        self._error: FabulaError | None = None
        if rows <= _AT_ONCE and not asks:
            self._made = make(self._count)
            self.done = True
        else:
            thread = threading.Thread(target=self._work, args=(make,), name="beside", daemon=True)
            thread.start()
            thread.join(_PATIENCE_S)

    def get(self) -> T | None:
        """The answer; None while it is being worked out.

        Raises:
            FabulaError: there is none, and why.
        """
        if self._error is not None:
            raise self._error
        return self._made if self.done else None

    def _count(self) -> None:
        self.seen += 1

    def _work(self, make: Callable[[Callable[[], None]], T]) -> None:
        try:
            self._made = make(self._count)
        except FabulaError as error:
            self._error = error
        finally:
            self.done = True


def wait(work: Beside[T]) -> T | None:
    """The answer; while there is none yet, a bar with how far it is, and the page is drawn again when it is there."""
    if not work.done:
        st.fragment(run_every=_LOOK_S)(_progress)(work)
    return work.get()


def _progress(work: Beside[T]) -> None:
    if work.done:
        st.rerun()
    sentence = _("Looking at the rows: {seen} of {rows}").format(seen=number(work.seen), rows=number(work.rows))
    st.progress(min(1.0, work.seen / work.rows), text=sentence)
