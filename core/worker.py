"""Durable background work: `python -m core.worker`, or inside the dashboard. The only place that knows DBOS.

The ledger says *what* is to be done (a run is queued, a job is not finished yet); DBOS says *who* does it, a few at a
time, also when there are several workers and when one of them is killed. The work itself is idempotent and goes on
from what the ledger holds; so one workflow is one go at one piece of work, and has no steps of its own.
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

from core import logs, permissions, recovery
from core.db.store import Store
from core.errors import DatabaseLost, FabulaError, StorageFull
from core.heartbeat import BEAT_S, Heartbeat, WorkerState, alive
from core.job_kinds import KINDS, JobKind, RegistryMaker
from core.settings import Settings
from core.task_runner import TaskRunner, running_workflows

if TYPE_CHECKING:
    from dbos import WorkflowStatus

    from core.providers import Registry

__all__ = ["Worker", "WorkerState", "alive", "main"]

_LOOK_S = 0.5  # a click is seen to work within a second; the look is a few small reads, about 1 % of a core
_STORAGE_PAUSE_S = 5.0  # a full disk is not emptied in less
_DRAIN_S = 60.0  # requests that are under way when the database is lost may still bring their answers
_CRASH_PAUSE_S = 30.0  # an error that nobody foresaw will come again; not every second, please
_OPEN = ("ENQUEUED", "PENDING", "DELAYED")  # a workflow that a worker has, or will have
_VERSION = "1"  # DBOS gives workflows only to workers of the same version; ours are alike in every release

_log = logging.getLogger("fabula.worker")


_task_runner: TaskRunner | None = None  # DBOS is one per process, and so is the worker
_workflow: Callable[[str, str], None] | None = None


class Worker:
    """Does queued work in threads of its own. One per process.

    Args:
        settings: where the ledger is.
        registry: makes the registry of providers for each piece of work; by default from settings and environment.
        kinds: the kinds of work.
    """

    def __init__(
        self, settings: Settings, *, registry: RegistryMaker | None = None, kinds: Mapping[str, JobKind] = KINDS
    ) -> None:
        self._settings = settings
        self._registry = registry or (lambda: _registry(settings))
        self._kinds = kinds
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._lives: set[str] = set()  # ids of heartbeats that may still be on the list
        self._opened = False  # the database was there once: from then on, an empty one in its place is not made

    def start(self) -> None:
        """Begin in a thread and return at once. A storage that is not there yet is tried again until it is."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._live, name="fabula-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let work in hand save itself, and end within seconds; what is unfinished goes on at the next start."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Whether the worker takes work by now; waits for it up to `timeout_s` seconds."""
        return self._ready.wait(timeout_s)

    def _live(self) -> None:
        while not self._stopping.is_set():
            try:
                self._work()
            except FabulaError as exc:
                _log.error("%s %s", exc.what, exc.next_step)
                self._stopping.wait(_STORAGE_PAUSE_S)
            except Exception:
                _log.exception("The worker stopped on an error. Nothing is lost: it starts again in half a minute.")
                self._stopping.wait(_CRASH_PAUSE_S)

    def _work(self) -> None:
        """One life: from joining the others to leaving them."""
        global _task_runner
        store = Store.open(self._settings, create=not self._opened)
        self._opened = True
        own_heartbeat, earlier = Heartbeat(store), set(self._lives)
        self._lives.add(own_heartbeat.id)
        task_runner = TaskRunner(store, self._registry, self._kinds, _go_later)
        try:
            recovery.restore(store)
            own_heartbeat.replace(earlier)
            self._lives -= earlier
            own_heartbeat.beat(0)
            _task_runner = task_runner
            _launch(self._settings, own_heartbeat.id, self._kinds)
            self._ready.set()
            self._dispatch(store, own_heartbeat)
        except DatabaseLost:
            self._drain()
            raise
        finally:
            self._ready.clear()
            task_runner.stop()
            _shut_down()
            try:
                own_heartbeat.stop()
            finally:
                store.close()

    def _drain(self) -> None:
        """The database is lost: work in hand notices it at its next look, and only waits for answers under way."""
        deadline = time.monotonic() + _DRAIN_S
        while running_workflows() and time.monotonic() < deadline and not self._stopping.is_set():
            self._stopping.wait(_LOOK_S)

    def _dispatch(self, store: Store, own_heartbeat: Heartbeat) -> None:
        next_beat, told = time.monotonic(), 0
        woken: dict[str, str] = {}
        astray: set[str] = set()
        while not self._stopping.is_set():
            try:
                taken = _taken()
                if time.monotonic() >= next_beat or len(running_workflows()) != told:
                    own_heartbeat.beat(told := len(running_workflows()))
                    astray = _free(taken, own_heartbeat.living(), own_heartbeat.id, astray)
                    next_beat = time.monotonic() + BEAT_S
                woken = _wake(store, self._kinds, taken, woken)
                _enqueue_unfinished(store, self._kinds, taken)
            except DatabaseLost:
                raise
            except StorageFull as exc:
                _log.error("%s %s", exc.what, exc.next_step)
                self._stopping.wait(_STORAGE_PAUSE_S)
            self._stopping.wait(_LOOK_S)


