"""Runs pieces of work, each in a thread of its own, until the ledger says it is finished."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from core import recovery
from core.db.store import Store
from core.errors import DatabaseLost, FabulaError, StorageFull
from core.job_kinds import JobKind, RegistryMaker
from core.message import msg

_LOOK_S = 0.5
_STORAGE_PAUSE_S = 5.0  # a full disk is not emptied in less
_CRASH_PAUSE_S = 30.0  # an unexpected error will come again: not every second
_GRACE_S = 5.0  # how long a piece may take to save itself at a stop; the rest is done again at the next start

_log = logging.getLogger("fabula.worker")
_running: dict[str, threading.Thread] = {}  # by workflow id, also what an earlier worker here could not end in time


def running_workflows() -> set[str]:
    """Workflow ids whose work is in hand in this process."""
    return set(_running)


class TaskRunner:
    """The task runner of one life of a worker.

    Args:
        later: queues another go at (kind, id of the piece), so many seconds from now.
    """

    def __init__(
        self,
        store: Store,
        registry: RegistryMaker,
        kinds: Mapping[str, JobKind],
        later: Callable[[str, str, float], None],
    ) -> None:
        self._store, self._registry, self._kinds, self._later = store, registry, kinds, later
        self._stopping = threading.Event()

    def carry(self, workflow_id: str, kind_name: str, item_id: str) -> None:
        """Carry a piece of work out; returns when it is finished, or soon after `stop`. Never raises."""
        if self._stopping.is_set():
            return
        arguments = (workflow_id, self._kinds[kind_name], item_id)
        # A daemon thread: the interpreter waits for other threads at its end, and must not wait for a slow provider.
        thread = threading.Thread(target=self._hold, args=arguments, name=workflow_id, daemon=True)
        _running[workflow_id] = thread
        thread.start()
        while thread.is_alive() and not self._stopping.is_set():
            thread.join(_LOOK_S)
        thread.join(_GRACE_S)

    def stop(self) -> None:
        """Have all of them save themselves, and wait for it, though not long."""
        self._stopping.set()
        deadline = time.monotonic() + _GRACE_S
        for thread in list(_running.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _hold(self, workflow_id: str, kind: JobKind, item_id: str) -> None:
        """Without room to write, even that a piece has failed cannot be written: wait for room, and begin again."""
        try:
            while not self._stopping.is_set():
                try:
                    recovery.restore(self._store)  # else rows that are in a rescue file would be bought again
                    return self._settle(kind, item_id)
                except DatabaseLost as exc:
                    return _log.error("%s %s", exc.what, exc.next_step)  # the worker begins again when it is back
                except StorageFull as exc:
                    _log.error("%s %s", exc.what, exc.next_step)
                    self._stopping.wait(_STORAGE_PAUSE_S)
                except Exception:  # of our own: the piece itself cannot say so any more
                    _log.exception("Unexpected error after %s %s. It is tried again.", kind.name, item_id)
                    return self._later(kind.name, item_id, _CRASH_PAUSE_S)
        finally:
            _running.pop(workflow_id, None)

    def _settle(self, kind: JobKind, item_id: str) -> None:
        """Carry it out; what is unfinished afterwards, though nobody asked us to stop, has failed."""
        wait_s, error = self._outcome(kind, item_id)
        if wait_s is not None:
            return self._later(kind.name, item_id, wait_s)
        if self._stopping.is_set():
            return
        try:
            open_ids = kind.unfinished(self._store)
        except StorageFull:
            raise
        except Exception as exc:  # `give_up` leaves alone what has ended
            error, open_ids = _unexpected(exc, kind, item_id), [item_id]
        if item_id in open_ids:
            kind.give_up(
                self._store,
                item_id,
                error or FabulaError(msg("The background task ended without a result."), msg("Try again.")),
            )

    def _outcome(self, kind: JobKind, item_id: str) -> tuple[float | None, FabulaError | None]:
        """Carry it out; how many seconds it waits, if it does, and the error that ended it, if one did."""
        try:
            return kind.carry_out(self._store, self._registry(), item_id, self._stopping), None
        except StorageFull:
            raise
        except FabulaError as exc:
            return None, exc
        except Exception as exc:
            return None, _unexpected(exc, kind, item_id)


def _unexpected(error: Exception, kind: JobKind, item_id: str) -> FabulaError:
    """An error that was not foreseen, as the piece of work shows it; the log has it in full. Only in its handler."""
    _log.exception("Unexpected error in %s %s", kind.name, item_id)
    return FabulaError(
        msg("Something unexpected happened ({kind}).", kind=type(error).__name__),
        msg("Try again; if it persists, the log has the details."),
    )
