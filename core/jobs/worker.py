"""Durable background jobs: `python -m core.jobs.worker`, or inside the studio. The only module that uses DBOS.

The ledger records *what* is unfinished (a queued run, a training job); DBOS decides *which worker* runs it, limits how
many run at the same time, and recovers the items of a worker that was killed. Jobs are idempotent and resume from the
ledger, so one workflow is one attempt at one item and has no steps.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from core import file_permissions, logs, shared_files
from core.alerts.sender import AlertSender, configured_channels
from core.db.store import WORKER_CONNECTIONS, Store
from core.db.tables import utcnow
from core.errors import DatabaseLost, FabulaError, StorageFull
from core.generation import run_sharing
from core.jobs import metrics_server, recovery
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
from core.pricing import spend
from core.settings import Settings

if TYPE_CHECKING:
    from dbos import WorkflowStatus

    from core.providers import Registry


_POLL_S = 0.5  # so that clicks take effect within a second; a poll is a few small reads, about 1 % of a core
_SWEEP_S = 600.0  # pause between checks for reservations of killed processes
_DRAIN_S = 60.0  # after losing the database, how long to wait for responses of requests in flight
_CRASH_PAUSE_S = 30.0  # pause before restarting after an unexpected error
_OPEN = ("ENQUEUED", "PENDING", "DELAYED")  # status of workflows that a worker runs or will run
QUEUE_CONNECTIONS = 8
"""Size of DBOS's pool on PostgreSQL, which polls five queues; it keeps one more connection open for notifications."""
_VERSION = "1"  # DBOS assigns workflows only to workers of the same version; ours are compatible across releases

_log = logging.getLogger("fabula.worker")

_task_runner: TaskRunner | None = None  # DBOS allows one instance per process, so there is one worker per process
_workflow: Callable[[str, str], None] | None = None


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
        global _task_runner
        store = Store.open(self._settings, create=not self._opened, connections=WORKER_CONNECTIONS)
        self._opened = True
        own_heartbeat, earlier_ids = Heartbeat(store), set(self._heartbeat_ids)
        self._heartbeat_ids.add(own_heartbeat.id)
        make_registry = self._registry or (lambda: _registry(self._settings, store))
        task_runner = TaskRunner(store, make_registry, self._kinds, _enqueue_later, self._storage_pause_s)
        alerts = AlertSender(store, configured_channels(self._settings), self._settings.alert_language)
        try:
            recovery.restore(store)
            own_heartbeat.beat(0)  # first: without any heartbeat, others would take this process's rows
            own_heartbeat.remove_earlier(earlier_ids)
            self._heartbeat_ids -= earlier_ids
            _task_runner = task_runner
            _launch(self._settings, own_heartbeat.id, self._kinds)
            self._ready.set()
            alerts.start()
            self._dispatch(store, own_heartbeat, task_runner)
        except DatabaseLost:
            self._drain()
            raise
        finally:
            self._ready.clear()
            alerts.begin_stop()
            task_runner.stop()
            alerts.stop()
            _shut_down()
            try:
                own_heartbeat.stop()
            finally:
                store.close()

    def _drain(self) -> None:
        """After losing the database, wait for running items, which end once their requests in flight have been
        answered.
        """
        deadline = time.monotonic() + _DRAIN_S
        while (running_workflows() or helped_items()) and time.monotonic() < deadline and not self._stopping.is_set():
            self._stopping.wait(_POLL_S)

    def _dispatch(self, store: Store, own_heartbeat: Heartbeat, task_runner: TaskRunner) -> None:
        next_beat, last_running = time.monotonic(), 0
        next_sweep = next_beat
        resumed: dict[str, str] = {}
        orphaned: set[str] = set()
        while not self._stopping.is_set():
            try:
                store.check_version()
                open_workflows = _open_workflows()
                if time.monotonic() >= next_beat or len(running_workflows()) != last_running:
                    own_heartbeat.beat(last_running := len(running_workflows()))
                    orphaned = _cancel_orphans(open_workflows, own_heartbeat.live_ids(), own_heartbeat.id, orphaned)
                    next_beat = time.monotonic() + BEAT_INTERVAL_S
                if time.monotonic() >= next_sweep:
                    with store.session() as session:
                        spend.settle_abandoned(session, utcnow())
                    next_sweep = time.monotonic() + _SWEEP_S
                resumed = _resume_requested(store, self._kinds, open_workflows, resumed)
                _enqueue_unfinished(store, self._kinds, open_workflows)
                if run_sharing.has_left_claims():
                    recovery.restore(store)
                    run_sharing.release_left_claims(store)
                task_runner.help_others()
            except DatabaseLost:
                raise
            except StorageFull as exc:
                _log.error("%s %s", exc.what, exc.next_step)
                self._stopping.wait(self._storage_pause_s)
            self._stopping.wait(_POLL_S)


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
    stop_requested.wait()
    _log.info("Stopping: the requests in flight are answered and saved; the rest continues at the next start.")
    worker.stop()


def _run_workflow(kind_name: str, item_id: str) -> None:
    """The DBOS workflow: one attempt at one item. DBOS calls it in its own thread."""
    from dbos import DBOS

    if (task_runner := _task_runner) is not None:
        task_runner.run(str(DBOS.workflow_id), kind_name, item_id)


# --- DBOS ----------------------------------------------------------------------------------------------------------


