"""Fifty requests at the same time never overspend a budget, on SQLite and PostgreSQL, in threads and in processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

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
from tests.support.parallel_spending import EACH, MONTH, RUN, person, run
from tests.support.stores import fresh
from tests.support.waiting import WAIT_LIMIT_S, at_once, until

_ROOT = Path(__file__).parents[2]
_REQUESTS = 50
_PROCESSES = 5


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    if request.param == "postgresql":
        found: Settings = request.getfixturevalue("on_postgres")
        return found
    return settings


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    ledger = fresh(settings)
    yield ledger
    ledger.close()


def _reserve(store: Store, usd: str) -> bool:
    """Whether a request of this cost is allowed."""
    try:
        with store.session() as session:
            spend.record(session, LOCAL, "story", provider="p", model="m", reference="r", cost_usd=Decimal(usd))
    except OverBudget:
        return False
    return True


def _in_threads(store: Store) -> int:
    return parallel_spending.send_at_once(store, 0, _REQUESTS)


def _in_processes(store: Store) -> int:
    """Five processes, each with ten of the requests."""
    share = _REQUESTS // _PROCESSES
    module = [sys.executable, "-m", "tests.support.parallel_spending", store.url, str(store.home)]
    children = [
        subprocess.Popen(
            [*module, str(first), str(share)], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for first in range(0, _REQUESTS, share)
    ]
    try:
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(_PROCESSES) as threads:
            outputs = list(threads.map(lambda child: child.communicate("\n", timeout=WAIT_LIMIT_S)[0], children))
        assert [child.returncode for child in children] == [0] * _PROCESSES
        return sum(int(output) for output in outputs)
    finally:
        for child in children:
            child.kill()


@pytest.mark.parametrize("send", [_in_threads, _in_processes])
def test_fifty_requests_at_once_overspend_no_budget(store: Store, send: Callable[[Store], int]) -> None:
    parallel_spending.set_budgets(store)
    granted = send(store)
    people, runs = ({name(number) for number in range(_REQUESTS)} for name in (person, run))
    with store.reading() as session:
        lines = session.scalars(select(Spend)).all()
        assert repair_spend_totals.recomputed(session) == _stored(session)  # budgets read these totals

    def spent(lines: list[Spend]) -> Decimal:
        return sum((line.cost_usd or Decimal(0) for line in lines), Decimal(0))

    assert len(lines) == granted
    assert spent(list(lines)) <= MONTH
    assert all(spent([line for line in lines if line.actor == one]) <= EACH for one in people)
    assert all(spent([line for line in lines if line.reference == one]) <= RUN for one in runs)


def _stored(session: Session) -> dict[tuple[str, str, str], Decimal]:
    rows = session.scalars(select(SpendTotal))
    return {(row.scope, row.subject, row.month): row.max_usd for row in rows if row.max_usd}


def test_a_budget_pays_for_exactly_the_requests_that_fit(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("1.23"))
    assert sum(at_once(_REQUESTS, lambda: _reserve(store, "0.10"))) == 12
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
