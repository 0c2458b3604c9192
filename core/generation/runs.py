"""The pages' interface to runs: start, pause, stop, resume, retry. Each data set has at most one active run, which the
worker executes.

A run writes all pending rows, or only the failed ones. A retry may change the settings for rows that have not been
written yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import grid_store
from core.datasets.recipe import Recipe
from core.db.store import Store, in_chunks, new_id
from core.db.tables import Batch, Dataset, Row, Run, utcnow
from core.errors import BadRecipe
from core.generation import run_progress, run_store
from core.generation.run_progress import ACTIVE, Mode
from core.message import msg
from core.ownership import check_within, edits, reads, require_private
from core.pricing.budget import CENT

_MIN_TOKEN_LIMIT = 256  # a lower limit cuts off any story
_TEMPERATURE_STEP = Decimal("0.3")  # amount by which the next temperature is lower
_MIN_TEMPERATURE = Decimal("0.1")  # at 0, a small model repeats itself

_RESUMABLE = ("waiting", "pausing", "paused", "stopped", "failed", "done")


@dataclass(frozen=True, slots=True)
class Change:
    """Changed settings for a data set's remaining rows; None means unchanged."""

    max_tokens: int | None = None
    temperature: float | None = None
    provider: str | None = None
    model: str | None = None

    def apply_to(self, recipe: Recipe) -> Recipe:
        """Return the recipe with these settings; validate it before use."""
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(recipe, **{name: value for name, value in settings.items() if value is not None})


def higher_limit(max_tokens: int) -> int:
    """The next token limit to try after a cut-off at `max_tokens`: twice as high, at least 256."""
    return max(2 * max_tokens, _MIN_TOKEN_LIMIT)


def lower_temperature(temperature: float) -> float | None:
    """The next temperature to try after empty answers; None if it is already at the minimum."""
    lower = max(Decimal(str(temperature)) - _TEMPERATURE_STEP, _MIN_TEMPERATURE)
    return float(lower) if lower < Decimal(str(temperature)) else None


@requires("editor")
@edits(dataset="dataset_id")
@reads(model="change.model")
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
    """Queue a run that writes the missing rows, and retries the failed ones if requested. Return the run's id.

    If the data set has an active run, that run is returned (so that clicking twice starts only one), and from then on
    it writes all pending rows, even if it was started to retry only failed rows. A paused run is resumed, with
    `budget_usd` if given; if its mode or model differs, it is stopped and a new run begins.

    Args:
        change: new settings for the rows written from now on; see `_apply_change`.

    Raises:
        NotFound: the data set does not exist.
        BadRecipe: nothing is missing, the data set has no recipe, or a `change` was requested during an active run.
        NotAllowed: the model belongs to a private job of someone else; or the new one to any private job, and the data
            set is shared.
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
        _require_missing_rows(session, dataset_id)
        return _create_or_resume(session, actor, dataset_id, recipe, budget_usd, mode, "all").id


@requires("editor")
@edits(dataset="dataset_id")
@reads(model="change.model")
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
    """Queue a run that retries only failed rows: all of them, or the given ones. Return the run's id.

    Rows that were never written stay pending. An active run also writes the failed rows. A paused run over all rows is
    stopped; write the missing rows in a new run afterwards.

    Args:
        change: new settings for the rows written from now on; see `_apply_change`.

    Raises:
        NotFound: the data set does not exist.
        BadRecipe: no (given) row has failed, the data set has no recipe, or a `change` was requested during an active
            run.
        NotAllowed: see `enqueue`.
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
                msg("No row has failed."), msg("Refresh the table: the row may have been written in the meantime.")
            )
        active = _active_run(session, dataset_id)
        run = active or _create_or_resume(session, actor, dataset_id, recipe, budget_usd, mode, run_store.FAILED_ONLY)
        session.flush()
        for condition in conditions:
            _reset_failed(session, run.id, condition)
        return run.id


