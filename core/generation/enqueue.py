"""Enqueue a run: for all pending rows, or only for failed ones. One active run per data set."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.datasets import grid_store
from core.datasets.recipe import Recipe
from core.db.store import Store, in_chunks, new_id
from core.db.tables import Dataset, Row, Run, utcnow
from core.errors import BadRecipe
from core.generation import run_store
from core.generation.failed_rows import Change
from core.generation.progress import ACTIVE, Mode
from core.message import msg


def enqueue(
    store: Store,
    actor: Actor,
    dataset_id: str,
    *,
    budget_usd: Decimal | None = None,
    retry_failed: bool = True,
    mode: Mode = "live",
    change: Change | None = None,
) -> str:
    """Queue a run that writes the missing rows, and retries the failed ones. Returns the run's id.

    If the data set has an active run, that run is returned (so clicking twice starts one), and from then on it writes
    all pending rows, even if it was to retry failed rows only. A paused run is resumed, with `budget_usd` if given; if
    its mode or model differs, it is stopped and a new run begins.

    Args:
        change: new settings for the rows written from now on; see `_apply_change`.

    Raises:
        NotFound: no such data set.
        BadRecipe: nothing is missing, or the data set has no recipe; or a `change` during an active run.
    """
    with store.session() as session:
        recipe = _apply_change(session, dataset_id, _lock_dataset(session, dataset_id), change)
        active = _active_run(session, dataset_id)
        if active is not None:
            active.scope = "all"
            return active.id
        recipe.check()
        if retry_failed:
            _reset_failed(session, None, Row.dataset_id == dataset_id)
        require_missing_rows(session, dataset_id)
        return _create_or_resume(session, actor, dataset_id, recipe, budget_usd, mode, "all").id


def retry_failed(
    store: Store,
    actor: Actor,
    dataset_id: str,
    row_ids: Sequence[int] | None = None,
    *,
    budget_usd: Decimal | None = None,
    mode: Mode = "live",
    change: Change | None = None,
) -> str:
    """Queue a run that retries failed rows only: all of them, or the given ones. Returns the run's id.

    Rows that were never written stay pending. An active run writes the failed rows too. A paused run that was to write
    all rows is stopped: write the missing rows in a new run afterwards.

    Args:
        change: new settings for the rows written from now on; see `_apply_change`.

    Raises:
        NotFound: no such data set.
        BadRecipe: no (given) row has failed, or the data set has no recipe; or a `change` during an active run.
    """
    with store.session() as session:
        recipe = _apply_change(session, dataset_id, _lock_dataset(session, dataset_id), change)
        recipe.check()
        failed = (Row.dataset_id == dataset_id) & (Row.state == "failed")
        conditions = (
            [failed] if row_ids is None else [failed & Row.id.in_(chunk) for chunk in in_chunks(sorted(set(row_ids)))]
        )
        if not any(session.scalar(select(Row.id).where(condition).limit(1)) for condition in conditions):
            raise BadRecipe(
                msg("No row has failed."), msg("Refresh the table: the row may have been written meanwhile.")
            )
        active = _active_run(session, dataset_id)
        run = active or _create_or_resume(session, actor, dataset_id, recipe, budget_usd, mode, run_store.FAILED_ONLY)
        session.flush()
        for condition in conditions:
            _reset_failed(session, run.id, condition)
        return run.id


def requeue(run: Run) -> None:
    """Queue a run again that has ended or is paused."""
    run.state, run.reason, run.note, run.finished_at, run.not_before = "queued", None, None, None, None


def require_missing_rows(session: Session, dataset_id: str, run: Run | None = None) -> None:
    """Raise BadRecipe unless rows are left to write, for this run or for any."""
    if run is not None and run.scope == run_store.FAILED_ONLY:
        missing = session.scalar(
            select(Row.id).where(*run_store.pending_conditions(dataset_id, run.id, failed_only=True)).limit(1)
        )
    else:
        missing = grid_store.counts(session, [dataset_id])[dataset_id].pending
    if not missing:
        raise BadRecipe(
            msg("All rows are written."), msg("Add values or repeats to generate more, or train on these rows.")
        )


def _lock_dataset(session: Session, dataset_id: str) -> Recipe:
    """Lock the active run and the data set until the end of this transaction. Returns the recipe.

    Lock order is run, then data set, everywhere: this prevents deadlocks.
    """
    session.execute(select(Run.id).where(Run.dataset_id == dataset_id, Run.state.in_(ACTIVE)).with_for_update())
    session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())
    return grid_store.recipe_of(session, dataset_id)


def _apply_change(session: Session, dataset_id: str, recipe: Recipe, change: Change | None) -> Recipe:
    """Apply `change` to the recipe of a data set and save it: rows written from now on follow it.

    Existing rows keep their text, and all rows keep their key, so that a late answer still finds its row. An active run
    has already read its settings and would not follow the change.
    """
    if change is None or (changed := change.apply_to(recipe)) == recipe:
        return recipe
    if _active_run(session, dataset_id) is not None:
        raise BadRecipe(
            msg("A run of this data set is in progress."), msg("Wait for it to end, or stop it, then try again.")
        )
    changed.check()
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(recipe=changed.to_dict()))
    return changed


def _active_run(session: Session, dataset_id: str) -> Run | None:
    return session.scalar(select(Run).where(Run.dataset_id == dataset_id, Run.state.in_(ACTIVE)))


def _create_or_resume(
    session: Session,
    actor: Actor,
    dataset_id: str,
    recipe: Recipe,
    budget_usd: Decimal | None,
    mode: Mode,
    scope: str,
) -> Run:
    """A new run, or a paused one that is resumed: same mode, same model, and a scope not wider than `scope`."""
    model_key = (recipe.provider, recipe.model)
    for paused in session.scalars(select(Run).where(Run.dataset_id == dataset_id, Run.state == "paused")):
        same_settings = paused.mode == mode and (paused.provider, paused.model) == model_key
        if same_settings and scope in ("all", paused.scope):
            paused.budget_usd = paused.budget_usd if budget_usd is None else budget_usd
            paused.scope = scope
            requeue(paused)
            return paused
        paused.state = "stopped"
    run = Run(
        id=new_id(),
        dataset_id=dataset_id,
        provider=recipe.provider,
        model=recipe.model,
        mode=mode,
        scope=scope,
        budget_usd=budget_usd,
        created_by=actor.id,
    )
    session.add(run)
    return run


def _reset_failed(session: Session, run_id: str | None, where: ColumnElement[bool]) -> None:
    """Make failed rows pending again: for one run, or for any."""
    statement = update(Row).where(where, Row.state == "failed")
    session.execute(statement.values(state="pending", reason=None, run_id=run_id, updated_at=utcnow()))
