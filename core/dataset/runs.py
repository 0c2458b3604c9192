"""Runs as pages see them: begin, stop, look. The worker carries them out."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import spend
from core.cost.book import PriceBook, cost_of
from core.dataset import grid, ledger, matrix
from core.dataset.outcomes import judge
from core.dataset.pace import ceiling
from core.dataset.recipe import Recipe
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, Run, Spend, utcnow
from core.errors import BadRecipe, NotFound
from core.providers import Client, Completion, CompletionRequest

ACTIVE = ("queued", "running", "stopping")
_WINDOW_S = 60  # long enough for a slow machine's rows, short enough to follow a change
_LONG_WINDOW_S = 600  # where a minute holds almost no row
_FEW_ROWS = 5


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is; any process can ask. None: unknown.

    Attributes:
        state: queued, running, stopping, stopped, done or failed; reason: why it ended so.
        note: what it waits for right now.
        total, done, failed, pending: rows of the data set; pending counts the `in_flight` ones too.
        in_flight, ceiling: requests under way, and the most there may be.
        tokens: prompt and completion tokens of this run; cost_usd: what they cost.
        rows_per_s: rows finished a second, over the last minute; for a run that is over, over all of it.
        eta_s: seconds until the last row at that rate.
    """

    run_id: str
    dataset_id: str
    state: str
    reason: str | None
    note: str | None
    total: int
    done: int
    failed: int
    pending: int
    in_flight: int
    ceiling: int
    tokens: int
    cost_usd: Decimal | None
    budget_usd: Decimal | None
    rows_per_s: float | None
    eta_s: float | None
    started_at: datetime | None
    finished_at: datetime | None


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
    store: Store, actor: Actor, dataset_id: str, *, budget_usd: Decimal | None = None, retry_failed: bool = True
) -> str:
    """Ask for the missing rows to be written, the failed ones again too; the run's id.

    While a run of this data set is not over, it is that run: clicking twice starts one.

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
        if matrix.counts(session, [dataset_id])[dataset_id].pending == 0:
            raise BadRecipe("Every row is written.", "Add values or repeats to write more, or train on these.")
        run = Run(
            id=new_id(),
            dataset_id=dataset_id,
            provider=recipe.provider,
            model=recipe.model,
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
        run = session.get(Run, run_id, with_for_update=True)
        if run is None:
            raise NotFound("This run is not there any more.", "Choose another one.")
        if run.state == "queued":
            ledger.finish(session, run_id, "stopped", None)
        elif run.state == "running":
            run.state = "stopping"


def progress(store: Store, run_id: str, now: datetime | None = None) -> RunProgress:
    """How far the run is, from the ledger alone.

    Raises:
        NotFound: no such run.
    """
    with store.reading() as session:
        run = session.get(Run, run_id)
        if run is None:
            raise NotFound("This run is not there any more.", "Choose another one.")
        return _progress(session, run, now or utcnow())


def latest(store: Store, dataset_id: str, now: datetime | None = None) -> RunProgress | None:
    """The newest run of a data set; None when there was none."""
    with store.reading() as session:
        newest = select(Run).where(Run.dataset_id == dataset_id).order_by(Run.created_at.desc(), Run.id.desc())
        run = session.scalar(newest.limit(1))
        return None if run is None else _progress(session, run, now or utcnow())


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

    With `store` and `actor`, what they cost is recorded as spend.

    Raises:
        BadRecipe: the recipe cannot be run.
        ProviderError: the first error of a request; the other stories are not waited for.
    """
    recipe.check()
    positions = random.Random(seed).sample(range(recipe.rows()), min(n, recipe.rows()))
    endpoint = client.endpoint(recipe.model)

    def write(position: int) -> tuple[PreviewRow, Completion]:
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
        said = judge(answer, recipe.max_tokens)
        used = (answer.prompt_tokens, answer.completion_tokens, time.monotonic() - began)
        return PreviewRow(
            dict(cell.values), request.prompt, said.text or "", said.reason, said.finish_reason, *used
        ), answer

    pool = ThreadPoolExecutor(max_workers=max(1, len(positions)), thread_name_prefix="preview")
    try:
        for future in as_completed([pool.submit(write, position) for position in positions]):
            row, answer = future.result()
            if store is not None and actor is not None:
                _record(store, actor, client.provider.id, recipe.model, answer, book or PriceBook.load())
            yield row
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


def _progress(session: Session, run: Run, now: datetime) -> RunProgress:
    counts = matrix.counts(session, [run.dataset_id])[run.dataset_id]
    tokens, cost = _used(session, run)
    rate = _rate(session, run, now)
    active = run.state in ACTIVE
    return RunProgress(
        run_id=run.id,
        dataset_id=run.dataset_id,
        state=run.state,
        reason=run.reason,
        note=run.note,
        total=counts.total,
        done=counts.done,
        failed=counts.failed,
        pending=counts.pending,
        in_flight=counts.sent,
        ceiling=ceiling(run.provider),
        tokens=tokens,
        cost_usd=cost,
        budget_usd=run.budget_usd,
        rows_per_s=rate,
        eta_s=counts.pending / rate if active and rate else None,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def _used(session: Session, run: Run) -> tuple[int, Decimal | None]:
    """Tokens and dollars of this run's calls that are settled. Amounts are text, so equal ones are grouped by SQL."""
    query = (
        select(Spend.cost_usd, func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens))
        .where(Spend.at >= run.created_at, Spend.reference == run.id)
        .where(Spend.completion_tokens.is_not(None) | Spend.cost_usd.is_(None))  # the others are reservations
        .group_by(Spend.cost_usd)
    )
    tokens, total, unknown = 0, Decimal(0), False
    for cost, calls, prompt, completion in session.execute(query):
        tokens += int(prompt or 0) + int(completion or 0)
        unknown = unknown or cost is None
        total += (cost or Decimal(0)) * calls
    return tokens, None if unknown else total


def _rate(session: Session, run: Run, now: datetime) -> float | None:
    """Rows finished a second. A minute's window, ten where that holds too few rows; the whole run once it is over."""
    if run.started_at is None:
        return None
    if run.finished_at is not None:
        return _per_second(_finished(session, run, run.started_at), run.finished_at - run.started_at)
    for window_s in (_WINDOW_S, _LONG_WINDOW_S):
        since = max(run.started_at, now - timedelta(seconds=window_s))
        finished = _finished(session, run, since)
        if finished >= _FEW_ROWS or (window_s == _LONG_WINDOW_S and finished):
            return _per_second(finished, now - since)
    return None


def _finished(session: Session, run: Run, since: datetime) -> int:
    query = select(func.count()).select_from(Row)
    query = query.where(Row.dataset_id == run.dataset_id, Row.state.in_(("done", "failed")))
    return session.scalar(query.where(Row.run_id == run.id, Row.updated_at >= since)) or 0


def _per_second(count: int, span: timedelta) -> float | None:
    seconds = span.total_seconds()
    return count / seconds if count and seconds > 0 else None
