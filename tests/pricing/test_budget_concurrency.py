"""Fifty requests at the same time never overspend a budget, on SQLite and PostgreSQL, in threads and in processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.actor import LOCAL
from core.db import repair_spend_totals
from core.db.store import Store
from core.db.tables import Spend, SpendTotal
from core.errors import OverBudget
from core.pricing import budget, spend
from core.settings import Settings
from tests.support import parallel_spending
from tests.support.parallel_spending import REQUESTS
from tests.support.waiting import WAIT_LIMIT_S, at_once, until


@pytest.fixture
def settings(on_each_database: Settings) -> Settings:
    return on_each_database


def _reserve(store: Store, usd: str) -> bool:
    """Whether a request of this cost is allowed."""
    try:
        with store.session() as session:
            spend.record(session, LOCAL, "story", provider="p", model="m", reference="r", cost_usd=Decimal(usd))
    except OverBudget:
        return False
    return True


def _in_threads(store: Store) -> int:
    return parallel_spending.send_at_once(store, 0, REQUESTS)


@pytest.mark.parametrize("send", [_in_threads, parallel_spending.send_from_processes])
def test_fifty_requests_at_once_overspend_no_budget(store: Store, send: Callable[[Store], int]) -> None:
    parallel_spending.set_budgets(store)
    granted = send(store)
    with store.reading() as session:
        lines = session.scalars(select(Spend)).all()
        assert repair_spend_totals.recomputed(session) == _stored(session)  # budgets read these totals
    assert len(lines) == granted
    assert parallel_spending.overspent(lines) == 0


def _stored(session: Session) -> dict[tuple[str, str, str], Decimal]:
    rows = session.scalars(select(SpendTotal))
    return {(row.scope, row.subject, row.month): row.max_usd for row in rows if row.max_usd}


def test_a_budget_pays_for_exactly_the_requests_that_fit(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("1.23"))
    assert sum(at_once(REQUESTS, lambda: _reserve(store, "0.10"))) == 12
    assert budget.remaining(store, LOCAL) == Decimal("0.03")
    assert _reserve(store, "0.03") and not _reserve(store, "0.000001")


def test_what_is_being_reserved_while_a_budget_is_set_counts(on_postgres: Settings) -> None:
    """On SQLite, only one transaction writes at a time."""
    store = Store.open(on_postgres)
    with ThreadPoolExecutor(1) as thread:
        with store.session() as session:
            spend.record(session, LOCAL, "story", provider="p", model="m", reference="r", cost_usd=Decimal(5))
            setting = thread.submit(budget.set_budget, store, LOCAL, "month", Decimal(6))
            until(lambda: setting.done() or _waits_for_a_lock(store.url), "the budget set, or waiting")
            assert not setting.done()
        setting.result(WAIT_LIMIT_S)
    assert not _reserve(store, "1.01") and _reserve(store, "1")
    store.close()


def _waits_for_a_lock(url: str) -> bool:
    other = Store(url)
    try:
        with other.reading() as session:
            return bool(
                session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
            )
    finally:
        other.close()
