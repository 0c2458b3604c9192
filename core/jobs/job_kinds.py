"""The kinds of background jobs: which items are unfinished, how to run one, how to mark one as failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Select, select

from core.db.store import Store
from core.db.tables import Run, Tour, TrainingJob
from core.errors import FabulaError
from core.evaluation import before_after, before_after_runner, evaluation_run
from core.finetuning import jobs
from core.generation import run_store, runs
from core.message import sentences
from core.tours import tour_runner

if TYPE_CHECKING:
    from core.providers import Registry

RegistryMaker = Callable[[], "Registry"]


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of background job; an item is one run, training job, evaluation, before and after of a job, or tour.

    Attributes:
        name: prefix of its workflows and name of its queue.
        max_concurrent: how many items one worker runs at the same time.
        unfinished: returns the ids of unfinished items, oldest first.
        carry_out: runs or resumes one item; returns early, without losing anything, once the event is set. Returns None
            when the item is finished, or the seconds after which to resume an item that waits for something else; until
            then it occupies no slot.
        give_up: records in the ledger that an item has failed, and why; an item that has ended is left unchanged.
        pending_requests: user requests by item id; each new value resumes a waiting item at once.
    """

    name: str
    max_concurrent: int
    unfinished: Callable[[Store], list[str]]
    carry_out: Callable[[Store, Registry, str, threading.Event], float | None]
    give_up: Callable[[Store, str, FabulaError], None]
    pending_requests: Callable[[Store], dict[str, str]] = lambda store: {}


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

    if wait_s := run_store.due_in_s(store, run_id):
        return wait_s
    if batch_runner.has_work(store, run_id):
        wait_s = batch_runner.carry_out(store, registry, run_id, stopping)
        if wait_s is not None:
            return wait_s
    with store.reading() as session:
        live = session.scalar(select(Run.mode).where(Run.id == run_id)) != "batch"
    if live and not stopping.is_set():
        executor.execute(store, registry, run_id, stopping)
        return run_store.due_in_s(store, run_id)
    return None


def _run_training_job(store: Store, registry: Registry, job_id: str, stopping: threading.Event) -> float | None:
    return jobs.carry_out(store, registry, job_id, stopping, on_end=before_after.start_after_training)


def _give_up_run(store: Store, run_id: str, error: FabulaError) -> None:
    with store.session() as session:
        if session.get(Run, run_id) is not None:
            run_store.finish(session, run_id, "failed", sentences(error.what, error.next_step))


_UNFINISHED_RUNS = select(Run.id).where(Run.state.in_(runs.ACTIVE)).order_by(Run.id)
_UNFINISHED_JOBS = select(TrainingJob.id).where(TrainingJob.status.not_in(jobs.FINISHED)).order_by(TrainingJob.id)
_REQUESTED_RUN_STATES = select(Run.id, Run.state).where(Run.state.in_(("queued", "stopping", "pausing")))
"""`queued`: the user resumed a waiting run."""
_UNFINISHED_TOURS = select(Tour.id).where(Tour.state.in_(("queued", "running"))).order_by(Tour.id)

KINDS: Mapping[str, JobKind] = {
    kind.name: kind
    for kind in (
        # Two, so that a short run does not wait for a long one; each sends several requests in parallel. A batch that
        # waits for its provider occupies no slot.
        JobKind("run", 2, _ids(_UNFINISHED_RUNS), _execute_run, _give_up_run, _states(_REQUESTED_RUN_STATES)),
        # A training job only needs a poll every two seconds; a paused or queued one occupies no slot.
        JobKind(
            "job", jobs.MAX_ACTIVE_JOBS, _ids(_UNFINISHED_JOBS), _run_training_job, jobs.give_up, jobs.pending_requests
        ),
        # One at a time: each sends several requests in parallel, and stories have priority.
        JobKind("evaluation", 1, _ids(evaluation_run.UNFINISHED), evaluation_run.carry_out, evaluation_run.give_up),
        # Two, so that one waiting for a provider does not block the next from the engine.
        JobKind(
            "comparison",
            2,
            _ids(before_after_runner.UNFINISHED),
            before_after_runner.carry_out,
            before_after_runner.give_up,
        ),
        JobKind("tour", 1, _ids(_UNFINISHED_TOURS), tour_runner.carry_out, tour_runner.give_up),
    )
}
