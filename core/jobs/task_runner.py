"""Runs background jobs, each item in its own thread, until the ledger says it is finished."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from core.db.store import Store
from core.errors import DatabaseLost, FabulaError, StorageFull
from core.jobs import recovery
from core.jobs.job_kinds import JobKind, RegistryMaker
from core.message import msg

_POLL_S = 0.5
_STORAGE_PAUSE_S = 5.0  # pause before checking a full disk again
_CRASH_PAUSE_S = 30.0  # pause before retrying after an unexpected error
_GRACE_S = 5.0  # how long an item may take to save its state at shutdown; unsaved work is repeated at the next start

_log = logging.getLogger("fabula.worker")
_running: dict[
    str, threading.Thread
] = {}  # by workflow id; includes threads that an earlier worker in this process could not stop in time


def running_workflows() -> set[str]:
    """Ids of the workflows that are running in this process."""
    return set(_running)


class TaskRunner:
    """Runs the items of one worker session (from opening the database to losing or closing it).

    Args:
        store: the ledger.
        registry: creates the provider registry for each item.
        kinds: job kinds by name.
        reschedule: called with (kind, item id, seconds) to resume an item later.
    """

    def __init__(
        self,
        store: Store,
        registry: RegistryMaker,
        kinds: Mapping[str, JobKind],
        reschedule: Callable[[str, str, float], None],
    ) -> None:
        self._store, self._registry, self._kinds, self._reschedule = store, registry, kinds, reschedule
        self._stopping = threading.Event()

    def run(self, workflow_id: str, kind_name: str, item_id: str) -> None:
        """Run an item; returns when it is finished, or soon after `stop`. Never raises."""
        if self._stopping.is_set():
            return
        arguments = (workflow_id, self._kinds[kind_name], item_id)
        # A daemon thread, so that interpreter exit does not wait for a slow provider.
        thread = threading.Thread(target=self._run_item, args=arguments, name=workflow_id, daemon=True)
        _running[workflow_id] = thread
        thread.start()
        while thread.is_alive() and not self._stopping.is_set():
            thread.join(_POLL_S)
        thread.join(_GRACE_S)

    def stop(self) -> None:
        """Ask all items to save their state and wait up to `_GRACE_S` seconds."""
        self._stopping.set()
        deadline = time.monotonic() + _GRACE_S
        for thread in list(_running.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run_item(self, workflow_id: str, kind: JobKind, item_id: str) -> None:
        """Run an item; while storage is full, wait and retry, because not even a failure could be recorded."""
        try:
            while not self._stopping.is_set():
                try:
                    recovery.restore(self._store)  # otherwise rows in a rescue file would be paid for again
                    return self._run_once(kind, item_id)
                except DatabaseLost as exc:
                    return _log.error("%s %s", exc.what, exc.next_step)  # the worker restarts once the database is back
                except StorageFull as exc:
                    _log.error("%s %s", exc.what, exc.next_step)
                    self._stopping.wait(_STORAGE_PAUSE_S)
                except Exception:  # a bug outside the item, so the item cannot record it
                    _log.exception("Unexpected error after %s %s; it will be retried.", kind.name, item_id)
                    return self._reschedule(kind.name, item_id, _CRASH_PAUSE_S)
        finally:
            _running.pop(workflow_id, None)

    def _run_once(self, kind: JobKind, item_id: str) -> None:
        """Carry an item out once. If it is unfinished afterwards although no stop was requested, it has failed."""
        wait_s, error = self._carry_out(kind, item_id)
        if wait_s is not None:
            return self._reschedule(kind.name, item_id, wait_s)
        if self._stopping.is_set():
            return
        try:
            open_ids = kind.unfinished(self._store)
        except StorageFull:
            raise
        except Exception as exc:  # `give_up` leaves ended items unchanged
            error, open_ids = _unexpected(exc, kind, item_id), [item_id]
        if item_id in open_ids:
            kind.give_up(
                self._store,
                item_id,
                error or FabulaError(msg("The background task ended without a result."), msg("Try again.")),
            )

    def _carry_out(self, kind: JobKind, item_id: str) -> tuple[float | None, FabulaError | None]:
        """Carry an item out. Returns the seconds until it resumes, and the error that ended it; each may be None."""
        try:
            return kind.carry_out(self._store, self._registry(), item_id, self._stopping), None
        except StorageFull:
            raise
        except FabulaError as exc:
            return None, exc
        except Exception as exc:
            return None, _unexpected(exc, kind, item_id)


def _unexpected(error: Exception, kind: JobKind, item_id: str) -> FabulaError:
    """Wrap an unexpected exception for display and log its traceback. Call it in the exception handler."""
    _log.exception("Unexpected error in %s %s", kind.name, item_id)
    return FabulaError(
        msg("Something unexpected happened ({kind}).", kind=type(error).__name__),
        msg("Try again; if it persists, the log has the details."),
    )
