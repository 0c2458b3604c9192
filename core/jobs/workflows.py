"""Which worker has which item, on any number of hosts: the only module that uses DBOS.

A workflow is one attempt at one item, and has no steps. All workers compute the same id for the next attempt, and DBOS
starts each id once, so an item that two workers start at the same time runs in one of them. DBOS records which worker
runs a workflow, even if that worker is dead, and for how long an item is delayed.

Workers do not listen to DBOS's queues, because a listener polls its queue all the time, and starts an item later: a
worker finds an unfinished item in the ledger anyway, and starts it if it has a free place for it. There is one queue,
which only keeps delayed items.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.settings import Settings

if TYPE_CHECKING:
    from dbos import WorkflowStatus

QUEUE_CONNECTIONS = 8
"""Size of DBOS's pool on PostgreSQL; it keeps one more connection open for notifications."""
_State = Literal["running", "delayed", "due"]
_OPEN: Mapping[str, _State] = {"PENDING": "running", "DELAYED": "delayed", "ENQUEUED": "due"}
_DELAYED_ITEMS = "delayed"  # the queue; DBOS delays only what is in one
_VERSION = "1"  # DBOS assigns workflows only to workers of the same version; ours are compatible across releases


@dataclass(frozen=True, slots=True)
class OpenWorkflow:
    """An attempt that has not ended.

    Attributes:
        id: of the workflow.
        state: `running`: it belongs to a worker, even if that worker is dead; `due`: its delay is over.
        executor_id: for a running one, its worker.
    """

    id: str
    state: _State
    executor_id: str


RunItem = Callable[[str, str, str], None]

_run_item: RunItem | None = None  # DBOS allows one instance per process, so there is one worker per process
_workflow: Callable[[str, str], None] | None = None


def launch(settings: Settings, executor_id: str, run_item: RunItem) -> None:
    """Start DBOS with JSON instead of pickle, in its own SQLite file or its own schema in our PostgreSQL database.

    Args:
        settings: location of the ledger.
        executor_id: this worker's id; no other worker ever has it.
        run_item: called with (workflow id, kind, item id) in a thread of DBOS; the workflow ends when it returns.
    """
    from dbos import DBOS, DBOSPortableJSONSerializer

    global _run_item, _workflow
    _run_item = run_item
    if _workflow is None:
        _workflow = DBOS.workflow(name="carry")(_run_workflow)
    own_file = file(settings)
    DBOS(
        config={
            "name": "fabula",
            "system_database_url": settings.database_url if own_file is None else f"sqlite:///{own_file}",
            "sys_db_pool_size": QUEUE_CONNECTIONS,
            "serializer": DBOSPortableJSONSerializer(),
            "application_version": _VERSION,
            "executor_id": executor_id,
            "log_level": "CRITICAL",  # relevant errors are in the ledger and in our own log
        }
    )
    DBOS.listen_queues([])
    DBOS.launch()
    DBOS.register_queue(_DELAYED_ITEMS, on_conflict="always_update")


def shut_down() -> None:
    """Stop DBOS; also if it was not launched."""
    from dbos import DBOS

    DBOS.destroy()


def file(settings: Settings) -> Path | None:
    """DBOS's own SQLite file; None if it uses our PostgreSQL database."""
    return settings.home / "work.db" if settings.database_url.startswith("sqlite") else None


def find_open() -> list[OpenWorkflow]:
    """Workflows that run or wait."""
    from dbos import DBOS

    found = DBOS.list_workflows(status=list(_OPEN), load_input=False, load_output=False)
    return [OpenWorkflow(one.workflow_id, _OPEN[one.status], str(one.executor_id)) for one in found]


def next_attempt(kind_name: str, item_id: str) -> str | None:
    """The id of the next attempt at an item; None if there is an open one.

    Check between this and `start` that the item is unfinished: another worker may have run and ended it before.
    """
    earlier = _attempts(f"{kind_name}-{item_id}")
    if any(workflow.status in _OPEN for workflow in earlier.values()):
        return None
    return _attempt_id(f"{kind_name}-{item_id}", max(earlier, default=0) + 1)


def start(workflow_id: str, kind_name: str, item_id: str) -> None:
    """Run an attempt in this worker, unless another worker was first."""
    from dbos import DBOS, SetWorkflowID

    assert _workflow is not None
    with SetWorkflowID(workflow_id):
        DBOS.start_workflow(_workflow, kind_name, item_id)


def start_later(kind_name: str, item_id: str, wait_s: float) -> None:
    """Delay an item (DBOS status DELAYED, then ENQUEUED); until it is due, it occupies no place.

    Finished attempts are deleted, so that an item that waits for days does not leave thousands of rows.
    """
    from dbos import DBOS, SetEnqueueOptions, SetWorkflowID

    assert _workflow is not None
    item = f"{kind_name}-{item_id}"
    earlier = _attempts(item)
    finished = [workflow.workflow_id for workflow in earlier.values() if workflow.status not in _OPEN]
    if finished:
        DBOS.delete_workflows(finished)
    with SetWorkflowID(_attempt_id(item, max(earlier, default=0) + 1)), SetEnqueueOptions(delay_seconds=wait_s):
        DBOS.enqueue_workflow(_DELAYED_ITEMS, _workflow, kind_name, item_id)


def cancel(workflow_ids: Collection[str]) -> None:
    """End attempts, so that their items can be started again by any worker. Idempotent."""
    from dbos import DBOS

    for workflow_id in workflow_ids:
        DBOS.cancel_workflow(workflow_id)


def item_key(workflow_id: str) -> str:
    """The item key in a workflow id: `run-abc.2` is the second attempt at `run-abc`."""
    return workflow_id.partition(".")[0]


def _run_workflow(kind_name: str, item_id: str) -> None:
    from dbos import DBOS

    if _run_item is not None:
        _run_item(str(DBOS.workflow_id), kind_name, item_id)


def _attempts(item: str) -> dict[int, WorkflowStatus]:
    """All attempts at an item that DBOS has stored, by number."""
    from dbos import DBOS

    found = DBOS.list_workflows(workflow_id_prefix=item, load_input=False, load_output=False)
    return {
        _attempt_number(workflow.workflow_id): workflow for workflow in found if item_key(workflow.workflow_id) == item
    }


def _attempt_id(item: str, number: int) -> str:
    """The workflow id of an attempt; the first one has no number."""
    return item if number == 1 else f"{item}.{number}"


def _attempt_number(workflow_id: str) -> int:
    return int(workflow_id.partition(".")[2] or 1)