def main() -> None:
    """Run a worker until it is asked to stop (SIGTERM, Ctrl+C); asked twice, it stops at once."""
    logs.configure()
    asked = threading.Event()

    def ask(*_: object) -> None:
        if asked.is_set():
            os._exit(1)
        asked.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    settings = Settings.from_env()
    permissions.keep_private(settings.home)
    worker = Worker(settings)
    worker.start()
    gc.freeze()  # what is loaded by now lives as long as the process; looking through it costs each answer of a run
    _log.info("Working for %s. Ctrl+C stops.", settings.home)
    asked.wait()
    worker.stop()


def _carry(kind_name: str, item_id: str) -> None:
    """The workflow: one go at one piece of work. DBOS calls it in a thread of its own."""
    from dbos import DBOS

    if (task_runner := _task_runner) is not None:
        task_runner.carry(str(DBOS.workflow_id), kind_name, item_id)


# --- DBOS ----------------------------------------------------------------------------------------------------------


def _launch(settings: Settings, executor_id: str, kinds: Mapping[str, JobKind]) -> None:
    """Start DBOS: quiet, JSON instead of pickle, its own SQLite file or its own schema in our Postgres."""
    from dbos import DBOS, DBOSPortableJSONSerializer

    global _workflow
    if _workflow is None:
        _workflow = DBOS.workflow(name="carry")(_carry)
    own_file = f"sqlite:///{settings.home / 'work.db'}"
    DBOS(
        config={
            "name": "fabula",
            "system_database_url": own_file if settings.database_url.startswith("sqlite") else settings.database_url,
            "serializer": DBOSPortableJSONSerializer(),
            "application_version": _VERSION,
            "executor_id": executor_id,
            "log_level": "CRITICAL",  # what matters to a person is in the ledger and in our own log
        }
    )
    DBOS.launch()
    for kind in kinds.values():
        DBOS.register_queue(
            kind.name, worker_concurrency=kind.at_once, polling_interval_sec=_LOOK_S, on_conflict="always_update"
        )


def _shut_down() -> None:
    from dbos import DBOS

    DBOS.destroy()


def _taken() -> list[WorkflowStatus]:
    """Work that waits in DBOS's queues or that a worker, maybe a dead one, has in hand."""
    from dbos import DBOS

    return DBOS.list_workflows(status=list(_OPEN), load_input=False, load_output=False)


