"""A run is asked for: all rows that wait, or only those that have failed. One run of a data set at a time."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.dataset import grid_store
from core.dataset.failed_rows import Change
from core.dataset.generation import run_store
from core.dataset.generation.progress import ACTIVE, Mode
from core.dataset.recipe import Recipe
from core.db.store import Store, in_chunks, new_id
from core.db.tables import Dataset, Row, Run, utcnow
from core.errors import BadRecipe
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
    """Ask for the missing rows to be written, the failed ones again too; the run's id.

    While a run of this data set is not over, it is that run: clicking twice starts one; from then on it writes all that
    wait, also if it was to write failed rows only. A paused one goes on, with `budget_usd` where one is given; where it
    was of the other mode or another writer, it is over, and a new one begins.

    Args:
        change: other settings for what is written from now on; see `_changed`.

    Raises:
        NotFound: no such data set.
        BadRecipe: nothing is missing, or there is no recipe to write it with; or a `change` while a run is under way.
    """
    with store.session() as session:
        recipe = _changed(session, dataset_id, _one_click(session, dataset_id), change)
        running = _active(session, dataset_id)
        if running is not None:
            running.scope = "all"
            return running.id
        recipe.check()
        if retry_failed:
            _put_back(session, None, Row.dataset_id == dataset_id)
        require_missing_rows(session, dataset_id)
        return _started(session, actor, dataset_id, recipe, budget_usd, mode, "all").id


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
    """Have failed rows written again, all of them or those given, and no others; the run's id.

    Rows that were never written keep waiting. While a run is not over, it writes them too. A paused run that was to
    write all is over then: go on with the missing rows afterwards.

    Args:
        change: other settings for what is written from now on; see `_changed`.

    Raises:
        NotFound: no such data set.
        BadRecipe: none of them has failed, or there is no recipe to write them with; or a `change` while a run is
            under way.
    """
    with store.session() as session:
        recipe = _changed(session, dataset_id, _one_click(session, dataset_id), change)
        recipe.check()
        failed = (Row.dataset_id == dataset_id) & (Row.state == "failed")
        parts = [failed] if row_ids is None else [failed & Row.id.in_(part) for part in in_chunks(sorted(set(row_ids)))]
        if not any(session.scalar(select(Row.id).where(part).limit(1)) for part in parts):
            raise BadRecipe(
                msg("No row has failed."), msg("Refresh the table: the row may have been written meanwhile.")
            )
        running = _active(session, dataset_id)
        run = running or _started(session, actor, dataset_id, recipe, budget_usd, mode, run_store.FAILED_ONLY)
        session.flush()
        for part in parts:
            _put_back(session, run.id, part)
        return run.id


def queue_again(run: Run) -> None:
    """Let a run that is over, or held, go on."""
    run.state, run.reason, run.note, run.finished_at, run.not_before = "queued", None, None, None, None


def require_missing_rows(session: Session, dataset_id: str, run: Run | None = None) -> None:
    """Raise BadRecipe unless something is left to write, for this run or at all."""
    if run is not None and run.scope == run_store.FAILED_ONLY:
        missing = session.scalar(select(Row.id).where(*run_store.waiting(dataset_id, run.id, own=True)).limit(1))
    else:
        missing = grid_store.counts(session, [dataset_id])[dataset_id].pending
    if not missing:
        raise BadRecipe(
            msg("All rows are written."), msg("Add values or repeats to generate more, or train on these rows.")
        )


def _one_click(session: Session, dataset_id: str) -> Recipe:
    """The recipe of a data set for which nobody else asks for a run until this transaction ends.

    First the run, then its data set, as whoever carries a run out holds them: nobody waits in a circle.
    """
    session.execute(select(Run.id).where(Run.dataset_id == dataset_id, Run.state.in_(ACTIVE)).with_for_update())
    session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())
    return grid_store.recipe_of(session, dataset_id)


def _changed(session: Session, dataset_id: str, recipe: Recipe, change: Change | None) -> Recipe:
    """The recipe of a data set after `change`, which is kept: rows that are written from now on follow it.

    Rows that are there keep their text, and every row its key, so that a late answer still finds the row that it was
    bought for. A run that is under way has its settings in hand and would not follow.
    """
    if change is None or (changed := change.of(recipe)) == recipe:
        return recipe
    if _active(session, dataset_id) is not None:
        raise BadRecipe(
            msg("A run of this data set is under way."), msg("Wait until it has ended, or stop it; then try again.")
        )
    changed.check()
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(recipe=changed.to_dict()))
    return changed


def _active(session: Session, dataset_id: str) -> Run | None:
    return session.scalar(select(Run).where(Run.dataset_id == dataset_id, Run.state.in_(ACTIVE)))


def _started(
    session: Session,
    actor: Actor,
    dataset_id: str,
    recipe: Recipe,
    budget_usd: Decimal | None,
    mode: Mode,
    scope: str,
) -> Run:
    """A new run, or the paused one that goes on: same mode, same writer, not to write more than is asked for now."""
    writer = (recipe.provider, recipe.model)
    for paused in session.scalars(select(Run).where(Run.dataset_id == dataset_id, Run.state == "paused")):
        alike = paused.mode == mode and (paused.provider, paused.model) == writer
        if alike and scope in ("all", paused.scope):
            paused.budget_usd = paused.budget_usd if budget_usd is None else budget_usd
            paused.scope = scope
            queue_again(paused)
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


def _put_back(session: Session, run_id: str | None, where: ColumnElement[bool]) -> None:
    """Failed rows wait again: for one run, or for any."""
    again = update(Row).where(where, Row.state == "failed")
    session.execute(again.values(state="pending", reason=None, run_id=run_id, updated_at=utcnow()))
