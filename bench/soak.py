"""Measures how the web process's resource use grows under five minutes of load: `python -m bench.soak`.

The studio is started in the usual way. Thirty sessions, each with a websocket like a browser's, go from page to page,
let the page timers run, reload, and leave; at the same time a data-set run writes rows using a local OpenAI-compatible
server. Every ten seconds the memory, open descriptors and threads of the web process (which includes the worker) are
read from /proc.

Growth is the median of the last minute minus the median of the second minute: the first minute fills caches, and a
median is robust against single outliers. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from bench import _loopback, _smoke, _viewers
from bench._page_server import served
from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.generation import run_progress, runs
from core.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SESSIONS = 30
MINUTES = 5
SAMPLE_S = 10.0
MINUTE_S = 60.0
LATENCY_S = 0.5  # latency of the scripted server; 16 requests in flight write about 30 rows per second
ROWS = 20_000  # more rows than can be written in that time
STAY_S = (1.0, 5.0)  # time on a page
AWAY_S = (0.5, 3.0)  # time between leaving and returning
PAGES_A_VISIT = (2, 6)
RELOADS = 0.3  # fraction of pages that are reloaded
START_S = 120.0
TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class MemorySample:
    """A sample of the web process. `at_s`: seconds since the sessions started."""

    at_s: float
    rss_mb: float
    fds: int
    threads: int


@dataclass
class Traffic:
    """Counts of what the sessions have done."""

    sessions: int = 0
    reruns: int = 0
    fragment_runs: int = 0
    samples: list[MemorySample] = field(default_factory=list)


class SimulatedVisitor:
    """One visitor, who makes repeated visits, each with a new session, until cancelled."""

    def __init__(self, url: str, pages: Sequence[tuple[str, str]], traffic: Traffic, seed: int) -> None:
        self._url, self._pages, self._traffic = url, pages, traffic
        self._dice = random.Random(seed)

    async def live(self) -> None:
        """Repeatedly open the studio, view a few pages, leave, and return."""
        while True:
            page = self._dice.choice(self._pages)
            for _ in range(self._dice.randint(*PAGES_A_VISIT)):
                page = await self._session(page)
            await asyncio.sleep(self._dice.uniform(*AWAY_S))

    async def _session(self, page: tuple[str, str]) -> tuple[str, str]:
        """Visit pages until a reload or the end of the visit, both of which end the session; return the open page."""
        address = self._url.replace("http", "ws") + "/_stcore/stream"
        async with connect(address, max_size=None, origin=Origin(self._url)) as stream:
            self._traffic.sessions += 1
            kept: set[str] = set()
            while True:
                kept = await self._look(stream, page, kept)
                if self._dice.random() < RELOADS:
                    return page
                page = self._dice.choice(self._pages)

    async def _look(self, stream: ClientConnection, page: tuple[str, str], kept: set[str]) -> set[str]:
        """Open a page and stay on it for a while; its fragments run on their timers."""
        name, query = page
        timers: dict[str, float] = {}
        kept = await _viewers.once(stream, name, kept, query=query, timers=timers)
        self._traffic.reruns += 1
        leaves = time.monotonic() + self._dice.uniform(*STAY_S)
        due = {one: time.monotonic() + every for one, every in timers.items()}
        while due and (at := min(due.values())) < leaves:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            fragment_id = min(due, key=due.__getitem__)
            kept |= await _viewers.once(stream, name, kept, query=query, fragment_id=fragment_id)
            self._traffic.fragment_runs += 1
            due[fragment_id] = time.monotonic() + timers[fragment_id]
        await asyncio.sleep(max(0.0, leaves - time.monotonic()))
        return kept


def main() -> None:
    """Run the sessions, then print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=MINUTES, choices=range(3, 61), metavar="3-60")
    options = _smoke.parse(parser, start=_one_sample)
    with tempfile.TemporaryDirectory() as home, _loopback.running() as provider:
        httpx2.post(f"{provider}/reset", json={"latency_s": LATENCY_S}).raise_for_status()
        environ = {"FABULA_HOME": home, "OPENAI_API_KEY": "key", "OPENAI_BASE_URL": f"{provider}/v1"}
        with served(ROOT / "app.py", **environ) as (url, pid):
            told = _soak(url, pid, Path(home), options.minutes * MINUTE_S)
    print(json.dumps(told))


