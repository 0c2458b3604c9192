"""Puts answers into the ledger in groups, durably, beside the event loop.

While a disk is full, answers wait in memory and in a rescue file. When the database is lost (deleted, damaged, not
writable any more), the run ends, and its answers stay in the rescue file until the next start.
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

from core.dataset.generation import row_store
from core.dataset.generation.row_store import RowOutcome
from core.db.database_file import Seen
from core.db.rescue_files import Entry, RescueFile
from core.db.storage_errors import storage_fault
from core.db.store import Store
from core.errors import DatabaseLost, StorageFull

T = TypeVar("T")
_GATHER_S = 0.001  # how long a small group waits for more; a slot is not free before its answer is durable
_FEW = 16  # answers
_log = logging.getLogger("fabula.dataset")


class SendMarks(Protocol):
    """Requests that must be marked as sent, durably, before they go out."""

    @property
    def wanted(self) -> bool:
        """Whether `take` would give anything."""

    def take(self) -> tuple[Sequence[int], Sequence[int]]:
        """Lines of the spend ledger: to be sent next; refused without a bill, so that they are not sent any more."""

    def written(self, gone: set[int] | None) -> None:
        """What was taken is in the ledger, but for the lines that are `gone`; None: nothing was written."""


class GroupCommitWriter:
    """One writer for a run. While one group is being written, the next gathers: few commits when many answers come.

    An outcome is in the ledger once `unrecorded` no longer counts it. While the storage cannot be written, `down` is
    true, outcomes are kept in memory and in a rescue file, and nothing more may be bought.

    Args:
        store: the ledger.
        pause_s: seconds before a storage that failed is tried again.
        recorded: called on the event loop after each group that was written.
        marks: what is to be marked as sent; asked for as each group is taken, so that marks cost no commit of their
            own where answers come.
        entry: the line of a rescue file for an outcome.
        claimant: who has claimed the rows, see `row_store.settle`.

    Attributes:
        lost: why the database is gone for this run; set once. Outcomes that come later go into the rescue file only.
    """

    def __init__(
        self,
        store: Store,
        pause_s: float,
        recorded: Callable[[], None] = lambda: None,
        marks: SendMarks | None = None,
        *,
        entry: Callable[[RowOutcome], Entry],
        claimant: str,
    ) -> None:
        self._store, self._claimant = store, claimant
        self._pause_s = pause_s
        self._recorded = recorded
        self._marks = marks
        self._entry = entry
        self._rescue = RescueFile(store.home)
        self._rescued: set[int] = set()  # lines of the spend ledger whose outcomes are in the rescue file
        self.lost: DatabaseLost | None = None
        self._outbox: list[RowOutcome] = []
        self._group: list[RowOutcome] = []
        self._lock = asyncio.Lock()  # SQLite lets one writer in; a second one would sleep, not queue
        self._writing: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._file: Seen | None = None  # the database file that the connection was made to
        self._retry_at = 0.0

    @property
    def down(self) -> bool:
        """The storage could not be written, and it is not time yet to try again."""
        return self.lost is not None or time.monotonic() < self._retry_at

    @property
    def unrecorded(self) -> int:
        """Outcomes that were added and are not durably in the ledger yet."""
        return len(self._outbox) + len(self._group)

    def add(self, outcomes: Iterable[RowOutcome]) -> None:
        """Keep these answers."""
        self._outbox += outcomes
        if self.down:
            self._save()
        self.start()

    def start(self) -> None:
        """Begin to write what gathers, unless that is under way or the storage is down; raises what writing raised."""
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            writing.result()
        wanted = self._outbox or (self._marks is not None and self._marks.wanted)
        if self._writing is None and wanted and not self.down:
            self._writing = asyncio.create_task(self._write())

    async def call(self, work: Callable[[Session], T]) -> T | None:
        """Other work on the ledger, in a transaction of its own; None when the storage is down."""
        if self.down:
            return None
        try:
            return await self._settled(work)
        except StorageFull as exc:
            self._trouble(exc)
            return None

    async def look(self, work: Callable[[Session], T]) -> T | None:
        """A look at the ledger, which waits for no writer; None when the storage is down."""
        if self.down:
            return None
        try:
            return await asyncio.to_thread(self._reading, work)
        except StorageFull as exc:
            self._trouble(exc)
            return None

    async def call_until_done(self, work: Callable[[Session], object], until: threading.Event) -> None:
        """Work on the ledger that must happen: tried until it does.

        Raises:
            StorageFull: it could not be done, and `until` is set or the database is lost.
        """
        while True:
            if self.lost is not None:
                raise self.lost
            try:
                await self._settled(work)
                return
            except StorageFull as exc:
                self._trouble(exc)
                if until.is_set() or self.lost is not None:
                    raise
                await asyncio.sleep(self._pause_s)

    async def flush(self, until: threading.Event) -> None:
        """Write everything that was added.

        Raises:
            StorageFull: as `call_until_done`; what could not be written is in the rescue file.
            Exception: what writing raises, or has raised before; the same.
        """
        writing = self._writing
        if writing is not None:
            await asyncio.wait([writing])
            self._writing = None
        if self._outbox:
            group = self._outbox
            try:
                await self.call_until_done(lambda session: row_store.settle(session, group, self._claimant), until)
            except BaseException:
                self._save()
                raise
            self._outbox = []
        self._all_recorded()
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Give the connection back. No work may be under way."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _write(self) -> None:
        while not self.down:
            if 0 < len(self._outbox) < _FEW:
                await asyncio.sleep(_GATHER_S)
            self._group, self._outbox = self._outbox, []
            sent, refused = self._marks.take() if self._marks is not None else ((), ())
            if not (self._group or sent or refused):
                return
            gone: set[int] | None = None  # None: nothing was written
            try:
                async with self._lock:
                    gone = await asyncio.to_thread(self._record, self._group, sent, refused)
            except BaseException as exc:
                self._outbox, self._group = self._group + self._outbox, []  # paid for: kept after any error
                if not isinstance(exc, StorageFull):
                    self._save()
                    raise
                self._trouble(exc)
            finally:
                self._group = []
                if self._marks is not None:
                    self._marks.written(gone)
            self._all_recorded()
            self._recorded()

    async def _settled(self, work: Callable[[Session], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(self._transaction, work)

    def _transaction(self, work: Callable[[Session], T]) -> T:
        with self._store.session() as session:
            return work(session)

    def _reading(self, work: Callable[[Session], T]) -> T:
        with self._store.reading() as session:
            return work(session)

    def _record(self, group: Sequence[RowOutcome], sent: Sequence[int], refused: Sequence[int]) -> set[int]:
        """Write a group, on a connection of its own: a session and the pool would take longer than the writing.

        A server that closes connections (a restart, a proxy's limit) is asked a second time; a group that is written
        twice counts once.

        Returns:
            Lines that could not be marked as sent, see `row_store.mark`.
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
                gone = row_store.mark(self._connection, sent, refused)
            self._store.check_file(self._file)
            return gone
        except (DBAPIError, PoolTimeout, DatabaseLost) as exc:
            with suppress(SQLAlchemyError):
                self.close()
            self._connection = None
            fault = exc if isinstance(exc, DatabaseLost) else storage_fault(exc)
            if fault is None:
                raise
            raise fault from exc

    def _trouble(self, error: StorageFull) -> None:
        if self.lost is None:
            _log.error("%s %s", error.what, error.next_step)
        if isinstance(error, DatabaseLost):
            self.lost = self.lost or error
        self._retry_at = time.monotonic() + self._pause_s
        self._save()

    def _save(self) -> None:
        """Put what is in memory only into the rescue file."""
        fresh = [outcome for outcome in self._outbox if outcome.spend_id not in self._rescued]
        if self._rescue.add([self._entry(outcome) for outcome in fresh]):
            self._rescued |= {outcome.spend_id for outcome in fresh}

    def _all_recorded(self) -> None:
        """The rescue file has done its work."""
        if self._rescued and not self._outbox:
            self._rescue.discard()
            self._rescued = set()
