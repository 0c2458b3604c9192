"""The kinds of background work: what of it is unfinished, how one piece is carried out, how it is given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Select, select

from core import before_after_runner, tour_runner
from core.dataset import runs
from core.dataset.generation import run_store
from core.db.store import Store
from core.db.tables import Run, Tour, TrainingJob
from core.errors import FabulaError
from core.message import sentences
from core.training import evaluation_run, jobs

if TYPE_CHECKING:
    from core.providers import Registry

RegistryMaker = Callable[[], "Registry"]


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of work.

    Attributes:
        name: prefix of its workflows and name of its queue.
        at_once: how many pieces one worker has in hand at most.
        unfinished: ids of the pieces that are not finished, oldest first.
        carry_out: does one piece, or goes on with it; returns early, nothing lost, once the event is set. It returns
            None when the piece is finished, or seconds: the piece waits for somebody else, and holds no place until it
            is taken up again then.
        give_up: writes into the ledger that a piece has failed, and why; one that has ended stays as it ended.
        asked: what somebody asks of pieces, by id: a piece that waits is taken up at once for each new word.
    """

    name: str
    at_once: int
    unfinished: Callable[[Store], list[str]]
    carry_out: Callable[[Store, Registry, str, threading.Event], float | None]
    give_up: Callable[[Store, str, FabulaError], None]
    asked: Callable[[Store], dict[str, str]] = lambda store: {}


def _ids(query: Select[str]) -> Callable[[Store], list[str]]:
    def read(store: Store) -> list[str]:
        with store.reading() as session:
            return list(session.scalars(query))

    return read


def _pairs(query: Select[str, str | None]) -> Callable[[Store], dict[str, str]]:
    def read(store: Store) -> dict[str, str]:
        with store.reading() as session:
            return {id_: said or "" for id_, said in session.execute(query)}

    return read


def _execute_run(store: Store, registry: Registry, run_id: str, stopping: threading.Event) -> float | None:
    # here: they bring the asynchronous clients with them, which pages do not need
    from core.dataset.batch import batch_runner
    from core.dataset.generation import executor

    if wait_s := run_store.due_in_s(store, run_id):
        return wait_s
    if batch_runner.due(store, run_id):
        wait_s = batch_runner.carry_out(store, registry, run_id, stopping)
        if wait_s is not None:
            return wait_s
    with store.reading() as session:
        live = session.scalar(select(Run.mode).where(Run.id == run_id)) != "batch"
    if live and not stopping.is_set():
        executor.execute(store, registry, run_id, stopping)
        return run_store.due_in_s(store, run_id)
    return None


def _give_up_run(store: Store, run_id: str, error: FabulaError) -> None:
    with store.session() as session:
        if session.get(Run, run_id) is not None:
            run_store.finish(session, run_id, "failed", sentences(error.what, error.next_step))


_UNFINISHED_RUNS = select(Run.id).where(Run.state.in_(runs.ACTIVE)).order_by(Run.id)
_UNFINISHED_JOBS = select(TrainingJob.id).where(TrainingJob.status.not_in(jobs.FINISHED)).order_by(TrainingJob.id)
_ASKED_OF_RUNS = select(Run.id, Run.state).where(Run.state.in_(("queued", "stopping", "pausing")))
"""`queued`: a run that waited was resumed by a person."""
_UNFINISHED_TOURS = select(Tour.id).where(Tour.state.in_(("queued", "running"))).order_by(Tour.id)

KINDS: Mapping[str, JobKind] = {
    kind.name: kind
    for kind in (
        # Two runs: a short one need not wait for a long one; each has several requests in flight already. A batch that
        # is with its provider holds no place.
        JobKind("run", 2, _ids(_UNFINISHED_RUNS), _execute_run, _give_up_run, _pairs(_ASKED_OF_RUNS)),
        # A job that trains only costs a look every two seconds; one that is paused or queued holds no place.
        JobKind("job", jobs.AT_ONCE, _ids(_UNFINISHED_JOBS), jobs.carry_out, jobs.give_up, jobs.pending_requests),
        # One after the other: each has several requests in flight, and stories go first.
        JobKind("evaluation", 1, _ids(evaluation_run.UNFINISHED), evaluation_run.carry_out, evaluation_run.give_up),
        # Two: one that waits for a provider need not keep the next from the engine.
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
