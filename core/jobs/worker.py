"""Durable background jobs: `python -m core.jobs.worker`, or inside the studio.

The ledger records *what* is unfinished (a queued run, a training job); DBOS records *which worker* runs it (see
`core.jobs.workflows`). Each worker starts unfinished items while it has a free place for them, and cancels the attempts
of workers that were killed. Jobs are idempotent and resume from the ledger.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Hashable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from core import file_permissions, logs, processes, shared_files
from core.alerts.sender import AlertSender, configured_channels
from core.db.change_marker import ChangeMarker
from core.db.store import WORKER_CONNECTIONS, Store
from core.db.tables import utcnow
from core.errors import DatabaseLost, FabulaError, StorageFull
from core.generation import run_sharing
from core.jobs import metrics_server, recovery, workflows
from core.jobs.heartbeat import BEAT_INTERVAL_S, Heartbeat
from core.jobs.task_runner import (
    KINDS,
    STORAGE_PAUSE_S,
    JobKind,
    RegistryMaker,
    TaskRunner,
    helped_items,
    running_workflows,
)
from core.jobs.workflows import OpenWorkflow
from core.migrate import shadow
from core.pricing import spend
from core.settings import Settings

if TYPE_CHECKING:
    from core.providers import Registry


_POLL_S = 0.1  # between checks for commits, which take microseconds; after one, a click takes effect at once
_LOOK_S = 0.5  # between complete looks at the ledger while commits keep coming, such as a run's
_LOST_S = 5.0  # a workflow of this worker for which there has been no thread for so long has none
_SWEEP_S = 600.0  # pause between checks for reservations of killed processes
_DRAIN_S = 60.0  # after losing the database, how long to wait for responses of requests in flight
_CRASH_PAUSE_S = 30.0  # pause before restarting after an unexpected error
_log = logging.getLogger("fabula.worker")


class Worker:
    """Runs queued background jobs in its own threads. One per process.

    Args:
        settings: location of the ledger.
        registry: creates the provider registry for each item; default: from settings, environment and ledger.
        kinds: job kinds by name.
        storage_pause_s: pause before checking a full disk again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: RegistryMaker | None = None,
        kinds: Mapping[str, JobKind] = KINDS,
        storage_pause_s: float = STORAGE_PAUSE_S,
    ) -> None:
        self._settings, self._registry, self._kinds = settings, registry, kinds
        self._storage_pause_s = storage_pause_s
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._heartbeat_ids: set[str] = set()  # ids of this process's heartbeats that may still be in the ledger
        self._opened = False  # after the first opening, a missing database is an error and is not created again

    def start(self) -> None:
        """Start the worker in a thread and return immediately. Retries while the database is unavailable."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run_until_stopped, name="fabula-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop within 20 seconds: requests in flight are answered and saved, the rest resumes at the next start."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for the worker to accept jobs; return whether it does."""
        return self._ready.wait(timeout_s)

    def _run_until_stopped(self) -> None:
        shared_files.log_problem(self._settings)
        while not self._stopping.is_set():
            try:
                self._run_session()
            except FabulaError as exc:
                _log.error("%s %s", exc.what, exc.next_step)
                self._stopping.wait(self._storage_pause_s)
            except Exception:
                _log.exception(
                    "The worker stopped after an unexpected error. Nothing is lost: it restarts in 30 seconds."
                )
                self._stopping.wait(_CRASH_PAUSE_S)

    def _run_session(self) -> None:
        """Open the database, register as a worker, and process jobs until stopped or the database is lost."""
        store = Store.open(self._settings, create=not self._opened, connections=WORKER_CONNECTIONS)
        self._opened = True
        own_heartbeat, earlier_ids = Heartbeat(store), set(self._heartbeat_ids)
        self._heartbeat_ids.add(own_heartbeat.id)
        make_registry = self._registry or (lambda: _registry(self._settings, store))
        task_runner = TaskRunner(store, make_registry, self._kinds, workflows.start_later, self._storage_pause_s)
        alerts = AlertSender(store, configured_channels(self._settings), self._settings.alert_language)
        try:
            recovery.restore(store)
            own_heartbeat.beat(0)  # first: without any heartbeat, others would take this process's rows
            own_heartbeat.remove_earlier(earlier_ids)
            self._heartbeat_ids -= earlier_ids
            workflows.launch(self._settings, own_heartbeat.id, task_runner.run)
            self._ready.set()
            alerts.start()
            self._dispatch(store, _Dispatcher(store, self._kinds, own_heartbeat, task_runner))
        except DatabaseLost:
            self._drain()
            raise
        finally:
            self._ready.clear()
            alerts.begin_stop()
            task_runner.stop()
            alerts.stop()
            workflows.shut_down()
            try:
                own_heartbeat.stop()
            finally:
                store.close()

    def _dispatch(self, store: Store, dispatcher: _Dispatcher) -> None:
        queue_file = workflows.file(self._settings)
        with closing(ChangeMarker(store, *([queue_file] if queue_file else []))) as marker:
            dispatcher.run(marker, self._stopping, self._storage_pause_s)

    def _drain(self) -> None:
        """After losing the database, wait for running items, which end once their requests in flight have been
        answered.
        """
        deadline = time.monotonic() + _DRAIN_S
        while (running_workflows() or helped_items()) and time.monotonic() < deadline and not self._stopping.is_set():
            self._stopping.wait(_POLL_S)