@requires("editor")
@edits(run="run_id")
def request_stop(store: Store, actor: Actor, run_id: str) -> None:
    """Ask a run to stop. No new requests are sent after about a second; answers that have arrived are kept. Safe to
    repeat.

    Raises:
        NotFound: the run does not exist.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        if run.state in ("running", "pausing") or (run.state in ("queued", "paused") and _has_open_batch(session, run)):
            run.state = "stopping"  # the worker cancels batches, which would continue and be billed
        elif run.state == "queued":
            run_store.finish(session, run_id, "stopped", None)
        elif run.state in ("paused", "waiting"):  # keep a waiting run's reason, because the remedies depend on it
            run.state, run.not_before = "stopped", None


@requires("editor")
@edits(run="run_id")
def request_pause(store: Store, actor: Actor, run_id: str) -> None:
    """Ask a run to pause. Like `request_stop`, but `resume` continues the run. Safe to repeat.

    Raises:
        NotFound: the run does not exist.
    """
    with store.session() as session:
        run = run_store.lock_run(session, run_id)
        if run.state == "queued":
            run_store.finish(session, run_id, "paused", None, force_pause=True)
        elif run.state == "waiting":
            run.state, run.reason, run.not_before = "paused", None, None
        elif run.state == "running":
            run.state = "pausing"


@requires("editor")
@edits(run="run_id")
def resume(store: Store, actor: Actor, run_id: str) -> None:
    """Continue a run that was paused or stopped, is waiting, or failed; its cost continues to add up.

    Does nothing if this run or another run of the same data set is active.

    Raises:
        NotFound: the run does not exist.
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
        _require_missing_rows(session, run.dataset_id, run)
        check_within(session, actor, "read", "model", [run.model])
        run_store.take_over(session, run, actor)
        _requeue(run)


@requires("editor")
@edits(run="run_id")
def raise_budget(store: Store, actor: Actor, run_id: str, budget_usd: Decimal | None) -> None:
    """Set a run's budget; None means no limit. An active run applies it to its next rows.

    Raises:
        NotFound: the run does not exist.
        BadRecipe: the amount is invalid.
    """
    if budget_usd is not None and not (budget_usd.is_finite() and budget_usd > 0):
        raise BadRecipe(
            msg("A budget of ${budget_usd} does not cover any request.", budget_usd=budget_usd),
            msg("Enter an amount above zero."),
        )
    with store.session() as session:
        run_store.lock_run(session, run_id).budget_usd = budget_usd


def last_settings(store: Store, dataset_id: str) -> tuple[Mode, Decimal | None]:
    """The mode of the newest run of a data set, and its remaining budget (at least one cent; None without a budget)."""
    last = run_progress.latest(store, dataset_id)
    if last is None:
        return "live", None
    if last.budget_usd is None:
        return last.mode, None
    return last.mode, max(last.budget_usd - (last.max_usd or Decimal(0)), CENT)


def _has_open_batch(session: Session, run: Run) -> bool:
    """Whether a batch of this run is unfinished."""
    query = select(Batch.id).where(Batch.run_id == run.id, Batch.state.not_in(("done", "failed", "cancelled")))
    return session.scalar(query.limit(1)) is not None


def _requeue(run: Run) -> None:
    """Requeue a run that has ended or is paused."""
    run.state, run.reason, run.note, run.finished_at, run.not_before = "queued", None, None, None, None


def _require_missing_rows(session: Session, dataset_id: str, run: Run | None = None) -> None:
    """Raise BadRecipe unless rows are left to write, for this run or for any run."""
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
    """Lock the active run and the data set until the end of this transaction. Return the recipe.

    The lock order is always run, then data set, which prevents deadlocks.
    """
    session.execute(select(Run.id).where(Run.dataset_id == dataset_id, Run.state.in_(ACTIVE)).with_for_update())
    session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())
    return grid_store.recipe_of(session, dataset_id)


def _apply_change(session: Session, dataset_id: str, recipe: Recipe, change: Change | None) -> Recipe:
    """Apply `change` to a data set's recipe and save it, so that rows written from now on follow it.

    Existing rows keep their text, and all rows keep their key, so that a late answer still finds its row. An active run
    has already read its settings and would ignore the change.
    """
    if change is None or (changed := change.apply_to(recipe)) == recipe:
        return recipe
    if _active_run(session, dataset_id) is not None:
        raise BadRecipe(
            msg("A run of this data set is in progress."), msg("Wait for it to end, or stop it, then try again.")
        )
    changed.check()
    dataset = session.get_one(Dataset, dataset_id)
    if changed.model != recipe.model:
        require_private(session, changed.model, dataset)
    dataset.recipe = changed.to_dict()
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
    """Create a run, or resume a paused one with the same mode, the same model, and a scope not wider than `scope`.

    Raises:
        NotAllowed: the model belongs to a private job of someone else.
    """
    check_within(session, actor, "read", "model", [recipe.model])
    model_key = (recipe.provider, recipe.model)
    for paused in session.scalars(select(Run).where(Run.dataset_id == dataset_id, Run.state == "paused")):
        same_settings = paused.mode == mode and (paused.provider, paused.model) == model_key
        if same_settings and scope in ("all", paused.scope):
            paused.budget_usd = paused.budget_usd if budget_usd is None else budget_usd
            paused.scope = scope
            run_store.take_over(session, paused, actor)
            _requeue(paused)
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
    """Make failed rows pending again, for one run or for any run."""
    statement = update(Row).where(where, Row.state == "failed")
    session.execute(statement.values(state="pending", reason=None, run_id=run_id, updated_at=utcnow()))
