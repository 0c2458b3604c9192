"""Writes answers to the database durably, in groups, without blocking the event loop.

While the disk is full, answers are kept in memory and in a rescue file. When the database is lost (deleted, damaged,
or no longer writable), the run ends and its answers stay in the rescue file until the next start.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from core import metrics
from core.db.rescue_files import Entry, RescueFile
from core.db.storage_errors import DatabaseFileCheck, storage_fault
from core.db.store import Store
from core.errors import DatabaseLost, StorageFull
from core.generation import reservations, row_store
from core.generation.row_store import RowOutcome

T = TypeVar("T")
_GATHER_S = 0.001  # a small group waits this long for more answers; slots stay occupied until their answers are durable
_SMALL_GROUP = 16  # number of answers up to which a group is small
_log = logging.getLogger("fabula.dataset")


class SendMarks(Protocol):
    """Requests that must be durably marked as sent before they are sent."""

    @property
    def wanted(self) -> bool:
        """Whether `take` would return anything."""

    def take(self) -> tuple[Sequence[int], Sequence[int]]:
        """Take the ledger entries to mark as sent, and those refused without a bill, whose mark must be cleared."""

    def written(self, missing: set[int] | None) -> None:
        """Handle the end of a write: all entries taken were written except the `missing` ones (None: nothing was
        written).
        """


class GroupCommitWriter:
    """The writer of one run. While a group is being written, the next one is collected, so a busy run needs few
    commits.

    An outcome is durable once `unrecorded` no longer counts it. While the storage is not writable, `down` is true,
    outcomes are kept in memory and in a rescue file, and no requests may be sent.

    Args:
        store: the database.
        pause_s: seconds before a failed write is retried.
        on_recorded: called on the event loop after each group that was written.
        marks: the requests to mark as sent; read when each group is taken, so that marks need no separate commits while
            answers arrive.
        entry: creates the rescue file entry for an outcome.
        claimant: who has claimed the rows; see `row_store.settle`.

    Attributes:
        lost: why this run considers the database lost; set once. Later outcomes go only into the rescue file.
    """

    def __init__(
        self,
        store: Store,
        pause_s: float,
        on_recorded: Callable[[], None] = lambda: None,
        marks: SendMarks | None = None,
        *,
        entry: Callable[[RowOutcome], Entry],
        claimant: str,
    ) -> None:
        self._store, self._claimant = store, claimant
        self._pause_s = pause_s
        self._on_recorded = on_recorded
        self._marks = marks
        self._entry = entry
        self._rescue = RescueFile(store.home)
        self._rescued: set[int] = set()  # spend ledger entries whose outcomes are in the rescue file
        self.lost: DatabaseLost | None = None
        self._outbox: list[RowOutcome] = []
        self._group: list[RowOutcome] = []
        self._lock = asyncio.Lock()  # SQLite allows one writer; a second one would sleep instead of queueing
        self._writing: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._file: DatabaseFileCheck | None = None  # the check of the connection's database file
        self._retry_at = 0.0

    @property
    def down(self) -> bool:
        """Whether a write has failed and it is not yet time to retry."""
        return self.lost is not None or time.monotonic() < self._retry_at

    @property
    def unrecorded(self) -> int:
        """Number of outcomes that were added but are not durable yet."""
        return len(self._outbox) + len(self._group)

    def add(self, outcomes: Iterable[RowOutcome]) -> None:
        """Add outcomes to be written."""
        self._outbox += outcomes
        if self.down:
            self._save_to_rescue_file()
        self.start()

    def start(self) -> None:
        """Start writing, unless a write is in progress or the storage is down. Raises the error of the last write."""
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            writing.result()
        has_work = self._outbox or (self._marks is not None and self._marks.wanted)
        if self._writing is None and has_work and not self.down:
            self._writing = asyncio.create_task(self._write())

    async def call(self, query: Callable[[Session], T]) -> T | None:
        """Run other work in its own transaction; None if the storage is down."""
        if self.down:
            return None
        try:
            return await self._run_locked(query)
        except StorageFull as exc:
            self._on_storage_error(exc)
            return None

    async def read(self, query: Callable[[Session], T]) -> T | None:
        """Run a read-only query, which does not wait for writers; None if the storage is down."""
        if self.down:
            return None
        try:
            return await asyncio.to_thread(self._read, query)
        except StorageFull as exc:
            self._on_storage_error(exc)
            return None

    async def call_until_done(self, query: Callable[[Session], object], give_up: threading.Event) -> None:
        """Run work that must succeed, retrying until it does.

        Raises:
            StorageFull: the work failed, and `give_up` is set or the database is lost.
        """
        while True:
            if self.lost is not None:
                raise self.lost
            try:
                await self._run_locked(query)
                return
            except StorageFull as exc:
                self._on_storage_error(exc)
                if give_up.is_set() or self.lost is not None:
                    raise
                await asyncio.sleep(self._pause_s)

    async def flush(self, give_up: threading.Event) -> None:
        """Write everything that was added.

        Raises:
            StorageFull: as in `call_until_done`; outcomes that could not be written are in the rescue file.
            Exception: an error from this or an earlier write; the same applies.
        """
        writing = self._writing
        if writing is not None:
            await asyncio.wait([writing])
            self._writing = None
        if self._outbox:
            group = self._outbox
            try:
                await self.call_until_done(lambda session: row_store.settle(session, group, self._claimant), give_up)
            except BaseException:
                self._save_to_rescue_file()
                raise
            self._outbox = []
            _count(group)
        self._discard_rescue_file()
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Close the connection. No write may be in progress."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _write(self) -> None:
        while not self.down:
            if 0 < len(self._outbox) < _SMALL_GROUP:
                await asyncio.sleep(_GATHER_S)
            self._group, self._outbox = self._outbox, []
            sent, refused = self._marks.take() if self._marks is not None else ((), ())
            if not (self._group or sent or refused):
                return
            missing: set[int] | None = None  # nothing has been written yet
            try:
                async with self._lock:
                    missing = await asyncio.to_thread(self._record, self._group, sent, refused)
                _count(self._group)
            except BaseException as exc:
                # The outcomes are paid for, so keep them after any error.
                self._outbox, self._group = self._group + self._outbox, []
                if not isinstance(exc, StorageFull):
                    self._save_to_rescue_file()
                    raise
                self._on_storage_error(exc)
            finally:
                self._group = []
                if self._marks is not None:
                    self._marks.written(missing)
            self._discard_rescue_file()
            self._on_recorded()

    async def _run_locked(self, query: Callable[[Session], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(self._transaction, query)

    def _transaction(self, query: Callable[[Session], T]) -> T:
        with self._store.session() as session:
            return query(session)

    def _read(self, query: Callable[[Session], T]) -> T:
        with self._store.reading() as session:
            return query(session)

    def _record(self, group: Sequence[RowOutcome], sent: Sequence[int], refused: Sequence[int]) -> set[int]:
        """Write a group on its own connection, because a session and the pool would take longer than the write itself.

        If the server has closed the connection (a restart, a proxy limit), try once more; writing a group twice is
        harmless.

        Returns:
            Entries that could not be marked as sent; see `reservations.mark`.
        """
        try:
            return self._write_group(group, sent, refused)
        except DatabaseLost:
            if self._store.file is not None:
                raise
            return self._write_group(group, sent, refused)

    def _write_group(self, group: Sequence[RowOutcome], sent: Sequence[int], refused: Sequence[int]) -> set[int]:
        try:
            if self._connection is None:
                self._file = self._store.check_file()
                self._connection = self._store.engine.connect()
            with self._connection.begin():
                row_store.settle(self._connection, group, self._claimant)
                missing = reservations.mark(self._connection, sent, refused)
            self._store.check_file(self._file)
            return missing
        except (DBAPIError, PoolTimeout, DatabaseLost) as exc:
            with suppress(SQLAlchemyError):
                self.close()
            self._connection = None
            fault = exc if isinstance(exc, DatabaseLost) else storage_fault(exc)
            if fault is None:
                raise
            raise fault from exc

    def _on_storage_error(self, error: StorageFull) -> None:
        if self.lost is None:
            _log.error("%s %s", error.what, error.next_step)
        if isinstance(error, DatabaseLost):
            self.lost = self.lost or error
        self._retry_at = time.monotonic() + self._pause_s
        self._save_to_rescue_file()

    def _save_to_rescue_file(self) -> None:
        """Save outcomes that are only in memory to the rescue file."""
        fresh = [outcome for outcome in self._outbox if outcome.claim.spend_id not in self._rescued]
        if self._rescue.add([self._entry(outcome) for outcome in fresh]):
            self._rescued |= {outcome.claim.spend_id for outcome in fresh}

    def _discard_rescue_file(self) -> None:
        """Delete the rescue file once all its outcomes are written."""
        if self._rescued and not self._outbox:
            self._rescue.discard()
            self._rescued = set()


def _count(group: Iterable[RowOutcome]) -> None:
    """Count written rows for the metrics."""
    for outcome in group:
        metrics.row_written(outcome.result.state, outcome.result.prompt_tokens, outcome.result.completion_tokens)