class _Dispatcher:
    """A worker session's loop: heartbeats, and starting items.

    An idle worker writes a heartbeat every few seconds, reads the ledger once after each, and otherwise only asks
    whether anything was committed; so it uses a few tenths of a percent of a core.
    """

    def __init__(
        self, store: Store, kinds: Mapping[str, JobKind], own_heartbeat: Heartbeat, task_runner: TaskRunner
    ) -> None:
        self._store, self._kinds, self._heartbeat, self._task_runner = store, kinds, own_heartbeat, task_runner
        self._next_look = self._next_sweep = time.monotonic()
        self._beat_at = -math.inf
        self._running = 0  # as the last heartbeat said
        self._resumed: dict[str, str] = {}
        self._lost: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def run(self, marker: ChangeMarker, stopping: threading.Event, storage_pause_s: float) -> None:
        """Start items until stopped, or until the database is lost.

        Raises:
            DatabaseLost: the database is lost.
            FabulaError: a newer version of Fabula has migrated the database.
        """
        seen: Hashable = None
        while not stopping.is_set():
            try:
                self._beat_if_due()  # it commits, so the ledger is read at least as often
                now = marker.read()  # before reading the ledger, so that a change meanwhile causes another look
                if (now != seen and time.monotonic() >= self._next_look) or run_sharing.has_left_claims():
                    self._look()
                    seen, self._next_look = now, time.monotonic() + _LOOK_S
            except DatabaseLost:
                raise
            except StorageFull as exc:
                seen = None
                _log.error("%s %s", exc.what, exc.next_step)
                stopping.wait(storage_pause_s)
            stopping.wait(_POLL_S)

    def _beat_if_due(self) -> None:
        """Write a heartbeat from time to time, and soon after the number of running items has changed."""
        changed = len(running_workflows()) != self._running
        if time.monotonic() < self._beat_at + (_LOOK_S if changed else BEAT_INTERVAL_S):
            return
        self._store.check_version()
        open_workflows = workflows.find_open()
        self._running = len(running_workflows())
        self._heartbeat.beat(self._running)
        self._lost = _cancel_orphans(open_workflows, self._heartbeat.live_ids(), self._heartbeat.id, self._lost)
        self._beat_at = time.monotonic()

    def _look(self) -> None:
        """Read what is unfinished, and start what this worker has a free place for."""
        began = time.monotonic()
        self._store.check_version()
        if time.monotonic() >= self._next_sweep:
            with self._store.session() as session:
                spend.settle_abandoned(session, utcnow())
                shadow.delete_old_pairs(session, utcnow())
            self._next_sweep = time.monotonic() + _SWEEP_S
        open_workflows, self._resumed = _end_waits(self._store, self._kinds, workflows.find_open(), self._resumed)
        self._started = _start_unfinished(self._store, self._kinds, open_workflows, self._heartbeat.id, self._started)
        if run_sharing.has_left_claims():
            recovery.restore(self._store)
            run_sharing.release_left_claims(self._store)
        self._task_runner.help_others([item for item, started in self._started.items() if started >= began])


