"""Executes batch runs in the test's process, without pauses, and reads their results from the ledger."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from datetime import date
from decimal import Decimal

from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row, Run, Spend
from core.generation import run_progress, runs
from core.generation.batch import batch_runner
from core.generation.batch.batch_runner import BatchTiming
from core.pricing.price_book import PriceBook
from core.pricing.prices import Price
from core.providers import Registry
from tests.support.batch_server import BatchServer

QUICK = BatchTiming(tick_s=0.001, poll_s=0.0, max_poll_s=0.0, settle_s=0.0, base_s=0.001, cap_s=0.01)
NO_PRICES = PriceBook(overlay=(), source=None, today=date(2026, 11, 1))
PRICE = Price("writer", "openai", Decimal(1000), Decimal(1000), None, None, "USD", "test", date(2026, 1, 1))
HALF = PriceBook((PRICE,), None, date(2026, 11, 1), batch_factors={("openai", "*"): Decimal("0.5")})
EACH = Decimal("0.0075")  # 10 + 5 tokens at half a dollar per thousand
POST, UPLOAD = "POST /v1/batches", "POST /v1/files"


def recipe(rows: int = 12, provider: str = "openai", **given: object) -> Recipe:
    numbers = tuple(f"n{i:04}" for i in range(rows))
    made = Recipe("stories", (Column("number", numbers),), "{number}", provider=provider, model="writer", max_tokens=99)
    return replace(made, **given)  # type: ignore[arg-type]  # a table of changes


def queue(store: Store, made: Recipe, budget_usd: Decimal | None = None, dataset_id: str | None = None) -> str:
    chosen = dataset_id or datasets.create(store, LOCAL, made)
    return runs.enqueue(store, LOCAL, chosen, budget_usd=budget_usd, mode="batch")


def execute(
    store: Store,
    server: BatchServer | Registry,
    run_id: str,
    timing: BatchTiming = QUICK,
    book: PriceBook = NO_PRICES,
) -> run_progress.RunProgress:
    """Execute the run until it ends, or fail after 90 s."""
    registry = server if isinstance(server, Registry) else server.registry()
    halt = threading.Event()
    timer = threading.Timer(90, halt.set)
    timer.start()
    try:
        batch_runner.carry_out(store, registry, run_id, halt, timing=timing, book=book)
    finally:
        timer.cancel()
    assert not halt.is_set(), "it never ended"
    return run_progress.get(store, run_id)


def rows(store: Store, run_id: str) -> list[Row]:
    with store.reading() as session:
        dataset_id = session.get_one(Run, run_id).dataset_id
        return list(session.scalars(select(Row).where(Row.dataset_id == dataset_id).order_by(Row.position)))


def states(store: Store, run_id: str) -> Counter[str]:
    return Counter(row.state for row in rows(store, run_id))


def spends(store: Store) -> list[tuple[int | None, int | None, Decimal | None]]:
    with store.reading() as session:
        found = session.scalars(select(Spend).order_by(Spend.id)).all()
        return [(s.prompt_tokens, s.completion_tokens, s.cost_usd) for s in found]


class Died(BaseException):
    """Simulates a process that dies between two statements."""
