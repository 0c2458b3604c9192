"""Measures the response time of pages while a real job trains: `python -m bench.responsive`. The studio is started in
the usual way, with its own home directory; its engine trains on 48 sample stories. One visitor opens the four pages in
turn through a websocket, like a browser, and reruns each before leaving it. The result is the visitor's waiting time,
from the request to the last message of the response. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.typing import Origin

from bench import _smoke, _viewers
from bench._page_server import served
from core import packaged_models
from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.pricing.prices import ENGINE
from core.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = ("dataset", "training", "cost", "story")
EXAMPLES, EPOCHS = 48, 6  # takes longer than the measurement on any machine that can train
MEASURED_S = 60.0
PAUSE_S = 0.5  # pause between two clicks of a fast visitor
START_S = 300.0  # generous, because the first job on a machine converts the weights
LOOK_S = 0.2

Times = dict[str, list[float]]


def main() -> None:
    """Train, click, and print the result."""
    _smoke.parse(argparse.ArgumentParser(description=__doc__))
    with tempfile.TemporaryDirectory() as home, served(ROOT / "app.py", FABULA_HOME=home) as (url, _):
        store = Store.open(Settings.from_env({"FABULA_HOME": home}))
        job_id = _job(store)
        _until(lambda: job_views.get(store, job_id).results_csv)
        switched, again = asyncio.run(_clicks(url, lambda: not job_views.get(store, job_id, results=False).finished))
        print(f"the job then: {job_views.get(store, job_id, results=False).status}")
        store.close()
    print(f"{'page':<10}{'switches':>9}{'median s':>10}{'slowest s':>11}{'reruns':>9}{'median s':>10}{'slowest s':>11}")
    for page in PAGES:
        print(f"{page:<10}" + "".join(_cells(times[page]) for times in (switched, again)))
    every = [one for times in (switched, again) for page in PAGES for one in times[page]]
    found = {"slowest_rerun_s": round(max(every), 3), "median_rerun_s": round(statistics.median(every), 3)}
    print(json.dumps(found))


def _job(store: Store) -> str:
    """Submit a job that trains for longer than the measurement."""
    rows = datasets.load_sample(store, LOCAL, "ultraman_stories", EXAMPLES)
    form = JobForm(rows, "bench", ENGINE, packaged_models.BASE, n_epochs=EPOCHS, batch_size=4)
    return jobs.submit(store, LOCAL, form)


def _until(look: Callable[[], object]) -> None:
    ends = time.monotonic() + START_S
    while not look():
        if time.monotonic() > ends:
            raise RuntimeError(f"waited {START_S:.0f} s in vain for the first step of the job")
        time.sleep(LOOK_S)


async def _clicks(url: str, trains: Callable[[], bool]) -> tuple[Times, Times]:
    """Measure the seconds per page switch and per rerun while the job trains."""
    switched: Times = {page: [] for page in PAGES}
    again: Times = {page: [] for page in PAGES}
    async with connect(url.replace("http", "ws") + "/_stcore/stream", max_size=None, origin=Origin(url)) as stream:
        kept: set[str] = set()
        for page in PAGES:  # the first visit to each page fills caches, which is not representative
            kept = await _viewers.once(stream, page, kept)
        ends = time.monotonic() + MEASURED_S
        while time.monotonic() < ends and trains():
            for page in PAGES:
                for times in (switched, again):
                    asked = time.perf_counter()
                    kept = await _viewers.once(stream, page, kept)
                    times[page].append(time.perf_counter() - asked)
                    await asyncio.sleep(PAUSE_S)
    return switched, again


def _cells(times: list[float]) -> str:
    return f"{len(times):>9}{statistics.median(times):>10.3f}{max(times):>11.3f}"


if __name__ == "__main__":
    main()
