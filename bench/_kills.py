"""Measures the cost of kill -9: a real worker is killed twelve times, and the ledger is compared with the provider's
bill.

The worker (`python -m core.jobs.worker`) generates a data set using a loopback server in another process. The server
counts every response, even to a client that has been killed, and rejects one request in ten (429). Afterwards, every
response must be in the ledger, and the total that counts against the budget may exceed the bill only by the cost of
requests that were in flight when the worker was killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import httpx2

from bench import _loopback
from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.generation import run_progress, run_store, runs
from core.generation.concurrency import DEFAULT_LIMIT
from core.generation.run_budget import RequestCost
from core.pricing import budget, custom_prices
from core.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
KILLS = 12
_PROVIDER = "compatible"  # the provider at OPENAI_BASE_URL
_ROWS = 2_000
_USD_PER_MTOK = Decimal(1)
_ANSWER_TOKENS = 12 + 64  # usage that bench._loopback reports per response
_MAX_TOKENS = 256
_MOST_S = 600  # a longer measurement counts as failed
_LOOK_S = 0.02


def measure_kills(kills: int = KILLS) -> dict[str, float]:
    """Kill the worker `kills` times, let the last one finish, and compare the ledger with the bill.

    Returns:
        `counted_minus_real_usd_after_kills`: the total that counts against the budget, minus the bill; below 0 if
            results were lost.
        `in_flight_worst_usd`: the upper limit for that: the maximum cost of all requests in flight when the worker was
            killed.
        `kills`: number of kills. `rows_after_kills`: number of finished rows, of 2,000.
    """
    with tempfile.TemporaryDirectory() as folder, _loopback.running() as url:
        httpx2.post(f"{url}/reset", json={"refuse": 0.1}).raise_for_status()
        store = Store.open(Settings.from_env({"FABULA_HOME": folder}))
        for use in ("input", "output"):
            custom_prices.set_price(
                store, LOCAL, provider=_PROVIDER, model="writer", kind=use, amount=str(_USD_PER_MTOK)
            )
        worst = _worst(store)
        in_flight = kills * DEFAULT_LIMIT * worst
        budget_usd = _ROWS * _ANSWER_TOKENS * _USD_PER_MTOK / 1_000_000 + in_flight + 100 * worst
        run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, _recipe()), budget_usd=budget_usd)
        _kill(url, Path(folder), store, run_id, kills)
        done = _finish(url, Path(folder), store, run_id)
        answers = _answers(url)
        with store.reading() as session:
            counted = budget.spent_on(session, run_id)
        store.close()
    real = answers * _ANSWER_TOKENS * _USD_PER_MTOK / 1_000_000
    print(f"{kills} kills: {done:,} rows, {answers:,} answers billed; bill ${real}, counted ${counted}")
    return {
        "counted_minus_real_usd_after_kills": float(counted - real),
        "in_flight_worst_usd": float(in_flight),
        "kills": kills,
        "rows_after_kills": done,
    }


def _recipe() -> Recipe:
    numbers = tuple(f"{number:04}" for number in range(_ROWS))
    return Recipe(
        "kills",
        (Column("number", numbers),),
        "Tell story number {number}.",
        provider=_PROVIDER,
        model="writer",
        endpoint="chat",
        max_tokens=_MAX_TOKENS,
    )


def _worst(store: Store) -> Decimal:
    """Maximum possible cost of one of the run's requests."""
    recipe = _recipe()
    context = run_store.RunContext("", "", recipe.provider, recipe.model, "live", LOCAL, recipe, None)
    worst = RequestCost(custom_prices.book(store), context).worst_case("Tell story number 0000.")
    assert worst is not None
    return worst


def _kill(url: str, home: Path, store: Store, run_id: str, kills: int) -> None:
    """Kill the worker after varying numbers of responses: at its start, in mid-flight, between two commits."""
    dice, answers = random.Random(7), 0
    for _ in range(kills):
        answers += dice.choice((1, 7, 40, 90, 150))
        worker = _worker(url, home)
        try:
            _wait(worker, store, run_id, _answered(url, answers))
        finally:
            worker.kill()
            worker.wait()
        answers = _answers(url)


def _answered(url: str, least: int) -> Callable[[], bool]:
    """Create a condition: the server has sent at least `least` responses."""
    return lambda: _answers(url) >= least


def _finish(url: str, home: Path, store: Store, run_id: str) -> int:
    """Let another worker finish the run; return the number of finished rows."""
    worker = _worker(url, home)
    try:
        _wait(worker, store, run_id, lambda: run_progress.get(store, run_id).state == "done")
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()
    return run_progress.get(store, run_id).done


def _wait(worker: subprocess.Popen[bytes], store: Store, run_id: str, condition: Callable[[], bool]) -> None:
    """Wait until the condition is true.

    Raises:
        RuntimeError: the run or the worker ended first, or it took too long.
    """
    deadline = time.monotonic() + _MOST_S
    while not condition():
        told = run_progress.get(store, run_id)
        if condition():
            return
        if told.state not in run_progress.ACTIVE or worker.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The run is {told.state} with {told.done} rows. {told.reason or told.note or ''}")
        time.sleep(_LOOK_S)


def _answers(url: str) -> int:
    return int(httpx2.get(f"{url}/counts").json()["answers"])


def _worker(url: str, home: Path) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    given = {"FABULA_HOME": str(home), "OPENAI_API_KEY": "key", "OPENAI_BASE_URL": f"{url}/v1"}
    command = [sys.executable, "-m", "core.jobs.worker"]
    return subprocess.Popen(command, cwd=ROOT, env={**kept, **given}, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    print(json.dumps(measure_kills()))