def _free(taken: list[WorkflowStatus], living: set[str], me: str, astray: set[str]) -> set[str]:
    """Take from the dead what they had in hand: the next look finds it with nobody. Twice does no harm.

    Workflows that are called ours and that no thread here has (their end could not be written while the database was
    away) are freed when a second look finds them so; those of this look are returned.
    """
    from dbos import DBOS

    pending = {one.workflow_id: str(one.executor_id) for one in taken if one.status == "PENDING"}
    lost = {one for one, executor in pending.items() if executor == me} - running_workflows()
    for workflow_id, executor in pending.items():
        if executor not in living or workflow_id in lost & astray:
            _log.warning("Going on with %s, which no worker has any more.", workflow_id)
            DBOS.cancel_workflow(workflow_id)
    return lost


def _enqueue_unfinished(store: Store, kinds: Mapping[str, JobKind], taken: list[WorkflowStatus]) -> None:
    """Queue what is unfinished and with nobody. `taken` was read first: what ends meanwhile is no longer unfinished."""
    from dbos import DBOS, SetWorkflowID

    assert _workflow is not None
    busy = {_item(workflow.workflow_id) for workflow in taken} | {_item(one) for one in running_workflows()}
    for kind in kinds.values():
        for item_id in kind.unfinished(store):
            item = f"{kind.name}-{item_id}"
            if item in busy:
                continue
            earlier = _goes(item)
            if any(workflow.status in _OPEN for workflow in earlier.values()):  # another worker was faster
                continue
            # The same number at every worker: the second one to queue it gets the first one's workflow.
            with SetWorkflowID(_go(item, max(earlier, default=0) + 1)):
                DBOS.enqueue_workflow(kind.name, _workflow, kind.name, item_id)


def _go_later(kind_name: str, item_id: str, wait_s: float) -> None:
    """Queue another go at a piece that waits: until then no worker has it, and it takes no place (DBOS: DELAYED).

    Earlier goes are forgotten, so that a piece that waits for days leaves a few rows and not thousands.
    """
    from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

    assert _workflow is not None
    item = f"{kind_name}-{item_id}"
    earlier = _goes(item)
    with SetWorkflowID(_go(item, max(earlier, default=0) + 1)), SetEnqueueOptions(delay_seconds=wait_s):
        DBOS.enqueue_workflow(kind_name, _workflow, kind_name, item_id)
    over = [workflow.workflow_id for workflow in earlier.values() if workflow.status not in _OPEN]
    if over:
        DBOS.delete_workflows(over)


def _wake(
    store: Store, kinds: Mapping[str, JobKind], taken: list[WorkflowStatus], woken: dict[str, str]
) -> dict[str, str]:
    """Take up pieces that wait and of which somebody asks something new; what was asked, by piece."""
    from dbos import DBOS

    asked = {f"{kind.name}-{one}": what for kind in kinds.values() for one, what in kind.asked(store).items()}
    seen = {item: what for item, what in asked.items() if woken.get(item) == what}
    for workflow in taken:
        item = _item(workflow.workflow_id)
        if workflow.status == "DELAYED" and item in asked and item not in seen:
            DBOS.set_workflow_delay(workflow.workflow_id, delay_seconds=0)
            seen[item] = asked[item]
    return seen


def _goes(item: str) -> dict[int, WorkflowStatus]:
    """All goes at a piece that DBOS knows, by number."""
    from dbos import DBOS

    found = DBOS.list_workflows(workflow_id_prefix=item, load_input=False, load_output=False)
    return {_number(workflow.workflow_id): workflow for workflow in found if _item(workflow.workflow_id) == item}


def _go(item: str, number: int) -> str:
    """The workflow id of a go; the first one has no number."""
    return item if number == 1 else f"{item}.{number}"


def _number(workflow_id: str) -> int:
    return int(workflow_id.partition(".")[2] or 1)


def _item(workflow_id: str) -> str:
    """`run-abc.2` is the second go at `run-abc`."""
    return workflow_id.partition(".")[0]


def _registry(settings: Settings) -> Registry:
    from core.providers import Registry

    return Registry.from_settings(settings, os.environ)


if __name__ == "__main__":
    main()
