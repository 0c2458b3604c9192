"""25 people who watch the training page: how long they wait during a run and a job, and what a second process gains."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from bench import _tabs, _team_studio
from bench._process import cpu_s
from bench._tabs import Tab
from bench._team_studio import TeamStudio
from core import packaged_models
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.generation import run_progress, runs
from core.pricing.prices import ENGINE
from tests.support import postgres_server
from tests.support.oidc_server import COOKIE_SECRET, OidcServer
from tests.support.waiting import until

VIEWERS = 25
PAGE = "training"
WATCH_S = 60.0
CLICK_S = (3.0, 7.0)  # pause between the clicks of a viewer
EPOCHS = 20  # more than can be trained in that time
RUN_ROWS = 20_000  # the same for the run
START_S = 300.0  # the first job on a machine converts the weights
ROUNDS, ROUND_S = 3, 10.0

_Times = tuple[list[float], list[float]]


# --- during a run and a training job ----------------------------------------------------------------------------------


def p95_rerun_s(studio: TeamStudio, dataset_id: str) -> float:
    """The 95th percentile of the waiting times while a run and a job are going on: of clicks or timers, the longer."""
    job_id, run_id = _job(studio, dataset_id), _run(studio)
    until(lambda: run_progress.get(studio.store, run_id).done, "the run's first row")
    until(lambda: job_views.get(studio.store, job_id).results_csv, "the job's first step", START_S)
    clicks, polls = asyncio.run(_watched(studio))
    if job_views.get(studio.store, job_id, results=False).finished:
        raise RuntimeError("the job ended too early")
    progress = run_progress.get(studio.store, run_id)
    if progress.state not in run_progress.ACTIVE:
        raise RuntimeError(f"the run is {progress.state}: {progress.reason or progress.note or ''}")
    for name, times in (("clicks", clicks), ("timers", polls)):
        print(f"{len(times)} {name}: median {statistics.median(times):.3f} s, p95 {_p95(times):.3f}, {max(times):.3f}")
    print(f"{progress.done:,} rows written")
    return round(max(_p95(clicks), _p95(polls)), 3)


def _job(studio: TeamStudio, dataset_id: str) -> str:
    form = JobForm(dataset_id, "bench", ENGINE, packaged_models.BASE, n_epochs=EPOCHS, batch_size=4)
    return jobs.submit(studio.store, studio.admin, form)


def _run(studio: TeamStudio) -> str:
    tens = tuple(str(number) for number in range(100))
    columns = (Column("volume", tuple(str(number) for number in range(RUN_ROWS // 100))), Column("part", tens))
    template = "Tell story number {volume}.{part}."
    recipe = Recipe("team", columns, template, provider="compatible", model="writer", endpoint="chat", max_tokens=256)
    return runs.enqueue(studio.store, studio.admin, datasets.create(studio.store, studio.admin, recipe))


async def _watched(studio: TeamStudio) -> _Times:
    """Waiting times of all clicks and of all reruns by timers."""
    times: _Times = ([], [])
    async with AsyncExitStack() as stack:
        tabs = await _open(stack, studio, VIEWERS)
        ends = time.monotonic() + WATCH_S
        watching = [_watch(tab, random.Random(number), ends, times) for number, tab in enumerate(tabs)]
        await asyncio.gather(*watching)
    return times


async def _watch(tab: Tab, dice: random.Random, ends: float, times: _Times) -> None:
    """One viewer: timers, and a click every few seconds. Waiting begins with the click, not when it can be sent."""
    clicks, polls = times
    await asyncio.sleep(dice.uniform(0, 1))
    while (clicked := time.monotonic() + dice.uniform(*CLICK_S)) < ends:
        await tab.stay(clicked - time.monotonic(), polls)
        await tab.rerun()
        clicks.append(time.monotonic() - clicked)


async def _open(stack: AsyncExitStack, studio: TeamStudio, viewers: int) -> list[Tab]:
    cookies = [studio.cookies(f"viewer{number}") for number in range(viewers)]
    return [await stack.enter_async_context(_tabs.opened(studio.url, PAGE, one)) for one in cookies]


def _p95(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]


# --- two processes instead of one -------------------------------------------------------------------------------------


def reruns_two_processes_vs_one(home: Path, oidc: OidcServer) -> float | None:
    """How many times the reruns per second of one process two processes reach on one PostgreSQL database.

    None if there is no PostgreSQL.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server.running())
        except postgres_server.PostgresAbsent as exc:
            print(f"two processes were not measured: {exc}")
            return None
        environ = {"DATABASE_URL": postgres_server.new_database(server), "FABULA_SECRET_KEY": COOKIE_SECRET}
        one, other = (
            stack.enter_context(_team_studio.running(home / name, oidc, engine=False, **environ))
            for name in ("web1", "web2")
        )
        _team_studio.fill(one)
        return asyncio.run(_compared(one, other))


async def _compared(one: TeamStudio, other: TeamStudio) -> float:
    half = VIEWERS // 2
    ratios = []
    async with AsyncExitStack() as stack:
        alone = await _open(stack, one, VIEWERS)
        shared = alone[: VIEWERS - half] + await _open(stack, other, half)
        for _ in range(ROUNDS):
            used = _used(one, other)
            rates = [await _rate(tabs) for tabs in (alone, shared)]
            print(f"one process {rates[0]:.1f} reruns/s, two {rates[1]:.1f}; {_shares(used, _used(one, other))}")
            ratios.append(rates[1] / rates[0])
    return round(statistics.median(ratios), 2)


async def _rate(tabs: Sequence[Tab]) -> float:
    """Reruns per second of viewers who each ask for the next as soon as they have one."""
    began = time.perf_counter()

    async def ask(tab: Tab) -> int:
        counted = 0
        while time.perf_counter() - began < ROUND_S:
            await tab.rerun()
            counted += 1
        return counted

    counted = await asyncio.gather(*map(ask, tabs))
    return sum(counted) / (time.perf_counter() - began)


def _used(one: TeamStudio, other: TeamStudio) -> Mapping[str, float]:
    return {"first": cpu_s(one.pid), "second": cpu_s(other.pid), "viewers": time.process_time()}


def _shares(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {after[name] - before[name]:.1f} s of CPU" for name in before)
