"""Runs as pages see them: begin, pause, stop, look. The worker carries them out."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import spend
from core.cost.book import PriceBook, cost_of
from core.dataset import grid, matrix
from core.dataset.recipe import Recipe
from core.dataset.writing import ledger
from core.dataset.writing.outcomes import judge
from core.dataset.writing.progress import ACTIVE, Mode, RunProgress, latest, progress
from core.db.store import Store, new_id
from core.db.tables import Batch, Dataset, Row, Run, utcnow
from core.errors import BadRecipe, NotFound
from core.providers import Client, Completion, CompletionRequest

__all__ = [
    "ACTIVE",
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
]

_RESUMED = {"pausing": "running", "paused": "queued", "stopped": "queued", "failed": "queued", "done": "queued"}


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One story of a preview. `reason` says why it is not a finished one."""

    values: dict[str, str]
    prompt: str
    text: str
    reason: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


def enqueue(
    store: Store,
    actor: Actor,
    dataset_id: str,
    *,
    budget_usd: Decimal | None = None,
    retry_failed: bool = True,
    mode: Mode = "live",
) -> str:
    """Ask for the missing rows to be written, the failed ones again too; the run's id.

    While a run of this data set is not over, it is that run: clicking twice starts one. A paused one goes on, with
    `budget_usd` where one is given; where it was of the other mode, it is over, and a new one begins.

    Raises:
        NotFound: no such data set.
        BadRecipe: nothing is missing, or there is no recipe to write it with.
    """
    with store.session() as session:
        session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())  # one click at a time
        recipe = matrix.recipe_of(session, dataset_id)
        running = session.scalar(select(Run.id).where(Run.dataset_id == dataset_id, Run.state.in_(ACTIVE)))
        if running is not None:
            return running
        recipe.check()
        if retry_failed:
            failed = update(Row).where(Row.dataset_id == dataset_id, Row.state == "failed")
            session.execute(failed.values(state="pending", reason=None, updated_at=utcnow()))
        _must_be_missing(session, dataset_id)
        for paused in session.scalars(select(Run).where(Run.dataset_id == dataset_id, Run.state == "paused")):
            if paused.mode == mode:
                paused.budget_usd = paused.budget_usd if budget_usd is None else budget_usd
                return _queue_again(paused)
            paused.state = "stopped"
        run = Run(
            id=new_id(),
            dataset_id=dataset_id,
            provider=recipe.provider,
            model=recipe.model,
            mode=mode,
            budget_usd=budget_usd,
            created_by=actor.id,
        )
        session.add(run)
        return run.id


def request_stop(store: Store, actor: Actor, run_id: str) -> None:
    """Ask a run to stop: no new request within a second, every row that has come is kept. Twice does no harm.

    Raises:
        NotFound: no such run.
    """
    with store.session() as session:
        run = _run(session, run_id)
        if run.state in ("running", "pausing") or (run.state in ("queued", "paused") and _at_provider(session, run)):
            run.state = "stopping"  # the worker cancels what is with the provider: it would go on writing, and billing
        elif run.state == "queued":
            ledger.finish(session, run_id, "stopped", None)
        elif run.state == "paused":
            run.state = "stopped"


def request_pause(store: Store, actor: Actor, run_id: str) -> None:
    """Ask a run to hold: as `request_stop`, but it is not over, and `resume` lets it go on. Twice does no harm.

    Raises:
        NotFound: no such run.
    """
    with store.session() as session:
        run = _run(session, run_id)
        if run.state == "queued":
            ledger.finish(session, run_id, "paused", None, held=True)
        elif run.state == "running":
            run.state = "pausing"


def resume(store: Store, actor: Actor, run_id: str) -> None:
    """Let a run go on that was paused, was stopped, or ended on a problem; with what it has spent already on its bill.

    One that is under way, or another one of the same data set, is left as it is.

    Raises:
        NotFound: no such run.
        BadRecipe: nothing is missing.
    """
    with store.session() as session:
        run = _run(session, run_id)
        session.execute(select(Dataset.id).where(Dataset.id == run.dataset_id).with_for_update())
        others = select(Run.id).where(Run.dataset_id == run.dataset_id, Run.id != run_id, Run.state.in_(ACTIVE))
        if run.state not in _RESUMED or session.scalar(others.limit(1)) is not None:
            return
        if run.state == "pausing":
            run.state = "running"
            return
        _must_be_missing(session, run.dataset_id)
        _queue_again(run)


