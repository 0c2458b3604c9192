"""Many requests that reserve their cost at the same time, within budgets for everyone, each person and each run.

`python -m tests.support.parallel_spending DATABASE_URL HOME FIRST COUNT` runs the requests from number FIRST on in one
process: it prints "ready", waits for a line, sends them all together, and prints how many reservations were granted.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

from sqlalchemy.orm import Session

from core.actor import LOCAL, Actor
from core.db import spend_totals
from core.db.store import Store
from core.db.tables import Spend, utcnow
from core.errors import OverBudget
from core.pricing import budget, spend
from tests.support.waiting import WAIT_LIMIT_S, at_once

REQUESTS = 50
MONTH, EACH, RUN = Decimal("1.001"), Decimal("0.237"), Decimal("0.153")
"""US dollars. All three are reached: 50 requests want about 2.5 dollars, five people share them, and ten runs."""
_RESERVATIONS = 4  # of each request, one after the other
_PEOPLE, _RUNS = 5, 10
_PROCESSES = 5
_ROOT = Path(__file__).parents[2]


def set_budgets(store: Store) -> None:
    for scope, amount in (("month", MONTH), ("each", EACH), ("run", RUN)):
        budget.set_budget(store, LOCAL, scope, amount)  # type: ignore[arg-type]  # a table's column


def person(number: int) -> str:
    """Who sends this request."""
    return f"person-{number % _PEOPLE}"


def run(number: int) -> str:
    """The run that this request belongs to."""
    return f"run-{number % _RUNS}"


def within_budgets(session: Session, people: list[str], runs: list[str]) -> bool:
    """Whether nothing is overspent by the smallest part of a cent, as the totals say."""
    spent = spend_totals.of_month(session, utcnow())
    return (
        sum(spent.values()) <= MONTH
        and all(spent.get(one, 0) <= EACH for one in people)
        and all(spend_totals.of_reference(session, one) <= RUN for one in runs)
    )


def overspent(lines: Iterable[Spend]) -> Decimal:
    """By how much the lines of the ledger exceed one of the budgets, the one that they exceed most."""
    spent: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for line in lines:
        for subject in (("month", ""), ("each", line.actor), ("run", line.reference or "")):
            spent[subject] += line.cost_usd or 0
    budgets = {"month": MONTH, "each": EACH, "run": RUN}
    return max(Decimal(0), *(usd - budgets[scope] for (scope, _), usd in spent.items()))


def send(store: Store, number: int) -> int:
    """Reserve a few amounts; some cost half as much in the end. Returns how many reservations were granted."""
    actor, granted = Actor(person(number), "", "editor"), 0
    for turn in range(_RESERVATIONS):
        usd = Decimal(7 + (13 * number + 5 * turn) % 11) / 1000
        try:
            with store.session() as session:
                spend_id = spend.record(
                    session, actor, "story", provider="p", model="m", reference=run(number), cost_usd=usd
                )
                assert within_budgets(session, [actor.id], [run(number)]), f"request {number} was granted too much"
        except OverBudget:
            continue
        granted += 1
        if (number + turn) % 3 == 0:
            with store.session() as session:
                spend.settle(session, spend_id, prompt_tokens=1, completion_tokens=1, cost_usd=usd / 2)
    return granted


def send_at_once(store: Store, first: int, count: int) -> int:
    """Send the requests with these numbers together, each in a thread; returns how many reservations were granted."""
    numbers = itertools.count(first)
    return sum(at_once(count, lambda: send(store, next(numbers))))


def send_from_processes(store: Store) -> int:
    """Send all requests together from several processes; returns how many reservations were granted."""
    share = REQUESTS // _PROCESSES
    module = [sys.executable, "-m", "tests.support.parallel_spending", store.url, str(store.home)]
    children = [
        subprocess.Popen(
            [*module, str(first), str(share)], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for first in range(0, REQUESTS, share)
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


def main(database_url: str, home: str, first: str, count: str) -> None:
    store = Store(database_url, Path(home))
    print("ready", flush=True)
    sys.stdin.readline()
    print(send_at_once(store, int(first), int(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
