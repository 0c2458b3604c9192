"""A computation that runs in the background if it is long: few rows inline, many in a thread with progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import streamlit as st

from core.errors import FabulaError
from pages.ui import unexpected_errors
from pages.ui.lang import _, number

T = TypeVar("T")

_AT_ONCE = 5_000  # rows that take less than a second
_LOOK_S = 0.5
_PATIENCE_S = 0.4  # a result within this time is drawn without a flicker


class BackgroundTask(Generic[T]):
    """The result of `make`, which calls its argument once for each row that it has read.

    Args:
        make: computes the result.
        rows: how many it reads.
        asks: it calls an endpoint, so even few rows may take long.
        provisional: whether a result should be replaced after a few seconds. `get` raises what `make` raises; an
            unexpected error becomes a `FabulaError` and is logged.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], None]], T],
        rows: int,
        *,
        asks: bool = False,
        provisional: Callable[[T], bool] = lambda made: False,
    ) -> None:
        self.rows = rows
        self._provisional = provisional
        self.seen = 0
        self.done = False
        self._made: T | None = None
        self._error: FabulaError | None = None
        self._failed_at: float | None = None
        if rows <= _AT_ONCE and not asks:
            self._work(make)
        else:
            thread = threading.Thread(target=self._work, args=(make,), name="background-task", daemon=True)
            thread.start()
            thread.join(_PATIENCE_S)

    def get(self) -> T | None:
        """The result; None while it is being computed.

        Raises:
            FabulaError: why there is no result.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._made if self.done else None

    @property
    def stale(self) -> bool:
        """True if it failed or its result is provisional, and it is time to try again."""
        failed_at = self._failed_at
        return self.done and failed_at is not None and time.monotonic() - failed_at >= unexpected_errors.FAILURE_KEPT_S

    def _count(self) -> None:
        self.seen += 1

    def _work(self, make: Callable[[Callable[[], None]], T]) -> None:
        try:
            self._made = make(self._count)
            if self._provisional(self._made):
                self._failed_at = time.monotonic()
        except Exception as error:
            self._error, self._failed_at = (
                unexpected_errors.as_fabula_error(error, f"looking at {self.rows:,} rows"),
                time.monotonic(),
            )
        finally:
            self.done = True


_unfinished: dict[Hashable, BackgroundTask[Any]] = {}


class CachedTask(Protocol[T]):
    """The interface of a cached function (`st.cache_resource`) that is used here."""

    def __call__(self, *given: Any) -> BackgroundTask[T]: ...

    def clear(self, *given: Any) -> None: ...


def shared_task(cached: CachedTask[T], *given: Any, job: Hashable = None) -> BackgroundTask[T]:
    """The cached task of these arguments; a failed one is kept for a few seconds only.

    `job`: identifies the computation independently of its rows. While it still runs for earlier rows, all visitors get
    that task: rows that arrive every second must not start a thread every second.
    """
    if job is not None and (earlier := _unfinished.get(job)) is not None and not earlier.done:
        return earlier
    work = cached(*given)
    if work.stale:
        cached.clear(*given)
        work = cached(*given)
    if job is not None and not work.done:
        for other in [other for other, its in list(_unfinished.items()) if its.done]:
            _unfinished.pop(other, None)
        _unfinished[job] = work
    return work


def wait_for_task(work: BackgroundTask[T]) -> T | None:
    """The result. Until it is ready, draws a progress bar and reruns the page when it is."""
    if not work.done:
        st.fragment(run_every=_LOOK_S)(_progress)(work)
    return work.get()


def _progress(work: BackgroundTask[T]) -> None:
    if work.done:
        st.rerun()
    sentence = _("Checking rows: {seen} of {rows}").format(seen=number(work.seen), rows=number(work.rows))
    st.progress(min(1.0, work.seen / work.rows), text=sentence)
