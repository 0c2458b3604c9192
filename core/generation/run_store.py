"""Runs in the database: starts, pauses, resumes and finishes them, tracks who holds their rows, and releases rows held
by dead executors.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Table, func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, on_behalf_of
from core.datasets.grid_store import fill, recipe_of
from core.datasets.recipe import Recipe
from core.db import leases
from core.db.store import Store
from core.db.tables import Dataset, Person, Row, Run, utcnow
from core.errors import NotFound
from core.generation import reservations
from core.message import Message, msg

FINAL = ("done", "failed", "stopped", "paused")  # states in which no executor works on the run
_INACTIVE = (*FINAL, "waiting")
FAILED_ONLY = "failed"  # scope of a run that only retries failed rows
_REQUESTED_END = {"stopping": "stopped", "pausing": "paused"}
_MAX_PAUSE_S = 3600.0  # providers do not report when a daily quota resets, so check at least once an hour
_ROWS: Table = Row.__table__  # type: ignore[assignment]  # a Table, typed as FromClause


@dataclass(frozen=True, slots=True)
class RunContext:
    """The data about a run that its executor needs.

    Attributes:
        mode: live, or batch.
        claimant: id under which this executor claims rows (see `core.db.leases`); "" for a batch run, which has none.
    """

    run_id: str
    dataset_id: str
    provider: str
    model: str
    mode: str
    actor: Actor
    recipe: Recipe
    budget_usd: Decimal | None
    claimant: str = ""


class RunControls(NamedTuple):
    """Settings that may change during a run. `failed_only`: whether the run only retries failed rows."""

    state: str
    budget_usd: Decimal | None
    failed_only: bool


def begin(store: Store, run_id: str, claimant: str = "") -> RunContext | None:
    """Start or resume a live run. None if there is nothing to do for it, or this worker has left it to others.

    Raises:
        NotFound: the run does not exist.
        BadRecipe: the data set has no recipe, or an invalid one.
    """
    with store.session() as session:
        run = lock_run(session, run_id)
        if run.state in _REQUESTED_END:
            finish(session, run_id, _REQUESTED_END[run.state], None)
        unable = run.state == "running" and claimant.rpartition(":")[0] in run.unable_workers
        ready = run.state in ("queued", "running") or _due_in_s(run) == 0
        return start_run(session, run, claimant) if ready and not unable else None


def owner_disabled(session: Session, run_id: str) -> Message | None:
    """Why a run must not go on: the person who started it, or resumed it last, is disabled. None: it may."""
    owner = select(Person.name).join(Run, Run.created_by == Person.id)
    name = session.scalar(owner.where(Run.id == run_id, Person.disabled_at.is_not(None)))
    if name is None:
        return None
    return msg(
        "{name}, who started this run, has been disabled. Written rows are kept; another editor can resume it.",
        name=name,
    )


def take_over(session: Session, run: Run, actor: Actor) -> None:
    """Whoever resumes the run of a disabled person is its owner from then on."""
    if owner_disabled(session, run.id) is not None:
        run.created_by = actor.id


def due_in_s(store: Store, run_id: str) -> float | None:
    """Seconds until a waiting run resumes, at least 0; None if the run is not waiting."""
    with store.reading() as session:
        run = session.get(Run, run_id)
        return None if run is None else _due_in_s(run)


def _due_in_s(run: Run) -> float | None:
    if run.state != "waiting":
        return None
    return 0.0 if run.not_before is None else max(0.0, (run.not_before - utcnow()).total_seconds())


def resume_time(session: Session, run_id: str, pause_s: float, *, increasing: bool) -> datetime:
    """The time (UTC) at which a waiting run resumes.

    Args:
        pause_s: seconds to wait. With `increasing` this is the minimum: the pause lasts as long as the run has been
            without an answer, so each pause is twice as long as the previous one, up to an hour.
    """
    now = utcnow()
    if increasing:
        run = session.get_one(Run, run_id)
        settled = (Row.dataset_id == run.dataset_id, Row.state.in_(("done", "failed")))
        last_answer = session.scalar(select(func.max(Row.updated_at)).where(*settled))
        last_progress = max(time for time in (last_answer, run.started_at, run.created_at) if time is not None)
        pause_s = max(pause_s, min(_MAX_PAUSE_S, (now - last_progress).total_seconds()))
    return now + timedelta(seconds=pause_s)


def lock_run(session: Session, run_id: str) -> Run:
    """Return the run, locked until the end of this transaction.

    Raises:
        NotFound: the run does not exist.
    """
    run = session.get(Run, run_id, with_for_update=True)
    if run is None:
        raise NotFound(msg("This run no longer exists."), msg("Start another one."))
    return run


def start_run(session: Session, run: Run, claimant: str = "") -> RunContext:
    """Set a run to running and return its context. Rows claimed by dead executors become pending again.

    Raises:
        BadRecipe: the data set has no recipe, or an invalid one.
    """
    recipe = recipe_of(session, run.dataset_id)
    recipe.check()
    if run.state in ("queued", "waiting"):
        run.state, run.reason, run.not_before, run.finished_at = "running", None, None, None
        run.unable_workers = {}
    run.note, run.started_at = None, run.started_at or utcnow()
    release_dead_claims(session, run.dataset_id)
    return RunContext(
        run_id=run.id,
        dataset_id=run.dataset_id,
        provider=run.provider,
        model=run.model,
        mode=run.mode,
        actor=on_behalf_of(run.created_by),
        recipe=recipe,
        budget_usd=run.budget_usd,
        claimant=claimant,
    )


def lock_controls(session: Session, run_id: str) -> RunControls:
    """Return the run's state, budget and scope. Locks the run until the end of the transaction, so that claims are
    serialised.
    """
    query = select(Run.state, Run.budget_usd, Run.scope).where(Run.id == run_id).with_for_update()
    state, budget_usd, scope = session.execute(query).one()
    return RunControls(state, budget_usd, scope == FAILED_ONLY)


def pending_conditions(
    dataset_id: str | BindParameter[str], run_id: str | BindParameter[str], failed_only: bool
) -> tuple[ColumnElement[bool], ...]:
    """SQL conditions for a run's pending rows. With `failed_only`, only the failed rows that were queued for it.

    Filtering by run id after state is cheap: the grid is filled in small steps, so few pending rows belong to other
    runs.
    """
    pending = (Row.dataset_id == dataset_id, Row.state == "pending")
    return (*pending, Row.run_id == run_id) if failed_only else pending


def release_dead_claims(session: Session, dataset_id: str, claimant: str = "") -> dict[str, int]:
    """Make rows claimed by `claimant` or by dead executors pending again.

    Reservations of requests that were never sent are released; the others may have been billed. Rows in a batch are
    left unchanged, because the provider has them, whether or not an executor is alive.

    Returns:
        The number of rows claimed by each other live executor.
    """
    sent = (_ROWS.c.dataset_id == dataset_id, _ROWS.c.state == "sent", _ROWS.c.batch_id.is_(None))
    query = select(_ROWS.c.claimed_by, func.count()).where(*sent).group_by(_ROWS.c.claimed_by)
    counts: dict[str | None, int] = {owner: count for owner, count in session.execute(query)}
    dead = {None, claimant, *leases.dead_claimants(session, [owner for owner in counts if owner])} & counts.keys()
    if dead:
        of_dead = _ROWS.c.claimed_by.in_([owner for owner in dead if owner])
        claimed = (*sent, of_dead | _ROWS.c.claimed_by.is_(None))
        reservations.settle_abandoned(session, select(_ROWS.c.id).where(*claimed))
        released = update(_ROWS).where(*claimed)
        session.execute(released.values(state="pending", claimed_by=None, updated_at=utcnow()))
    return {owner: count for owner, count in counts.items() if owner is not None and owner not in dead}


def rows_held_by_others(session: Session, context: RunContext) -> int:
    """Number of rows claimed by other live executors. Claims of dead executors are released first."""
    counts = release_dead_claims(session, context.dataset_id)
    return sum(count for owner, count in counts.items() if owner != context.claimant)


def finish_if_complete(session: Session, context: RunContext) -> bool:
    """End the run as done if no row is left to write. Return True if the run ended.

    The data set is locked during this, so that rows cannot be added for a run that has just ended.
    """
    # The lock order is always run, then data set, which prevents deadlocks.
    failed_only = lock_controls(session, context.run_id).failed_only
    session.execute(select(Dataset.id).where(Dataset.id == context.dataset_id).with_for_update())
    release_dead_claims(session, context.dataset_id)
    missing = select(Row.id).where(Row.dataset_id == context.dataset_id, Row.state.in_(("pending", "sent")))
    if failed_only:
        missing = missing.where(Row.run_id == context.run_id)
    if session.scalar(missing.limit(1)) is not None:
        return False
    if not failed_only:
        filled = session.scalar(select(Dataset.fill_cursor).where(Dataset.id == context.dataset_id))
        if filled is None or filled < 0 or fill(session, context.dataset_id, context.recipe):
            return False
    finish(session, context.run_id, "done", None)
    return True


def finish(
    session: Session,
    run_id: str,
    state: str,
    reason: str | None,
    claimant: str = "",
    *,
    force_pause: bool = False,
    not_before: datetime | None = None,
) -> None:
    """Set the final state and reason of a run and release its claims.

    If a run has already ended, its first final state is kept.

    A `waiting` run has not ended: the worker resumes it at `not_before`, unless it was asked to pause or stop.

    A run that was resumed while it was being paused continues, unless `force_pause` is set. If it was asked to stop in
    the meantime, it is stopped. A run that ended and was resumed before `claimant` finished is left unchanged.
    """
    run = session.get_one(Run, run_id, with_for_update=True)
    resumed = state == "paused" and run.state in ("running", "queued") and not force_pause
    resumed = resumed or (bool(claimant) and run.state == "queued")
    if state == "waiting":
        state = _REQUESTED_END.get(run.state, state)
    if state == "paused" and run.state == "stopping":
        state = "stopped"
    if run.state not in _INACTIVE and not resumed:
        run.state, run.reason, run.note, run.finished_at = state, reason, None, utcnow()
        run.not_before = not_before if state == "waiting" else None
    release_dead_claims(session, run.dataset_id, claimant)


def check_run(store: Store, run_id: str, note: str | None) -> tuple[str, Decimal | None]:
    """Return the run's state and budget. Updates the run's note if it has changed."""
    with store.reading() as session:
        run = session.get_one(Run, run_id)
        state, budget, current_note = run.state, run.budget_usd, run.note
    if current_note != note:
        with store.session() as session:
            session.execute(update(Run).where(Run.id == run_id, Run.state.not_in(FINAL)).values(note=note))
    return state, budget
