"""The kinds of background work: what of it is unfinished, how one piece is carried out, how it is given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Select, select

from core import tour
from core.db.store import Store
from core.db.tables import Run, Tour, TrainingJob, utcnow
from core.errors import FabulaError
from core.training import jobs

if TYPE_CHECKING:
    from core.providers import Registry

RegistryMaker = Callable[[], "Registry"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of work.

    Attributes:
        name: prefix of its workflows and name of its queue.
        at_once: how many pieces one worker has in hand at most.
        unfinished: ids of the pieces that are not finished, oldest first.
        carry_out: does one piece, or goes on with it; returns early, nothing lost, once the event is set.
        give_up: writes into the ledger that a piece has failed, and why.
    """

    name: str
    at_once: int
    unfinished: Callable[[Store], list[str]]
    carry_out: Callable[[Store, Registry, str, threading.Event], None]
    give_up: Callable[[Store, str, FabulaError], None]


def _ids(query: Select[str]) -> Callable[[Store], list[str]]:
    def read(store: Store) -> list[str]:
        with store.reading() as session:
            return list(session.scalars(query))

    return read


def _execute_run(store: Store, registry: Registry, run_id: str, stopping: threading.Event) -> None:
    from core.dataset import executor  # here: it brings the asynchronous client with it, which pages do not need

    executor.execute(store, registry, run_id, stopping)


def _give_up_run(store: Store, run_id: str, error: FabulaError) -> None:
    with store.session() as session:
        run = session.get(Run, run_id)
        if run is not None:
            run.state, run.reason, run.note, run.finished_at = "failed", error.what, None, utcnow()


_UNFINISHED_RUNS = select(Run.id).where(Run.state.in_(("queued", "running", "stopping"))).order_by(Run.id)
_UNFINISHED_JOBS = select(TrainingJob.id).where(TrainingJob.status.not_in(jobs.FINISHED)).order_by(TrainingJob.id)
_UNFINISHED_TOURS = select(Tour.id).where(Tour.state.in_(("queued", "running"))).order_by(Tour.id)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        # Two runs: a short one need not wait for a long one; each has several requests in flight already.
        Kind("run", 2, _ids(_UNFINISHED_RUNS), _execute_run, _give_up_run),
        # A job that trains at its provider, or is paused for days, only costs a look every two seconds.
        Kind("job", 32, _ids(_UNFINISHED_JOBS), jobs.carry_out, jobs.give_up),
        Kind("tour", 1, _ids(_UNFINISHED_TOURS), tour.carry_out, tour.give_up),
    )
}
