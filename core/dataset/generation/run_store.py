"""Runs in the ledger, as those see them who carry them out: taken in hand, held, ended; and who has which rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import BindParameter, ColumnElement, Table, func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.dataset.generation import leases, reservations
from core.dataset.grid_store import fill, recipe_of
from core.dataset.recipe import Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row, Run, utcnow
from core.errors import NotFound
from core.message import msg

FINAL = ("done", "failed", "stopped", "paused")  # nobody works on it (any more)
_LEFT = (*FINAL, "waiting")  # no executor has it in hand
FAILED_ONLY = "failed"  # the scope of a run that writes the rows that were put back for it, and no others
_ASKED = {"stopping": "stopped", "pausing": "paused"}
_LONGEST_PAUSE_S = 3600.0  # quotas of a day come back at an hour that nobody tells: it is noticed within one
_ROWS: Table = Row.__table__  # type: ignore[assignment]  # a Table, typed as FromClause


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run as whoever carries it out needs it.

    Attributes:
        mode: live, or batch.
        claimant: who has the rows in hand that this executor claims, see `leases`; "": nobody in particular.
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
    """What may change while a run goes on. `own`: it writes only the rows that were put back for it."""

    state: str
    budget_usd: Decimal | None
    own: bool


def begin(store: Store, run_id: str, claimant: str = "") -> RunContext | None:
    """Take a live run in hand; None when there is nothing (more) to do for it.

    Raises:
        NotFound: no such run.
        BadRecipe: its data set has no recipe, or one that cannot be run.
    """
    with store.session() as session:
        run = lock_run(session, run_id)
        if run.state in _ASKED:
            finish(session, run_id, _ASKED[run.state], None)
        ready = run.state in ("queued", "running") or _due_in_s(run) == 0
        return start_run(session, run, claimant) if ready else None


def due_in_s(store: Store, run_id: str) -> float | None:
    """Seconds until a waiting run is resumed, at least 0; None: it does not wait."""
    with store.reading() as session:
        run = session.get(Run, run_id)
        return None if run is None else _due_in_s(run)


def _due_in_s(run: Run) -> float | None:
    if run.state != "waiting":
        return None
    return 0.0 if run.not_before is None else max(0.0, (run.not_before - utcnow()).total_seconds())


def pause_until(session: Session, run_id: str, pause_s: float, *, growing: bool) -> datetime:
    """When a run that waits is resumed.

    Args:
        pause_s: seconds to wait; with `growing` the shortest pause: it is as long as the run has had no answer, so that
            each is twice the one before, up to an hour.
    """
    now = utcnow()
    if growing:
        run = session.get_one(Run, run_id)
        settled = (Row.dataset_id == run.dataset_id, Row.state.in_(("done", "failed")))
        answered = session.scalar(select(func.max(Row.updated_at)).where(*settled))
        since = max(at for at in (answered, run.started_at, run.created_at) if at is not None)
        pause_s = max(pause_s, min(_LONGEST_PAUSE_S, (now - since).total_seconds()))
    return now + timedelta(seconds=pause_s)


def lock_run(session: Session, run_id: str) -> Run:
    """A run that nobody else changes before this transaction ends.

    Raises:
        NotFound: no such run.
    """
    run = session.get(Run, run_id, with_for_update=True)
    if run is None:
        raise NotFound(msg("This run no longer exists."), msg("Start another one."))
    return run


def start_run(session: Session, run: Run, claimant: str = "") -> RunContext:
    """The order of a run that is under way from now on.

    Rows that a killed executor had claimed are pending again, see `give_back`.

    Raises:
        BadRecipe: its data set has no recipe, or one that cannot be run.
    """
    recipe = recipe_of(session, run.dataset_id)
    recipe.check()
    if run.state in ("queued", "waiting"):
        run.state, run.reason, run.not_before, run.finished_at = "running", None, None, None
    run.note, run.started_at = None, run.started_at or utcnow()
    give_back(session, run.dataset_id)
    return RunContext(
        run_id=run.id,
        dataset_id=run.dataset_id,
        provider=run.provider,
        model=run.model,
        mode=run.mode,
        actor=Actor(id=run.created_by, name=run.created_by, role="editor"),
        recipe=recipe,
        budget_usd=run.budget_usd,
        claimant=claimant,
    )


def lock_controls(session: Session, run_id: str) -> RunControls:
    """The run, which nobody else changes before this transaction ends: claims of a run queue here."""
    query = select(Run.state, Run.budget_usd, Run.scope).where(Run.id == run_id).with_for_update()
    state, budget_usd, scope = session.execute(query).one()
    return RunControls(state, budget_usd, scope == FAILED_ONLY)


def waiting(
    dataset_id: str | BindParameter[str], run_id: str | BindParameter[str], own: bool
) -> tuple[ColumnElement[bool], ...]:
    """Conditions: the rows that wait for a run. With `own`, those that were put back for it; else all of them.

    Rows that it has sent and got back carry its id, too. Few rows of others wait in the ledger beside them, since a
    grid is put there bit by bit: to look past those is cheap.
    """
    pending = (Row.dataset_id == dataset_id, Row.state == "pending")
    return (*pending, Row.run_id == run_id) if own else pending


def give_back(session: Session, dataset_id: str, claimant: str = "") -> dict[str, int]:
    """Rows that `claimant` or a dead executor had claimed are pending again; how many each of the others has in hand.

    What was reserved for those that were never sent is given back; the others may have been billed.

    Rows of a batch are not touched: the provider has them, and nobody needs to be alive for that.
    """
    sent = (_ROWS.c.dataset_id == dataset_id, _ROWS.c.state == "sent", _ROWS.c.batch_id.is_(None))
    query = select(_ROWS.c.claimed_by, func.count()).where(*sent).group_by(_ROWS.c.claimed_by)
    counts: dict[str | None, int] = {who: count for who, count in session.execute(query)}
    lost = {None, claimant, *leases.expired(session, [who for who in counts if who])} & counts.keys()
    if lost:
        theirs = _ROWS.c.claimed_by.in_([who for who in lost if who])
        gone = (*sent, theirs | _ROWS.c.claimed_by.is_(None))
        reservations.abandoned(session, select(_ROWS.c.id).where(*gone))
        back = update(_ROWS).where(*gone)
        session.execute(back.values(state="pending", claimed_by=None, updated_at=utcnow()))
    return {who: count for who, count in counts.items() if who is not None and who not in lost}


def rows_held_by_others(session: Session, context: RunContext) -> int:
    """How many rows other living executors have in hand; what the dead had is given back."""
    living = give_back(session, context.dataset_id)
    return sum(count for who, count in living.items() if who != context.claimant)


def finish_complete(session: Session, context: RunContext) -> bool:
    """End the run as done if nothing is left for it to write, with nobody; whether it was so.

    The data set is held meanwhile, so that nobody adds rows that this run is to write, and then finds it over.
    """
    own = lock_controls(
        session, context.run_id
    ).own  # first the run, then its data set, as everywhere: nobody waits in a circle
    session.execute(select(Dataset.id).where(Dataset.id == context.dataset_id).with_for_update())
    give_back(session, context.dataset_id)
    missing = select(Row.id).where(Row.dataset_id == context.dataset_id, Row.state.in_(("pending", "sent")))
    if own:
        missing = missing.where(Row.run_id == context.run_id)
    if session.scalar(missing.limit(1)) is not None:
        return False
    if not own:
        filled = session.scalar(select(Dataset.filled).where(Dataset.id == context.dataset_id))
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
    held: bool = False,
    not_before: datetime | None = None,
) -> None:
    """The end of a run: its state, why, and no row left with a dead executor. The first end counts.

    With `waiting` it is not over: the worker resumes it at `not_before`, unless it was to pause or stop meanwhile.

    A run that was resumed while it was being paused goes on instead; with `held` it is paused in any case. One that was
    to stop meanwhile is stopped. One that has ended and been resumed before `claimant` was through is left alone.
    """
    run = session.get_one(Run, run_id, with_for_update=True)
    resumed = state == "paused" and run.state in ("running", "queued") and not held
    resumed = resumed or (bool(claimant) and run.state == "queued")
    if state == "waiting":
        state = _ASKED.get(run.state, state)
    if state == "paused" and run.state == "stopping":
        state = "stopped"
    if run.state not in _LEFT and not resumed:
        run.state, run.reason, run.note, run.finished_at = state, reason, None, utcnow()
        run.not_before = not_before if state == "waiting" else None
    give_back(session, run.dataset_id, claimant)
