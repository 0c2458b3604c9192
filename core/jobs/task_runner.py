"""The kinds of background jobs, and the threads that run their items until they are marked as finished in the ledger.

A kind defines which items are unfinished, how to run one, and how to mark one as failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Select, select

from core import logs
from core.db.store import Store
from core.db.tables import Run, Tour, TrainingJob
from core.errors import DatabaseLost, FabulaError, StorageFull
from core.evaluation import before_after, before_after_runner, evaluation_run
from core.finetuning import job_context, job_views, jobs
from core.generation import run_sharing, run_store
from core.jobs import recovery
from core.message import msg, sentences
from core.migrate import accounts, mover, shadow_worker
from core.processes import DRAIN_S
from core.tours import tour_runner

if TYPE_CHECKING:
    from core.providers import Registry

RegistryMaker = Callable[[], "Registry"]

_POLL_S = 0.5
_REJOIN_S = 10.0  # pause before a worker helps with the same item again, which it may have left because of an error
STORAGE_PAUSE_S = 5.0  # pause before checking a full disk again
_CRASH_PAUSE_S = 30.0  # pause before retrying after an unexpected error
# How long an item may take at shutdown to wait for its requests in flight and to save its state; unsaved work is
# repeated after the next start.
_GRACE_S = DRAIN_S + 3.0

_log = logging.getLogger("fabula.worker")
_running: dict[str, threading.Thread] = {}
"""Threads by workflow id, including those that an earlier worker in this process could not stop in time."""
_helping: dict[str, threading.Thread] = {}
"""Threads that help with another worker's items, by `kind-item`."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of background job; an item is one run, training job, evaluation, comparison, account to move, or tour.

    Attributes:
        name: prefix of its workflows.
        max_concurrent: how many items one worker runs at the same time.
        unfinished: returns the ids of unfinished items, oldest first.
        carry_out: runs or resumes one item; returns early, without losing anything, once the event is set. Returns None
            when the item is finished; for an item that is waiting for something else, returns the seconds after which
            to resume it, and it occupies no slot until then.
        give_up: records in the ledger that an item has failed, and why; an item that has ended is left unchanged.
        pending_requests: user requests by item id; each new value resumes a waiting item immediately.
        open_to_helpers: returns the ids of items on which other workers may work too, oldest first.
        help_with: works on such an item until it ends, or until the event is set. If it raises, this worker only stops
            helping; the item goes on.
    """

    name: str
    max_concurrent: int
    unfinished: Callable[[Store], list[str]]
    carry_out: Callable[[Store, Registry, str, threading.Event], float | None]
    give_up: Callable[[Store, str, FabulaError], None]
    pending_requests: Callable[[Store], dict[str, str]] = lambda store: {}
    open_to_helpers: Callable[[Store], list[str]] = lambda store: []
    help_with: Callable[[Store, Registry, str, threading.Event], object] = lambda *_: None


def _ids(query: Select[str]) -> Callable[[Store], list[str]]:
    def read(store: Store) -> list[str]:
        with store.reading() as session:
            return list(session.scalars(query))

    return read


def _states(query: Select[str, str | None]) -> Callable[[Store], dict[str, str]]:
    def read(store: Store) -> dict[str, str]:
        with store.reading() as session:
            return {id_: state or "" for id_, state in session.execute(query)}

    return read


def _execute_run(store: Store, registry: Registry, run_id: str, stopping: threading.Event) -> float | None:
    # imported here because they import the asynchronous clients, which pages do not need
    from core.generation import executor
    from core.generation.batch import batch_runner

    if wait_s := run_store.due_in_s(store, run_id) or run_sharing.due_in_s(store, run_id):
        return wait_s
    if batch_runner.has_work(store, run_id):
        wait_s = batch_runner.carry_out(store, registry, run_id, stopping)
        if wait_s is not None:
            return wait_s
    with store.reading() as session:
        live = session.scalar(select(Run.mode).where(Run.id == run_id)) != "batch"
    if live and not stopping.is_set():
        executor.execute(store, registry, run_id, stopping)
        wait_s = run_store.due_in_s(store, run_id)
        return run_sharing.due_in_s(store, run_id) if wait_s is None else wait_s
    return None


def _help_with_run(store: Store, registry: Registry, run_id: str, stopping: threading.Event) -> None:
    from core.generation import executor

    with store.reading() as session:
        provider = session.scalar(select(Run.provider).where(Run.id == run_id)) or ""
    registry.get(provider)  # a worker that lacks this provider must not end the run for those that have it
    executor.execute(store, registry, run_id, stopping)


def _run_training_job(store: Store, registry: Registry, job_id: str, stopping: threading.Event) -> float | None:
    return jobs.carry_out(store, registry, job_id, stopping, on_end=before_after.start_after_training)


def _give_up_run(store: Store, run_id: str, error: FabulaError) -> None:
    with store.session() as session:
        if session.get(Run, run_id) is not None:
            run_store.finish(session, run_id, "failed", sentences(error.what, error.next_step))


_UNFINISHED_JOBS = select(TrainingJob.id).where(TrainingJob.status.not_in(job_views.FINISHED)).order_by(TrainingJob.id)
_REQUESTED_RUN_STATES = select(Run.id, Run.state).where(Run.state.in_(("queued", "stopping", "pausing")))
"""In `queued` state: the user resumed a waiting run."""
_UNFINISHED_TOURS = select(Tour.id).where(Tour.state.in_(("queued", "running"))).order_by(Tour.id)

KINDS: Mapping[str, JobKind] = {
    kind.name: kind
    for kind in (
        # Two, so that a short run does not have to wait for a long one; each sends several requests in parallel. A
        # batch waiting for its provider occupies no slot.
        JobKind(
            "run",
            2,
            run_sharing.unfinished,
            _execute_run,
            _give_up_run,
            _states(_REQUESTED_RUN_STATES),
            run_sharing.open_to_helpers,
            _help_with_run,
        ),
        # A training job only needs to be polled every two seconds; a paused or queued job occupies no slot.
        JobKind(
            "job",
            job_context.MAX_ACTIVE_JOBS,
            _ids(_UNFINISHED_JOBS),
            _run_training_job,
            jobs.give_up,
            jobs.pending_requests,
        ),
        # One at a time: each sends several requests in parallel, and stories have priority.
        JobKind("evaluation", 1, _ids(evaluation_run.UNFINISHED), evaluation_run.carry_out, evaluation_run.give_up),
        # Two, so that an item waiting for a provider does not block the next one, which uses the engine.
        JobKind(
            "comparison",
            2,
            _ids(before_after_runner.UNFINISHED),
            before_after_runner.carry_out,
            before_after_runner.give_up,
        ),
        # Two, so that one account that asks for slow calls does not hold up another.
        JobKind("move", 2, accounts.unfinished, mover.carry_out, accounts.give_up, accounts.stops),
        # Each look takes a moment; between two looks it occupies no slot.
        JobKind("shadow", 2, _ids(shadow_worker.UNFINISHED), shadow_worker.carry_out, shadow_worker.give_up),
        JobKind("tour", 1, _ids(_UNFINISHED_TOURS), tour_runner.carry_out, tour_runner.give_up),
    )
}


def running_workflows() -> set[str]:
    """Ids of the workflows that are running in this process."""
    return set(_running)


def helped_items() -> set[str]:
    """The other workers' items that this process is helping with, as `kind-item`."""
    return set(_helping)


