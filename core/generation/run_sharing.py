"""Runs that several workers write together, and claims that a lost database left behind.

Any number of executors can work on one run: each claims rows of its own (`row_store.claim` skips locked ones), reserves
their cost within the same budgets, and returns when the whole run has ended. This module says which runs are worth it,
and what happens when one worker cannot use the provider, for example because its key is wrong: it leaves the run to the
others, and the run only fails if none of them can use the provider either.
"""

from __future__ import annotations

import socket
from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import message
from core.db import leases
from core.db.store import Store
from core.db.tables import Row, Run
from core.errors import NotFound
from core.generation import run_progress, run_store
from core.generation.concurrency import DEFAULT_LIMIT
from core.generation.run_store import FAILED_ONLY
from core.providers.registry import ENGINE

MIN_ROWS = 2 * DEFAULT_LIMIT
"""With fewer pending rows, a run is not shared: the worker that has it sends them all within seconds."""

_HANDOVER_S = 5.0  # pause before another worker takes a run that a worker has left

_left_claims: set[tuple[str, str]] = set()  # (claimant, run) of executors in this process that could not release rows


def unfinished(store: Store) -> list[str]:
    """Unfinished runs, oldest first, without those that this worker has left as long as another one may take them:
    otherwise a worker that is always faster would take them again and again.
    """
    own = leases.this_worker()
    with store.reading() as session:
        columns = (Run.id, Run.state, Run.unable_workers)
        found = session.execute(select(*columns).where(Run.state.in_(run_progress.ACTIVE)).order_by(Run.id)).all()
        return [
            run_id
            for run_id, state, unable in found
            if not (state == "running" and own in unable and _able(session, unable, own))
        ]


def open_to_helpers(store: Store) -> list[str]:
    """Runs that another worker may join, oldest first: live ones that are running and have enough rows left.

    None on SQLite, which belongs to one machine and allows one writer at a time. A run at the engine is not shared,
    because the engine's processors, not the worker, limit its speed.
    """
    if store.file is not None:
        return []
    live = (Run.state == "running", Run.mode != "batch", Run.provider != ENGINE)
    with store.reading() as session:
        columns = (Run.id, Run.dataset_id, Run.scope, Run.unable_workers)
        found = session.execute(select(*columns).where(*live).order_by(Run.id)).all()
        return [
            run_id
            for run_id, dataset_id, scope, unable in found
            if leases.this_worker() not in unable
            and session.scalar(
                select(Row.id)
                .where(*run_store.pending_conditions(dataset_id, run_id, scope == FAILED_ONLY))
                .order_by(Row.updated_at, Row.id)
                .offset(MIN_ROWS - 1)
                .limit(1)
            )
        ]


def leave(session: Session, run_id: str, claimant: str, reason: str) -> bool:
    """Leave a run to the other workers, because this one cannot use its provider. False if no other worker can.

    Until the run is resumed or started again, this worker takes no more of its rows.

    Args:
        reason: why it cannot, as a sentence; the run's progress shows it.
    """
    run = run_store.lock_run(session, run_id)
    if run.state != "running" or not _able(session, run.unable_workers, claimant.rpartition(":")[0]):
        return False
    entry = {"host": socket.gethostname(), "reason": message.dumps(reason)}
    run.unable_workers = {**run.unable_workers, claimant.rpartition(":")[0]: entry}
    run_store.release_dead_claims(session, run.dataset_id, claimant)
    return True


def due_in_s(store: Store, run_id: str) -> float | None:
    """Seconds until another worker should take a run that this one has left. None if this worker has not left it, or
    the run ends now because no other worker can use its provider.
    """
    own = leases.this_worker()
    with store.reading() as session:
        if own not in (session.scalar(select(Run.unable_workers).where(Run.id == run_id)) or ()):
            return None
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        if run.state != "running":
            return None
        if _able(session, run.unable_workers, own):
            return _HANDOVER_S
        run_store.finish(session, run_id, "failed", message.loads(run.unable_workers[own]["reason"]))
        return None


def _able(session: Session, unable: Collection[str], own: str) -> set[str]:
    """The other workers that may be able to use the run's provider; on SQLite none, because runs are not shared."""
    if session.get_bind().dialect.name != "postgresql":
        return set()
    return leases.live_workers(session) - {own, *unable}


def leave_claims(claimant: str, run_id: str) -> None:
    """Remember that an executor ended with an error, and may have rows that it could not release."""
    _left_claims.add((claimant, run_id))


def has_left_claims() -> bool:
    """Whether `release_left_claims` has something to do."""
    return bool(_left_claims)


def release_left_claims(store: Store) -> None:
    """Make the rows of this process's failed executors pending again. Restore the rescue files first: they may have
    answers for these rows.

    Workers on other hosts cannot do this: for them, a claim is valid as long as this process has a heartbeat.

    Raises:
        StorageFull: the database is unavailable; call this again.
    """
    for claimant, run_id in list(_left_claims):
        try:
            with store.session() as session:
                run = run_store.lock_run(session, run_id)
                run_store.release_dead_claims(session, run.dataset_id, claimant)
        except NotFound:
            pass  # the run was deleted with its rows
        _left_claims.discard((claimant, run_id))
