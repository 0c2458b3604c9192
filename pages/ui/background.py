"""Background work for pages: short work that a page waits for. Long work belongs in the worker.

- `BackgroundTask`: one result, with progress. `shared_task` shares it between visitors; `wait_for_task` renders it.
- `BackgroundIterator`: items as they arrive, until it is stopped.
- `RefreshedReport`: the newest report on rows that change, and the one in progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import streamlit as st

from core.errors import Cancelled, FabulaError
from pages.ui.cache import as_fabula_error, shared, where
from pages.ui.i18n import _, number

P = ParamSpec("P")
T = TypeVar("T")
RowProgress = Callable[[int, int], None]
"""Called with the rows read so far, and their total."""

FAILURE_KEPT_S = 3.0
"""How long a failure is shown before the same work is tried again: a hiccup must not stick, a fault must not spin."""
FEW_ROWS = 5_000
"""Rows that take less than a second: they are read at once, not in a thread."""
TASK_WAIT_S = 0.4
"""A result within this time is drawn without a flicker."""
REPORT_WAIT_S = 0.7
"""The same for reports: a few hundred rows take less."""
_LOOK_S = 0.5
_QUICK_S = 1.0


class _Work:
    """A function that runs in a thread, or synchronously. Base class of the tasks in this module.

    Attributes:
        error: why it ended early; an unexpected error becomes a `FabulaError` and is logged.
    """

    def __init__(self, name: str) -> None:
        self.error: FabulaError | None = None
        self._name = name
        self._failed_at: float | None = None
        self._idle = threading.Event()
        self._idle.set()

    def _run(self, work: Callable[[], None], *, inline: bool = False) -> None:
        self.error, self._failed_at = None, None
        self._idle.clear()
        if inline:
            self._guarded(work)
        else:
            threading.Thread(target=self._guarded, args=(work,), name="page-background", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Wait until the running work ends, for at most this long."""
        self._idle.wait(seconds)

    def _may_retry(self) -> bool:
        """True if the work failed and the failure has been shown for a while."""
        return self._failed_at is not None and time.monotonic() - self._failed_at >= FAILURE_KEPT_S

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._failed_at = time.monotonic()
            self.error = as_fabula_error(error, self._name)
        finally:
            self._idle.set()


class BackgroundTask(_Work, Generic[T]):
    """The result of `make`, which calls its argument once for each row that it has read.

    A few rows are read synchronously, many in a thread.

    Args:
        make: computes the result.
        rows: the number of rows that it reads.
        asks: whether it calls an endpoint, so that even a few rows may take long.
        provisional: whether a result should be replaced after a few seconds.

    `get` raises what `make` raises; an unexpected error becomes a `FabulaError` and is logged.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], None]], T],
        rows: int,
        *,
        asks: bool = False,
        provisional: Callable[[T], bool] = lambda made: False,
    ) -> None:
        super().__init__(f"looking at {rows:,} rows")
        self.rows, self.seen = rows, 0
        self._made: T | None = None

        def compute() -> None:
            self._made = make(self._count)
            if provisional(self._made):
                self._failed_at = time.monotonic()

        self._run(compute, inline=rows <= FEW_ROWS and not asks)
        self.wait(TASK_WAIT_S)

    @property
    def done(self) -> bool:
        """True once there is a result or an error."""
        return self._idle.is_set()

    @property
    def stale(self) -> bool:
        """True if the task failed or its result is provisional, and it is time to try again."""
        return self.done and self._may_retry()

    def get(self) -> T | None:
        """The result; None while it is being computed.

        Raises:
            FabulaError: why there is no result.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self._made if self.done else None

    def _count(self) -> None:
        self.seen += 1


class BackgroundIterator(_Work, Generic[T]):
    """Collects the items of an iterator in a thread.

    A fragment shows `items` until `done`; the page calls `stop()` when the items are no longer needed.

    `make` gets the event that `stop()` sets, so that it can end its own waiting.
    """

    def __init__(self, make: Callable[[threading.Event], Iterator[T]], expected: int) -> None:
        super().__init__("background-iterator")
        self.expected = expected
        self.items: list[T] = []
        self._stop = threading.Event()
        self._run(lambda: self._gather(make))

    @property
    def done(self) -> bool:
        """True when no more items will arrive."""
        return self._idle.is_set()

    def stop(self) -> None:
        """Stop; items so far are kept."""
        self._stop.set()

    def _gather(self, make: Callable[[threading.Event], Iterator[T]]) -> None:
        with suppress(Cancelled):  # the user has pressed Stop
            for item in make(self._stop):
                self.items.append(item)
                if self._stop.is_set():
                    break