def raise_budget(store: Store, actor: Actor, run_id: str, budget_usd: Decimal | None) -> None:
    """Give a run another budget, None: no limit. One that is under way heeds it with its next rows.

    Raises:
        NotFound: no such run.
        BadRecipe: this is no amount.
    """
    if budget_usd is not None and not (budget_usd.is_finite() and budget_usd > 0):
        raise BadRecipe(f"A budget of ${budget_usd} buys nothing.", "Give an amount above zero.")
    with store.session() as session:
        _run(session, run_id).budget_usd = budget_usd


def preview(
    client: Client,
    recipe: Recipe,
    n: int = 3,
    seed: int = 0,
    *,
    store: Store | None = None,
    actor: Actor | None = None,
    book: PriceBook | None = None,
) -> Iterator[PreviewRow]:
    """Stories of `n` cells drawn from the grid, all at once, each as it comes. Nothing is kept.

    With `store` and `actor`, what they cost is recorded as spend, also of those that nobody waits for any more.

    Raises:
        BadRecipe: the recipe cannot be run.
        ProviderError: the first error of a request; the other stories are not waited for.
    """
    recipe.check()
    positions = random.Random(seed).sample(range(recipe.rows()), min(n, recipe.rows()))
    endpoint = client.endpoint(recipe.model) if recipe.endpoint == "auto" else recipe.endpoint

    def write(position: int) -> PreviewRow:
        cell = grid.cell(recipe, position)
        request = CompletionRequest(
            model=recipe.model,
            prompt=grid.render(recipe.template, cell.values),
            system=recipe.system,
            endpoint=endpoint,
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            max_tokens=recipe.max_tokens,
            seed=grid.row_seed(recipe, grid.key(recipe, cell.values, cell.repeat)),
        )
        began = time.monotonic()
        answer = client.complete(request)
        used = (answer.prompt_tokens, answer.completion_tokens, time.monotonic() - began)
        if store is not None and actor is not None:  # here: it is on the bill, whether or not anybody still looks
            _record(store, actor, client.provider.id, recipe.model, answer, book or PriceBook.load())
        said = judge(answer, recipe.max_tokens)
        return PreviewRow(dict(cell.values), request.prompt, said.text or "", said.reason, said.finish_reason, *used)

    pool = ThreadPoolExecutor(max_workers=max(1, len(positions)), thread_name_prefix="preview")
    try:
        for future in as_completed([pool.submit(write, position) for position in positions]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _record(store: Store, actor: Actor, provider: str, model: str, answer: Completion, book: PriceBook) -> None:
    used = (answer.prompt_tokens, answer.completion_tokens)
    with store.session() as session:
        spend.record(
            session,
            actor,
            "dataset",
            provider=provider,
            model=model,
            reference="preview",
            prompt_tokens=used[0],
            completion_tokens=used[1],
            cost_usd=cost_of(book, provider, model, *used),
        )


def _run(session: Session, run_id: str) -> Run:
    run = session.get(Run, run_id, with_for_update=True)
    if run is None:
        raise NotFound("This run is not there any more.", "Choose another one.")
    return run


def _queue_again(run: Run) -> str:
    run.state, run.reason, run.note, run.finished_at = "queued", None, None, None
    return run.id


def _at_provider(session: Session, run: Run) -> bool:
    """Whether a batch of this run is not over."""
    open_ones = select(Batch.id).where(Batch.run_id == run.id, Batch.state.not_in(("done", "failed", "cancelled")))
    return session.scalar(open_ones.limit(1)) is not None


def _must_be_missing(session: Session, dataset_id: str) -> None:
    if matrix.counts(session, [dataset_id])[dataset_id].pending == 0:
        raise BadRecipe("Every row is written.", "Add values or repeats to write more, or train on these.")
