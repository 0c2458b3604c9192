"""Measures billing accuracy: `python -m bench.answers`.

Real runs get each kind of answer, at known prices. A provider that records its charges answers in more than forty
formats: complete, unusual and broken. Its charges are compared with the spend ledger, and the number of requests for
complete answers with the number of rows. Then a real worker is killed twelve times (`_kills`). The last line printed is
JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from bench import _smoke
from bench._kills import measure_kills
from bench._scripted_provider import BOOK, GOOD, KINDS, AnswerKind, ScriptedProvider
from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row
from core.generation import executor, run_progress, runs
from core.generation.concurrency import RunLimits
from core.pricing import budget
from core.settings import Settings

_ROWS = 6
_QUICK = RunLimits(ceiling=4, base_s=0.001, cap_s=0.01, tick_s=0.02, storage_retry_s=0.01)


@dataclass(frozen=True, slots=True)
class RunBill:
    """The cost of one run. `done`: rows with a finished text."""

    charged_usd: Decimal
    booked_usd: Decimal
    requests: int
    done: int
    state: str


def main() -> None:
    """Measure, then print a table and one line of JSON."""
    _smoke.parse(argparse.ArgumentParser(description=__doc__), start=_one_kind)
    with tempfile.TemporaryDirectory() as folder:
        told = {**_kinds(Path(folder) / "kinds"), **measure_kills()}
    print(json.dumps(told))


def _kinds(home: Path) -> dict[str, Any]:
    """Run each kind of answer, in its own run."""
    unbooked, requests, rows = Decimal(0), 0, 0
    print(f"{'':>32} {'requests':>8} {'done':>5} {'charged':>9} {'booked':>9}")
    store = _store(home)
    with ScriptedProvider() as provider:
        for kind in KINDS:
            books = run_kind(store, provider, kind)
            unbooked += max(Decimal(0), books.charged_usd - books.booked_usd)
            if kind.whole:
                requests, rows = requests + books.requests, rows + _ROWS
            sums = f"{books.requests:>8} {books.done:>5} {books.charged_usd:>9.4f} {books.booked_usd:>9.4f}"
            print(f"{kind.name:>32} {sums} {books.state}")
    store.close()
    return {"kinds": len(KINDS), "unbooked_usd": float(unbooked), "requests_per_row": round(requests / rows, 3)}


def run_kind(store: Store, provider: ScriptedProvider, kind: AnswerKind, rows: int = _ROWS) -> RunBill:
    """Execute a run whose rows get this answer: for every request if it is final, otherwise only for the first one,
    followed by good answers.
    """
    provider.reset()
    provider.script = lambda prompt, before: kind if kind.whole or kind.final or not before else GOOD
    numbers = Column("number", tuple(str(number) for number in range(rows)))
    recipe = Recipe(kind.name[:80], (numbers,), "Story {number}.", provider="scripted", model="writer", max_tokens=64)
    dataset_id = datasets.create(store, LOCAL, recipe)
    run_id = runs.enqueue(store, LOCAL, dataset_id)
    executor.execute(store, provider.registry(), run_id, limits=_QUICK, book=BOOK)
    with store.reading() as session:
        booked = budget.spent_on(session, run_id)
        done = select(func.count()).where(Row.dataset_id == dataset_id, Row.state == "done")
        finished = session.scalar(done) or 0
    state = run_progress.get(store, run_id).state
    return RunBill(provider.charged_usd, booked, provider.requests.total(), finished, state)


def _one_kind() -> None:
    with tempfile.TemporaryDirectory() as folder, ScriptedProvider() as provider:
        store = _store(Path(folder))
        run_kind(store, provider, GOOD, rows=1)
        store.close()


def _store(home: Path) -> Store:
    return Store.open(Settings.from_env({"FABULA_HOME": str(home)}))


if __name__ == "__main__":
    main()
