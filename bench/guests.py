"""Measures an audience: `python -m bench.guests`. 200 phones open a link at the same moment, vote, and see the result.

The studio is started in the usual way, with its own home directory. Each phone is an HTTP client with a connection and
a cookie of its own: it loads the page, sends its vote, and follows the redirect to the result. Meanwhile the tally is
read every second, as by the presenter's page. The last line printed is JSON; `cpu_ms_per_guest` is the CPU time of the
web process, which hardly depends on other work on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from bench import _smoke
from bench._page_server import served
from bench._process import cpu_s
from core.actor import LOCAL
from core.db.store import Store, new_id
from core.db.tables import Story
from core.settings import Settings
from core.stories import guest_links, guest_votes
from core.stories.guest_votes import VoteCounts

ROOT = Path(__file__).parents[1]
GUESTS = 200
WORDS = 400  # of each story, as a model writes
POLL_S = 1.0  # as the presenter's page
_CHOICE = re.compile(r'value="(\w+)">')

Times = dict[str, list[float]]


def main() -> None:
    """Vote, count, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=GUESTS)
    options = _smoke.parse(parser)
    with tempfile.TemporaryDirectory() as home:
        environ = {"FABULA_HOME": home, "FABULA_ENGINE_URL": "http://127.0.0.1:9"}  # no engine is needed
        with served(ROOT / "app.py", **environ) as (url, pid):
            store = Store.open(Settings.from_env(environ))
            link = guest_links.open_link(store, LOCAL, "round", _stories(store), max_guests=options.guests)
            used, started = cpu_s(pid), time.perf_counter()
            times, chosen, moments = asyncio.run(_audience(store, f"{url}/guest/{link.token}", link.id, options.guests))
            wall_s, used = time.perf_counter() - started, cpu_s(pid) - used
            tally = guest_votes.tally(store, LOCAL, link.id)
            store.close()
    for step, seconds in times.items():
        print(f"{step:<8}{_summary(seconds)}")
    print(f"{'tally':<8}{_summary(moments)}")
    print(
        json.dumps(_result(times, chosen, tally, wall_s) | {"cpu_ms_per_guest": round(1000 * used / options.guests, 1)})
    )


def _stories(store: Store) -> list[str]:
    text = " ".join(["once"] * WORDS)
    with store.session() as session:
        rows = [
            Story(
                id=new_id(), actor=LOCAL.id, provider="engine", model=model, prompt="p", parameters={}, text=text,
                round_id="round",
            )
            for model in ("tuned", "base")
        ]  # fmt: skip
        session.add_all(rows)
        return [row.id for row in rows]


async def _audience(store: Store, url: str, link_id: str, guests: int) -> tuple[Times, Counter[str], list[float]]:
    """All phones at once. Returns the seconds of each step, the votes sent, and the seconds of each tally."""
    times: Times = {"look": [], "vote": [], "result": []}
    chosen: Counter[str] = Counter()
    moments: list[float] = []
    watching = asyncio.create_task(_watch(store, link_id, moments))
    await asyncio.gather(*(_phone(url, number, times, chosen) for number in range(guests)))
    watching.cancel()
    return times, chosen, moments


async def _phone(url: str, number: int, times: Times, chosen: Counter[str]) -> None:
    """One guest: every fourth prefers the second story, every tenth none of them."""
    limit = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=limit, cookie_jar=aiohttp.CookieJar(unsafe=True)) as phone:
        began = time.perf_counter()
        async with phone.get(url) as answer:
            choices = _CHOICE.findall(await answer.text())
        times["look"].append(time.perf_counter() - began)
        choice = choices[2 if number % 10 == 0 else int(number % 4 == 0)]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        began = time.perf_counter()
        async with phone.post(url, data=urlencode({"story": choice}), headers=headers, allow_redirects=False) as answer:
            if answer.status != 303:
                raise RuntimeError(f"the vote was answered with {answer.status}: {await answer.text()}")
        times["vote"].append(time.perf_counter() - began)
        chosen[choice] += 1
        began = time.perf_counter()
        async with phone.get(url) as answer:
            if "chosen" not in await answer.text() and choice != "none":
                raise RuntimeError("a phone does not see its own vote")
        times["result"].append(time.perf_counter() - began)


async def _watch(store: Store, link_id: str, moments: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.to_thread(guest_votes.tally, store, LOCAL, link_id)
        moments.append(time.perf_counter() - began)
        await asyncio.sleep(POLL_S)


def _result(times: Times, chosen: Counter[str], tally: VoteCounts, wall_s: float) -> dict[str, float]:
    sent = sorted(count for choice, count in chosen.items() if choice != "none")
    miscounted = sum(abs(a - b) for a, b in zip(sent, sorted(tally.votes), strict=True))
    miscounted += abs(chosen["none"] - tally.none)
    found: dict[str, float] = {
        "guests": sum(chosen.values()), "votes_counted": tally.total, "votes_miscounted": miscounted,
        "wall_s": round(wall_s, 2),
    }  # fmt: skip
    for step, seconds in times.items():
        found[f"p95_{step}_s"] = round(_p95(seconds), 3)
    return found


def _summary(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.3f} s, p95 {_p95(seconds):.3f} s, slowest {max(seconds):.3f} s"


def _p95(seconds: list[float]) -> float:
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]


if __name__ == "__main__":
    main()
