"""Calls to an account in the background: within its rate limits, retried, and stopped within a second.

When the account asks to slow down, all threads wait, so that none of them makes it worse.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import AccountArchive
from core.errors import FabulaError, RateLimited, Transient
from core.migrate import accounts
from core.providers.account_reader import Source
from core.providers.retry import BACKGROUND, RetryPolicy, call_with_retries, interruptible_pause

T = TypeVar("T")

_MIN_WAIT_S, _MAX_WAIT_S = 30.0, 600.0  # between attempts of the worker, when the account cannot be reached
_LOOK_S = 0.5  # how often a person's stop is looked up
RETRIES = replace(BACKGROUND, tries=8)
"""Policy for one call; its waits add up to about two and a half minutes. Afterwards, the worker tries again later."""


class Stopped(Exception):
    """The worker is stopping, or a person stopped the archive."""


class Calls:
    """The calls for one account. Safe to share between threads.

    Args:
        stopping: set when the worker stops.
        policy: how often a call is repeated.
    """

    def __init__(
        self,
        store: Store,
        archive_id: str,
        reader: Source,
        stopping: threading.Event,
        policy: RetryPolicy = RETRIES,
    ) -> None:
        self.store, self.archive_id, self.reader = store, archive_id, reader
        self._stopping, self._policy = stopping, policy
        self._slow_until = 0.0  # monotonic seconds
        self._next_look = 0.0
        self._stopped = False
        self._noted = False
        self._lock = threading.Lock()
        self._pause = interruptible_pause(stopping, self.check)

    def check(self) -> None:
        """Raise Stopped if the work should stop."""
        if self._stopping.is_set() or self._stopped:
            raise Stopped
        with self._lock:
            if time.monotonic() < self._next_look:
                return
            self._next_look = time.monotonic() + _LOOK_S
        with self.store.reading() as session:
            state = session.scalar(select(AccountArchive.state).where(AccountArchive.id == self.archive_id))
        if state == "stopping":
            self._stopped = True
            raise Stopped

    def __call__(self, call: Callable[[], T]) -> T:
        """Return `call()`, retried while its error may pass.

        Raises:
            Stopped: the work should stop.
            ProviderError: the last error.
        """

        def one() -> T:
            self.check()
            if (wait_s := self._slow_until - time.monotonic()) > 0:
                self._pause(wait_s)
            try:
                return call()
            except RateLimited as exc:
                self._slow_until = max(self._slow_until, time.monotonic() + (exc.retry_after_s or 0.0))
                raise

        result = call_with_retries(one, pause=self._pause, note=self._note, policy=self._policy)
        if self._noted:
            self._note(None)
        return result

    def _note(self, error: FabulaError | None) -> None:
        """Show what the work waits for."""
        self._noted = error is not None
        accounts.note(self.store, self.archive_id, None if error is None else error.what)


def wait_s(error: Transient) -> float:
    """Seconds until the worker tries again after a call has failed for minutes."""
    return min(_MAX_WAIT_S, max(_MIN_WAIT_S, error.retry_after_s or 0.0))
