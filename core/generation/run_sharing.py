"""Runs that several workers write together, and claims that a lost database left behind.

Any number of executors can work on one run: each claims rows of its own (`row_store.claim` skips locked ones), reserves
their cost within the same budgets, and returns when the whole run has ended. This module says which runs are worth it.
"""

from __future__ import annotations

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import Row, Run
from core.errors import NotFound
from core.generation import run_store
from core.generation.concurrency import DEFAULT_LIMIT
from core.generation.run_store import FAILED_ONLY
from core.providers.registry import ENGINE

MIN_ROWS = 2 * DEFAULT_LIMIT
"""With fewer pending rows, a run is not shared: the worker that has it sends them all within seconds."""

_left_claims: set[tuple[str, str]] = set()  # (claimant, run) of executors in this process that could not release rows


def open_to_helpers(store: Store) -> list[str]:
    """Runs that another worker may join, oldest first: live ones that are running and have enough rows left.

    None on SQLite, which belongs to one machine and allows one writer at a time. A run at the engine is not shared,
    because the engine's processors, not the worker, limit its speed.
    """
    if store.file is not None:
        return []
    live = (Run.state == "running", Run.mode != "batch", Run.provider != ENGINE)
    with store.reading() as session:
        found = session.execute(select(Run.id, Run.dataset_id, Run.scope).where(*live).order_by(Run.id)).all()
        return [
            run_id
            for run_id, dataset_id, scope in found
            if session.scalar(
                select(Row.id)
                .where(*run_store.pending_conditions(dataset_id, run_id, scope == FAILED_ONLY))
                .order_by(Row.updated_at, Row.id)
                .offset(MIN_ROWS - 1)
                .limit(1)
            )
        ]


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