def _soak(url: str, pid: int, home: Path, seconds: float) -> dict[str, float]:
    """Run visitors and a data-set run together for this many seconds."""
    store = Store.open(Settings.from_env({"FABULA_HOME": str(home)}))
    dataset_id = datasets.create(store, LOCAL, _recipe())
    run_id = runs.enqueue(store, LOCAL, dataset_id, budget_usd=None)
    _until(lambda: run_progress.get(store, run_id).done > 0)
    pages = _pages(dataset_id)
    traffic = asyncio.run(_visit(url, pid, pages, seconds))
    progress = run_progress.get(store, run_id)
    store.close()
    if progress.state not in run_progress.ACTIVE:
        raise RuntimeError(f"the run is {progress.state}: {progress.reason or progress.note or ''}")
    print(f"{'s':>5}{'RSS MB':>9}{'descriptors':>13}{'threads':>9}")
    for one in traffic.samples:
        print(f"{one.at_s:>5.0f}{one.rss_mb:>9.1f}{one.fds:>13}{one.threads:>9}")
    print(
        f"{SESSIONS} at a time, {traffic.sessions} sessions, {traffic.reruns} reruns of pages, "
        f"{traffic.fragment_runs} of fragments; {progress.done:,} rows written"
    )
    return {
        "rss_growth_mb_after_first_minute": round(_growth([one.rss_mb for one in traffic.samples]), 1),
        "fd_growth_after_first_minute": _growth([one.fds for one in traffic.samples]),
        "thread_growth_after_first_minute": _growth([one.threads for one in traffic.samples]),
    }


def _growth(values: Sequence[float]) -> float:
    """Median of the last minute minus median of the second minute; samples are `SAMPLE_S` apart."""
    minute = int(MINUTE_S / SAMPLE_S)
    return statistics.median(values[-minute:]) - statistics.median(values[minute : 2 * minute])


async def _visit(url: str, pid: int, pages: Sequence[tuple[str, str]], seconds: float) -> Traffic:
    """Run all visitors in parallel, and sample the process every `SAMPLE_S`."""
    traffic = Traffic()
    visitors = [asyncio.create_task(SimulatedVisitor(url, pages, traffic, seed).live()) for seed in range(SESSIONS)]
    began = time.monotonic()
    while (at_s := len(traffic.samples) * SAMPLE_S) <= seconds:
        await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
        for visitor in visitors:
            if visitor.done():
                visitor.result()  # a visitor runs until it is cancelled; this raises the error if it ended early
        traffic.samples.append(sample(pid, time.monotonic() - began))
    for visitor in visitors:
        visitor.cancel()
    await asyncio.gather(*visitors, return_exceptions=True)
    return traffic


def sample(pid: int, at_s: float) -> MemorySample:
    """Read a process's memory, descriptors and threads from /proc (Linux; proc_pid_status(5))."""
    process = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    rss_kb = int(status["VmRSS"].split()[0])
    return MemorySample(at_s, rss_kb / 1024, len(list((process / "fd").iterdir())), int(status["Threads"]))


def _recipe() -> Recipe:
    tens = tuple(str(number) for number in range(100))
    rows = tuple(str(number) for number in range(ROWS // len(tens)))
    columns = (Column("volume", rows), Column("part", tens))
    template = "Tell story number {volume}.{part}."
    return Recipe("soak", columns, template, provider="compatible", model="writer", endpoint="chat", max_tokens=256)


def _pages(dataset_id: str) -> list[tuple[str, str]]:
    """Every page and part that a visitor can reach, with its query string."""
    of_one = [("dataset", f"part={part}&set={dataset_id}") for part in ("rows", "quality", "use")]
    return [("", ""), ("dataset", ""), *of_one, ("training", ""), ("cost", ""), ("story", ""), ("settings", "")]


def _until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > ends:
            raise RuntimeError(f"the run wrote no row in {START_S:.0f} s")
        time.sleep(TICK_S)


def _one_sample() -> None:
    with subprocess.Popen(["sleep", "60"]) as process, _loopback.running():
        sample(process.pid, 0.0)
        process.terminate()


if __name__ == "__main__":
    main()