class RefreshedReport(_Work, Generic[T]):
    """The newest report on changing rows, and the one in progress. Only one is made at a time, for all visitors.

    Args:
        make: makes a report; it calls its argument with the rows read so far and their total.
        quick_s: a report that takes less time is repeated while rows arrive; a slower one once no more rows arrive.

    Attributes:
        report: the newest report; None before the first.
        error: the error of the last report, which can be retried a few seconds later.
        read, total: progress of the current report, in rows.
    """

    def __init__(self, make: Callable[[RowProgress], T], quick_s: float = _QUICK_S) -> None:
        super().__init__("making a report on rows")
        self.report: T | None = None
        self.read, self.total = 0, 0
        self._make, self._quick_s = make, quick_s
        self._asked_for: str | None = None
        self._took_s = 0.0
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """True while a report is being made."""
        return not self._idle.is_set()

    def fresh(self, fingerprint: str) -> bool:
        """True if the report is about the current rows."""
        return not self.running and self._asked_for == fingerprint

    def ask(self, fingerprint: str, *, calm: bool = False, again: bool = False) -> None:
        """Make a report on the rows of `fingerprint` if needed.

        Args:
            calm: whether a run is adding rows; if so, a slow report is started only if there is none yet.
            again: start a report in any case.
        """
        with self._lock:
            waits = calm and self._took_s >= self._quick_s and self.report is not None
            up_to_date = self._asked_for == fingerprint and not self._may_retry()
            if self.running or (not again and (waits or up_to_date)):
                return
            self._asked_for, self.read, self.total = fingerprint, 0, 0
            self._run(self._compute)

    def _compute(self) -> None:
        started = time.perf_counter()
        try:
            self.report = self._make(self._note)
        finally:
            self._took_s = time.perf_counter() - started

    def _note(self, read: int, total: int) -> None:
        self.read, self.total = read, total


_unfinished: dict[Hashable, BackgroundTask[Any]] = {}


def shared_task(
    *, max_entries: int, key: Callable[..., Hashable], version: Callable[..., Hashable]
) -> Callable[[Callable[P, BackgroundTask[T]]], Callable[P, BackgroundTask[T]]]:
    """Share a task between all visitors; a failed one is kept for only a few seconds.

    While a task still runs for earlier rows, all visitors get that one: otherwise, rows that arrive every second would
    start a thread every second.

    Args:
        max_entries: maximum number of tasks kept.
        key: computes from the arguments what identifies the task, without the state of its rows.
        version: computes the state of the rows from the arguments; the task is repeated when it changes.
    """

    def decorate(start: Callable[P, BackgroundTask[T]]) -> Callable[P, BackgroundTask[T]]:
        cached = shared(max_entries=max_entries, key=lambda *a, **kw: (key(*a, **kw), version(*a, **kw)))(start)

        def task(*args: P.args, **kwargs: P.kwargs) -> BackgroundTask[T]:
            job = (start.__module__, start.__qualname__, key(*args, **kwargs), where())
            earlier = _unfinished.get(job)
            if earlier is not None and not earlier.done:
                return earlier
            work = cached(*args, **kwargs)
            if work.stale:
                cached.clear(*args, **kwargs)
                work = cached(*args, **kwargs)
            if not work.done:
                for other in [other for other, its in list(_unfinished.items()) if its.done]:
                    _unfinished.pop(other, None)
                _unfinished[job] = work
            return work

        return update_wrapper(task, start)

    return decorate


def wait_for_task(work: BackgroundTask[T]) -> T | None:
    """Return the result. Until it is ready, render a progress bar; rerun the page once it is."""
    if not work.done:
        st.fragment(run_every=_LOOK_S)(_progress)(work)
    return work.get()


def _progress(work: BackgroundTask[Any]) -> None:
    if work.done:
        st.rerun()
    sentence = _("Checking rows: {seen} of {rows}").format(seen=number(work.seen), rows=number(work.rows))
    st.progress(min(1.0, work.seen / work.rows), text=sentence)