def main() -> None:
    """Run a worker until SIGTERM or Ctrl+C; a second signal exits immediately."""
    logs.configure()
    stop_requested = threading.Event()

    def request_stop(*_: object) -> None:
        if stop_requested.is_set():
            os._exit(1)
        stop_requested.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    settings = Settings.load_or_exit()
    logs.set_format(settings.log_format)
    file_permissions.keep_private(settings.home)
    worker = Worker(settings)
    worker.start()
    metrics_server.start(settings)
    gc.freeze()  # everything loaded so far is long-lived; scanning it in each collection would slow every response
    _log.info("Worker started for %s. Press Ctrl+C to stop.", settings.home)
    processes.wait_for_signal(stop_requested)
    _log.info("Stopping: the requests in flight are answered and saved; the rest continues at the next start.")
    worker.stop()


def _cancel_orphans(
    open_workflows: list[OpenWorkflow], live_ids: set[str], own_id: str, lost: Mapping[str, float]
) -> dict[str, float]:
    """Cancel the workflows of dead workers, so that their items are started again. Idempotent.

    So is a workflow that is assigned to this worker but has run in none of its threads for `_LOST_S` seconds: its end
    could not be recorded while the database was unavailable. For a moment, this also applies to one that begins or
    ends. Return since when there have been such workflows (monotonic seconds); `lost` is the earlier result.
    """
    now, running = time.monotonic(), running_workflows()
    still_lost: dict[str, float] = {}
    for one in open_workflows:
        if one.state != "running":
            continue
        if one.executor_id == own_id and one.id not in running:
            still_lost[one.id] = lost.get(one.id, now)
        if one.executor_id not in live_ids or now - still_lost.get(one.id, now) >= _LOST_S:
            _log.warning("Resuming %s, whose worker has ended.", one.id)
            workflows.cancel([one.id])
    return still_lost


def _end_waits(
    store: Store, kinds: Mapping[str, JobKind], open_workflows: list[OpenWorkflow], resumed: dict[str, str]
) -> tuple[list[OpenWorkflow], dict[str, str]]:
    """Cancel workflows that are due, and delayed ones for whose item the user made a new request.

    Return the workflows that are left, and the handled requests by item key; `resumed` are those handled earlier.
    """
    requests = {
        f"{kind.name}-{one}": request
        for kind in kinds.values()
        for one, request in kind.pending_requests(store).items()
    }
    handled = {item: request for item, request in requests.items() if resumed.get(item) == request}
    ended = set()
    for workflow in open_workflows:
        item = workflows.item_key(workflow.id)
        requested = workflow.state == "delayed" and item in requests and item not in handled
        if requested:
            handled[item] = requests[item]
        if requested or workflow.state == "due":
            ended.add(workflow.id)
    workflows.cancel(ended)
    return [one for one in open_workflows if one.id not in ended], handled


def _start_unfinished(
    store: Store,
    kinds: Mapping[str, JobKind],
    open_workflows: list[OpenWorkflow],
    own_id: str,
    started: Mapping[str, float],
) -> dict[str, float]:
    """Start unfinished items that have no open workflow, while this worker has a free place for them: first those that
    it has not started yet, oldest first, then those that it started longest ago, so that items that wait again and
    again do not keep the places among themselves.

    `open_workflows` must be read before the unfinished items: an item that ends in between is then no longer
    unfinished. Return when this worker last started each unfinished item (monotonic seconds); `started` is the earlier
    result.
    """
    running = running_workflows()
    busy = {workflows.item_key(one) for one in {workflow.id for workflow in open_workflows} | running}
    own = {one.id for one in open_workflows if one.state == "running" and one.executor_id == own_id}
    here = Counter(one.partition("-")[0] for one in own | running)
    kept: dict[str, float] = {}
    for kind in kinds.values():
        items = {one: f"{kind.name}-{one}" for one in kind.unfinished(store)}
        kept |= {item: started[item] for item in items.values() if item in started}
        waiting = sorted(
            (one for one, item in items.items() if item not in busy), key=lambda one: kept.get(items[one], -math.inf)
        )
        chosen = waiting[: max(0, kind.max_concurrent - here[kind.name])]
        attempts = {item_id: workflows.next_attempt(kind.name, item_id) for item_id in chosen}
        unfinished = kind.unfinished(store) if attempts else []
        for item_id, workflow_id in attempts.items():
            if workflow_id is not None and item_id in unfinished:
                workflows.start(workflow_id, kind.name, item_id)
                kept[items[item_id]] = time.monotonic()
    return kept


def _registry(settings: Settings, store: Store) -> Registry:
    from core.providers import Registry

    return Registry.from_settings(settings, os.environ, lambda: store)


if __name__ == "__main__":
    main()