def _launch(settings: Settings, executor_id: str, kinds: Mapping[str, JobKind]) -> None:
    """Start DBOS with JSON instead of pickle, in its own SQLite file or its own schema in our PostgreSQL database."""
    from dbos import DBOS, DBOSPortableJSONSerializer

    global _workflow
    if _workflow is None:
        _workflow = DBOS.workflow(name="carry")(_run_workflow)
    own_file = f"sqlite:///{settings.home / 'work.db'}"
    DBOS(
        config={
            "name": "fabula",
            "system_database_url": own_file if settings.database_url.startswith("sqlite") else settings.database_url,
            "sys_db_pool_size": QUEUE_CONNECTIONS,
            "serializer": DBOSPortableJSONSerializer(),
            "application_version": _VERSION,
            "executor_id": executor_id,
            "log_level": "CRITICAL",  # relevant errors are in the ledger and in our own log
        }
    )
    DBOS.launch()
    for kind in kinds.values():
        DBOS.register_queue(
            kind.name, worker_concurrency=kind.max_concurrent, polling_interval_sec=_POLL_S, on_conflict="always_update"
        )


def _shut_down() -> None:
    from dbos import DBOS

    DBOS.destroy()


def _open_workflows() -> list[WorkflowStatus]:
    """Workflows that are queued, delayed, or assigned to a worker, even if that worker is dead."""
    from dbos import DBOS

    return DBOS.list_workflows(status=list(_OPEN), load_input=False, load_output=False)


def _cancel_orphans(
    open_workflows: list[WorkflowStatus], live_ids: set[str], own_id: str, orphaned: set[str]
) -> set[str]:
    """Cancel the workflows of dead workers; the next poll enqueues their items again. Idempotent.

    A workflow that is assigned to this worker but runs in none of its threads (its end could not be recorded while the
    database was unavailable) is cancelled when two successive polls find it. Return the workflows found by this poll;
    `orphaned` are those found by the previous one.
    """
    from dbos import DBOS

    pending = {one.workflow_id: str(one.executor_id) for one in open_workflows if one.status == "PENDING"}
    lost = {one for one, executor in pending.items() if executor == own_id} - running_workflows()
    for workflow_id, executor in pending.items():
        if executor not in live_ids or workflow_id in lost & orphaned:
            _log.warning("Resuming %s, whose worker has ended.", workflow_id)
            DBOS.cancel_workflow(workflow_id)
    return lost


def _enqueue_unfinished(store: Store, kinds: Mapping[str, JobKind], open_workflows: list[WorkflowStatus]) -> None:
    """Enqueue unfinished items that have no open workflow.

    `open_workflows` must be read before the unfinished items: an item that ends in between is then no longer
    unfinished.
    """
    from dbos import DBOS, SetWorkflowID

    assert _workflow is not None
    busy = {_item_key(workflow.workflow_id) for workflow in open_workflows} | {
        _item_key(one) for one in running_workflows()
    }
    for kind in kinds.values():
        for item_id in kind.unfinished(store):
            item = f"{kind.name}-{item_id}"
            if item in busy:
                continue
            earlier = _attempts(item)
            if any(workflow.status in _OPEN for workflow in earlier.values()):  # another worker has enqueued it
                continue
            # All workers compute the same number, so a second worker that enqueues it gets the first one's workflow.
            with SetWorkflowID(_attempt_id(item, max(earlier, default=0) + 1)):
                DBOS.enqueue_workflow(kind.name, _workflow, kind.name, item_id)


def _enqueue_later(kind_name: str, item_id: str, wait_s: float) -> None:
    """Enqueue the next attempt at an item with a delay (DBOS status DELAYED); until then it occupies no slot.

    Finished attempts are deleted, so that an item that waits for days does not leave thousands of rows.
    """
    from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

    assert _workflow is not None
    item = f"{kind_name}-{item_id}"
    earlier = _attempts(item)
    with SetWorkflowID(_attempt_id(item, max(earlier, default=0) + 1)), SetEnqueueOptions(delay_seconds=wait_s):
        DBOS.enqueue_workflow(kind_name, _workflow, kind_name, item_id)
    finished = [workflow.workflow_id for workflow in earlier.values() if workflow.status not in _OPEN]
    if finished:
        DBOS.delete_workflows(finished)


def _resume_requested(
    store: Store, kinds: Mapping[str, JobKind], open_workflows: list[WorkflowStatus], resumed: dict[str, str]
) -> dict[str, str]:
    """Resume delayed items for which the user made a new request. Return the handled requests by item key."""
    from dbos import DBOS

    requests = {
        f"{kind.name}-{one}": request
        for kind in kinds.values()
        for one, request in kind.pending_requests(store).items()
    }
    handled = {item: request for item, request in requests.items() if resumed.get(item) == request}
    for workflow in open_workflows:
        item = _item_key(workflow.workflow_id)
        if workflow.status == "DELAYED" and item in requests and item not in handled:
            DBOS.set_workflow_delay(workflow.workflow_id, delay_seconds=0)
            handled[item] = requests[item]
    return handled


def _attempts(item: str) -> dict[int, WorkflowStatus]:
    """All attempts at an item that DBOS has stored, by number."""
    from dbos import DBOS

    found = DBOS.list_workflows(workflow_id_prefix=item, load_input=False, load_output=False)
    return {
        _attempt_number(workflow.workflow_id): workflow for workflow in found if _item_key(workflow.workflow_id) == item
    }


def _attempt_id(item: str, number: int) -> str:
    """The workflow id of an attempt; the first one has no number."""
    return item if number == 1 else f"{item}.{number}"


def _attempt_number(workflow_id: str) -> int:
    return int(workflow_id.partition(".")[2] or 1)


def _item_key(workflow_id: str) -> str:
    """The item key in a workflow id: `run-abc.2` is the second attempt at `run-abc`."""
    return workflow_id.partition(".")[0]


def _registry(settings: Settings, store: Store) -> Registry:
    from core.providers import Registry

    return Registry.from_settings(settings, os.environ, lambda: store)


if __name__ == "__main__":
    main()