class TaskRunner:
    """Runs the items of one worker session, which lasts from opening the database until it is closed or lost.

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
        storage_pause_s: float = STORAGE_PAUSE_S,
    ) -> None:
        self._store, self._registry, self._kinds, self._reschedule = store, registry, kinds, reschedule
        self._storage_pause_s = storage_pause_s
        self._stopping = threading.Event()
        self._may_rejoin_at: dict[str, float] = {}  # monotonic seconds, by `kind-item`

    def run(self, workflow_id: str, kind_name: str, item_id: str) -> None:
        """Run an item; return when it is finished, or soon after `stop`. Never raises."""
        if self._stopping.is_set():
            return
        arguments = (workflow_id, self._kinds[kind_name], item_id)
        # A daemon thread, so that the interpreter's exit does not wait for a slow provider.
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
        for thread in [*_running.values(), *_helping.values()]:
            thread.join(max(0.0, deadline - time.monotonic()))

    def help_others(self, started: Collection[str] = ()) -> None:
        """Join items that other workers are working on, while fewer than `max_concurrent` of their kind run here.

        `started`: items (`kind-item`) that this worker has just started, and whose threads may not run yet.

        A helper has no workflow: if it is killed, the others go on without it, and its claims are released with those
        of its worker.
        """
        for kind in self._kinds.values():
            here = {item for one in list(_running) if (item := one.partition(".")[0]).startswith(f"{kind.name}-")}
            here |= {one for one in (*list(_helping), *started) if one.startswith(f"{kind.name}-")}
            if len(here) >= kind.max_concurrent:
                continue
            for item_id in kind.open_to_helpers(self._store):
                item = f"{kind.name}-{item_id}"
                if item not in here and time.monotonic() >= self._may_rejoin_at.get(item, 0.0):
                    thread = threading.Thread(target=self._help, args=(kind, item_id), name=f"help-{item}", daemon=True)
                    _helping[item] = thread
                    thread.start()
                    break  # at most one more per poll

    def _help(self, kind: JobKind, item_id: str) -> None:
        item = f"{kind.name}-{item_id}"
        try:
            with logs.bound(**{kind.name: item_id}):
                recovery.restore(self._store)
                kind.help_with(self._store, self._registry(), item_id, self._stopping)
        except FabulaError as exc:
            _log.error("%s %s", exc.what, exc.next_step)
        except Exception:
            _log.exception("Unexpected error while helping with %s; other workers continue it.", item)
        finally:
            self._may_rejoin_at[item] = time.monotonic() + _REJOIN_S
            _helping.pop(item, None)

    def _run_item(self, workflow_id: str, kind: JobKind, item_id: str) -> None:
        """Run an item; while storage is full, wait and retry, because not even a failure could be recorded."""
        with logs.bound(**{kind.name: item_id}):
            self._run_until_ended(workflow_id, kind, item_id)

    def _run_until_ended(self, workflow_id: str, kind: JobKind, item_id: str) -> None:
        try:
            helper = _helping.get(f"{kind.name}-{item_id}")
            while helper is not None and helper.is_alive() and not self._stopping.is_set():
                helper.join(_POLL_S)  # its worker has ended; the helper in this process goes on until the item ends
            while not self._stopping.is_set():
                try:
                    recovery.restore(self._store)  # otherwise rows in a rescue file would be paid for again
                    return self._run_once(kind, item_id)
                except DatabaseLost as exc:
                    # the worker restarts once the database is available again
                    return _log.error("%s %s", exc.what, exc.next_step)
                except StorageFull as exc:
                    _log.error("%s %s", exc.what, exc.next_step)
                    self._stopping.wait(self._storage_pause_s)
                except Exception:  # a bug outside the item's own code, so the item cannot record it
                    _log.exception("Unexpected error after %s %s; it will be retried.", kind.name, item_id)
                    return self._reschedule(kind.name, item_id, _CRASH_PAUSE_S)
        finally:
            _running.pop(workflow_id, None)

    def _run_once(self, kind: JobKind, item_id: str) -> None:
        """Carry out an item once. If it is unfinished afterwards although no stop was requested, it has failed."""
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
        """Carry out an item. Return the seconds until it resumes, and the error that ended it; either may be None."""
        try:
            return kind.carry_out(self._store, self._registry(), item_id, self._stopping), None
        except StorageFull:
            raise
        except FabulaError as exc:
            return None, exc
        except Exception as exc:
            return None, _unexpected(exc, kind, item_id)


def _unexpected(error: Exception, kind: JobKind, item_id: str) -> FabulaError:
    """Wrap an unexpected exception for display and log its traceback. Call this in the exception handler."""
    _log.exception("Unexpected error in %s %s", kind.name, item_id)
    return FabulaError(
        msg("Something unexpected happened ({kind}).", kind=type(error).__name__),
        msg("Try again; if it persists, the log has the details."),
    )
