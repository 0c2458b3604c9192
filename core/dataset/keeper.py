"""Puts answers into the ledger in groups, durably, beside the event loop; rides out a full disk."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from core.dataset import ledger
from core.dataset.ledger import Outcome
from core.db.store import Store
from core.errors import StorageFull

T = TypeVar("T")
_log = logging.getLogger("fabula.dataset")


class Keeper:
    """One writer for a run. While one group is being written, the next gathers: few commits when many answers come.

    An outcome is in the ledger once `empty` is true again. While the storage cannot be written, `down` is true,
    outcomes are kept in memory, and nothing more may be bought.

    Args:
        store: the ledger.
        pause_s: seconds before a storage that failed is tried again.
    """

    def __init__(self, store: Store, pause_s: float) -> None:
        self._store = store
        self._pause_s = pause_s
        self._outbox: list[Outcome] = []
        self._group: list[Outcome] = []
        self._lock = asyncio.Lock()  # SQLite lets one writer in; a second one would sleep, not queue
        self.task: asyncio.Task[bool] | None = None
        self._retry_at = 0.0

    @property
    def down(self) -> bool:
        """The storage could not be written, and it is not time yet to try again."""
        return time.monotonic() < self._retry_at

    @property
    def empty(self) -> bool:
        """Everything that was added is durably in the ledger."""
        return not self._outbox and not self._group

    def add(self, outcome: Outcome) -> None:
        """Keep this answer."""
        self._outbox.append(outcome)

    def start(self) -> None:
        """Begin to write what has gathered, unless a group is on its way or the storage is down."""
        if self.task is None and self._outbox and not self.down:
            self._group, self._outbox = self._outbox, []
            self.task = asyncio.create_task(self._write(self._group))

    def collect(self) -> None:
        """Take note of a group that has been written, or put it back in front."""
        if self.task is None or not self.task.done():
            return
        task, self.task = self.task, None
        if not task.result():
            self._outbox = self._group + self._outbox
        self._group = []

    async def call(self, work: Callable[[Session], T]) -> T | None:
        """Other work on the ledger, in one transaction with what has gathered; None when the storage is down."""
        if self.down:
            return None
        group, self._outbox = self._outbox, []
        try:
            return await self._settled(group, work)
        except BaseException as exc:
            self._outbox = group + self._outbox  # paid for: whatever went wrong with the other work
            if not isinstance(exc, StorageFull):
                raise
            self._trouble(exc)
            return None

    async def insist(self, work: Callable[[Session], object], until: threading.Event) -> None:
        """Work on the ledger that must happen: tried until it does.

        Raises:
            StorageFull: it could not be done, and `until` is set.
        """
        while True:
            try:
                await self._settled([], work)
                return
            except StorageFull as exc:
                self._trouble(exc)
                if until.is_set():
                    raise
                await asyncio.sleep(self._pause_s)

    async def flush(self, until: threading.Event) -> None:
        """Write everything that was added; raises as `insist` does."""
        if self.task is not None:
            await asyncio.wait([self.task])
            self.collect()
        if self._outbox:
            group = self._outbox
            await self.insist(lambda session: ledger.settle(session, group), until)
            self._outbox = []

    async def _write(self, group: list[Outcome]) -> bool:
        try:
            await self._settled(group, lambda session: None)
        except StorageFull as exc:
            self._trouble(exc)
            return False
        return True

    async def _settled(self, group: list[Outcome], work: Callable[[Session], T]) -> T:
        def both(session: Session) -> T:
            if group:
                ledger.settle(session, group)
            return work(session)

        async with self._lock:
            return await asyncio.to_thread(self._transaction, both)

    def _transaction(self, work: Callable[[Session], T]) -> T:
        with self._store.session() as session:
            return work(session)

    def _trouble(self, error: StorageFull) -> None:
        _log.error("%s %s", error.what, error.next_step)
        self._retry_at = time.monotonic() + self._pause_s
