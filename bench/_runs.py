"""Measures one run in its own process: `python -m bench._runs WAY URL HOME REQUESTS RUN`; prints JSON.

Ways: `aiohttp` (only requests), `holding` (the same, but a waiting request keeps its slot), `sdk` (the official SDK),
`ours` (a run with unknown prices), `execute` (a run at one dollar per million tokens).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import openai
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row
from core.generation import executor, run_progress, runs
from core.generation.concurrency import RunLimits
from core.pricing.price_book import PriceBook
from core.pricing.prices import Price
from core.providers import Provider, Registry
from core.settings import Settings

IN_FLIGHT = 64
_USD = Price("writer", "bench", Decimal(1), Decimal(1), None, None, "USD", "bench", date(2026, 1, 1))
_TODAY = date(2026, 11, 1)
_TEMPLATE = "Tell story number {volume}.{part}."

Ask = Callable[[str], Awaitable[None]]


def new_run(home: Path, requests: int, budget_usd: Decimal | None = None) -> str:
    """Create a grid of `requests` rows in a fresh ledger, and a queued run."""
    store = _store(home)
    parts = math.gcd(requests, 100)  # two columns, so that the recipe does not grow with the rows
    columns = (Column("volume", _numbers(requests // parts)), Column("part", _numbers(parts)))
    recipe = Recipe("bench", columns, _TEMPLATE, provider="bench", model="writer", max_tokens=256)
    run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, recipe), budget_usd=budget_usd)
    store.close()
    return run_id


def ledger_of(home: Path, run_id: str) -> list[tuple[str, str, str | None]]:
    """Return (prompt, state, text) for every row."""
    store = _store(home)
    dataset_id = run_progress.get(store, run_id).dataset_id
    with store.reading() as session:
        rows = session.execute(select(Row.prompt, Row.state, Row.text).where(Row.dataset_id == dataset_id))
        found = [(prompt, state, text) for prompt, state, text in rows]
    store.close()
    return found


def main() -> None:
    """Run the requests one way and print the figures."""
    way, url, home, requests, run_id = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    if way in ("ours", "execute"):
        work = _ours(way, url, home, run_id)
        if way == "ours":  # a worker runs for days, so its first run's one-time work is not counted
            _ours(way, url, home / "warm", new_run(home / "warm", IN_FLIGHT))()
    else:
        work = _bare(way, url, requests)
        if way != "holding":
            _bare(way, url, IN_FLIGHT)()
    gc.collect()
    gc.freeze()  # as in the worker, but for every way: objects loaded so far are excluded from garbage collection
    wall, cpu = time.perf_counter(), time.process_time()
    told = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = {"rps": requests / wall, "cpu_us": cpu / requests * 1e6, "wall_s": wall}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # in kilobytes on Linux; see getrusage(2)
    print(json.dumps({**figures, "rss_mb": peak_mb, **told}))


def _ours(way: str, url: str, home: Path, run_id: str) -> Callable[[], dict[str, Any]]:
    store = _store(home)
    registry = Registry([Provider("bench", "compatible", "The bench server", f"{url}/v1", "key")])
    book = PriceBook(overlay=(_USD,) if way == "execute" else (), source=None, today=_TODAY)

    def work() -> dict[str, Any]:
        executor.execute(store, registry, run_id, limits=RunLimits(ceiling=IN_FLIGHT), book=book)
        told = run_progress.get(store, run_id)
        assert told.state == "done" or way == "execute", told
        return {"cost_usd": str(told.cost_usd), "state": told.state}

    return work


def _bare(way: str, url: str, requests: int) -> Callable[[], dict[str, Any]]:
    async def raw() -> None:
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer key"}) as session:

            async def ask(prompt: str) -> None:
                while True:
                    async with session.post(f"{url}/v1/chat/completions", json=_body(prompt)) as answer:
                        told = await answer.json()
                    if answer.status == 200:
                        assert told["choices"][0]["message"]["content"]
                        return
                    # the request keeps its slot while waiting
                    await asyncio.sleep(float(answer.headers["Retry-After"]))

            await _all(ask, requests)

    async def sdk() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as client:

            async def ask(prompt: str) -> None:
                told = await client.chat.completions.create(**_body(prompt))
                assert told.choices[0].message.content

            await _all(ask, requests)

    def work() -> dict[str, Any]:
        asyncio.run(sdk() if way == "sdk" else raw())
        return {}

    return work


async def _all(ask: Ask, requests: int) -> None:
    """Send every prompt, `IN_FLIGHT` at a time."""
    numbers = iter(range(requests))

    async def lane() -> None:
        for number in numbers:
            await ask(_prompt(number))

    await asyncio.gather(*itertools.starmap(lane, [()] * IN_FLIGHT))


def _body(prompt: str) -> dict[str, Any]:
    """The body of a request, as a run sends it."""
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "max_tokens": 256, "model": "writer", "temperature": 0.5, "top_p": 1.0}


def _prompt(number: int) -> str:
    return _TEMPLATE.format(volume=number // 100, part=number % 100)


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _store(home: Path) -> Store:
    return Store.open(Settings.from_env({"FABULA_HOME": str(home)}))


if __name__ == "__main__":
    main()
