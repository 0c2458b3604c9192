"""Executes runs in the test's process: provides recipes, prices and limits without pauses, and reads results from the
ledger.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Spend
from core.errors import StorageFull
from core.generation import executor, group_commit_writer, run_progress, runs
from core.generation.concurrency import RunLimits
from core.generation.row_store import RowOutcome
from core.pricing.price_book import PriceBook
from core.pricing.prices import Price
from core.providers import Client, Registry
from tests.support.fault_server import FaultServer
from tests.support.waiting import WAIT_LIMIT_S, until

QUICK = RunLimits(base_s=0.001, cap_s=0.01, tick_s=0.02, storage_retry_s=0.01, drain_s=0.0)
NO_PRICES = PriceBook(overlay=(), source=None, today=date(2026, 11, 1))

_ROOT = Path(__file__).resolve().parents[2]
_CHILD = """
import sys
from core.generation import executor
from core.generation.concurrency import RunLimits
from core.db.store import Store
from core.providers import Provider, Registry
provider = Provider("fault", "compatible", "Test", sys.argv[2], "key")
executor.execute(Store(sys.argv[1]), Registry([provider]), sys.argv[3], limits=RunLimits(ceiling=4))
"""


def recipe(rows: int = 12, provider: str = "fault", **given: object) -> Recipe:
    numbers = tuple(f"n{i:04}" for i in range(rows))
    made = Recipe("stories", (Column("number", numbers),), "{number}", provider=provider, model="writer", max_tokens=99)
    return replace(made, **given)  # type: ignore[arg-type]  # a table of changes


def queue(store: Store, made: Recipe, budget_usd: Decimal | None = None) -> str:
    return runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, made), budget_usd=budget_usd)


def book(provider: str = "fault", per_mtok: str = "1000") -> PriceBook:
    """Prices of one dollar per 1,000 tokens, for input and output."""
    price = Price("writer", provider, Decimal(per_mtok), Decimal(per_mtok), None, None, "USD", "test", date(2026, 1, 1))
    return PriceBook(overlay=(price,), source=None, today=date(2026, 11, 1))


def execute(
    store: Store, server: FaultServer, run_id: str, limits: RunLimits = QUICK, book: PriceBook = NO_PRICES
) -> None:
    executor.execute(store, server.registry(), run_id, limits=limits, book=book)


def execute_and_kill(store: Store, server: FaultServer, run_id: str, rows: int) -> None:
    """Execute a run in another process, four requests at a time, and kill that with SIGKILL after `rows` rows."""
    child = subprocess.Popen([sys.executable, "-c", _CHILD, store.url, server.url, run_id], cwd=_ROOT)
    try:
        until(lambda: states(store, run_id)["done"] >= rows, f"{rows} rows")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


@contextmanager
def executing(
    store: Store,
    registry: Registry,
    run_id: str,
    limits: RunLimits = QUICK,
    stopping: threading.Event | None = None,
    book: PriceBook = NO_PRICES,
) -> Iterator[threading.Thread]:
    """Execute a run in a thread; its errors fail the test."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            executor.execute(store, registry, run_id, stopping, limits=limits, book=book)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield thread
    thread.join(WAIT_LIMIT_S)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def all_rows(store: Store, run_id: str) -> list[dataset_rows.RowView]:
    return dataset_rows.page(store, run_progress.get(store, run_id).dataset_id, limit=100_000)


def states(store: Store, run_id: str) -> Counter[str]:
    return Counter(r.state for r in all_rows(store, run_id))


def spends(store: Store) -> list[Spend]:
    with store.reading() as session:
        return list(session.scalars(select(Spend).order_by(Spend.id)))


class OneClient(Registry):
    """A registry that always returns one client, with the test's time limit."""

    def __init__(self, only: Client) -> None:
        super().__init__([only.provider])
        self._only = only

    def get(self, provider_id: str) -> Client:
        return self._only


def refused_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the sizes of the groups of answers that the database rejected."""
    real, sizes = group_commit_writer.GroupCommitWriter._record, []

    def record(self: group_commit_writer.GroupCommitWriter, group: Sequence[RowOutcome], *marks: Any) -> set[int]:
        try:
            return real(self, group, *marks)
        except StorageFull:
            sizes.append(len(group))
            raise

    monkeypatch.setattr(group_commit_writer.GroupCommitWriter, "_record", record)
    return sizes


MODEL = "writer"
