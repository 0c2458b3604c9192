"""Runs as the pages use them: start, pause, stop, progress. The worker executes them."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Batch, Dataset, Run
from core.errors import BadRecipe
from core.generation import run_store
from core.generation.enqueue import enqueue, requeue, require_missing_rows, retry_failed
from core.generation.failed_rows import Change, FailedRows
from core.generation.previewing import PreviewRow, preview
from core.generation.progress import ACTIVE, Mode, RunProgress, latest, progress
from core.message import msg

__all__ = [
    "ACTIVE",
    "Change",
    "FailedRows",
    "Mode",
    "PreviewRow",
    "RunProgress",
    "enqueue",
    "latest",
    "preview",
    "progress",
    "raise_budget",
    "request_pause",
    "request_stop",
    "resume",
    "retry_failed",
]

_RESUMABLE = ("waiting", "pausing", "paused", "stopped", "failed", "done")


def request_stop(store: Store, actor: Actor, run_id: str) -> None:
    """Ask a run to stop. No new request is sent after about a second; answers that arrived are kept. Safe to repeat.

    Raises:
        NotFound: no such run.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        if run.state in ("running", "pausing") or (run.state in ("queued", "paused") and _has_open_batch(session, run)):
            run.state = "stopping"  # the worker cancels batches, which would continue and be billed
        elif run.state == "queued":
            run_store.finish(session, run_id, "stopped", None)
        elif run.state in ("paused", "waiting"):  # keep the reason of a waiting run: the remedies depend on it
            run.state, run.not_before = "stopped", None


def request_pause(store: Store, actor: Actor, run_id: str) -> None:
    """Ask a run to pause. Like `request_stop`, but `resume` continues the run. Safe to repeat.

    Raises:
        NotFound: no such run.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        if run.state == "queued":
            run_store.finish(session, run_id, "paused", None, force_pause=True)
        elif run.state == "waiting":
            run.state, run.reason, run.not_before = "paused", None, None
        elif run.state == "running":
            run.state = "pausing"


def resume(store: Store, actor: Actor, run_id: str) -> None:
    """Continue a run that was paused or stopped, is waiting, or failed; its cost adds up.

    Does nothing if this run or another one of the same data set is active.

    Raises:
        NotFound: no such run.
        BadRecipe: nothing is missing.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        session.execute(select(Dataset.id).where(Dataset.id == run.dataset_id).with_for_update())
        others = select(Run.id).where(Run.dataset_id == run.dataset_id, Run.id != run_id, Run.state.in_(ACTIVE))
        if run.state not in _RESUMABLE or session.scalar(others.limit(1)) is not None:
            return
        if run.state == "pausing":
            run.state = "running"
            return
        require_missing_rows(session, run.dataset_id, run)
        requeue(run)


def raise_budget(store: Store, actor: Actor, run_id: str, budget_usd: Decimal | None) -> None:
    """Set a run's budget; None: no limit. An active run applies it from its next rows on.

    Raises:
        NotFound: no such run.
        BadRecipe: the amount is invalid.
    """
    if budget_usd is not None and not (budget_usd.is_finite() and budget_usd > 0):
        raise BadRecipe(
            msg("A budget of ${budget_usd} does not cover any request.", budget_usd=budget_usd),
            msg("Enter an amount above zero."),
        )
    with store.session() as session:
        run_store.lock_run(session, run_id).budget_usd = budget_usd


def _has_open_batch(session: Session, run: Run) -> bool:
    """True if a batch of this run is unfinished."""
    query = select(Batch.id).where(Batch.run_id == run.id, Batch.state.not_in(("done", "failed", "cancelled")))
    return session.scalar(query.limit(1)) is not None
