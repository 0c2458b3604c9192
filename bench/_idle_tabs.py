"""A hundred open tabs that no one touches: their memory, their CPU time, and how soon they close when they have to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from bench import _tabs
from bench._process import cpu_s, private_mb
from bench._tabs import Tab
from bench._team_studio import DOMAIN, TeamStudio
from core.people import people

SESSIONS, PEOPLE = 100, 20
PAGES = ("", "dataset", "training", "cost", "story", "settings")  # the tabs are spread over all pages
SETTLE_S = 25.0  # `core.gc_tuning` collects everything after at most 20 s
WATCH_S = 30.0
_CLOSED = ("You have been signed out", "changed your role")
_MOST_S = 60.0
_LOOK_S = 0.01


def measure(studio: TeamStudio) -> dict[str, float]:
    """Measure all three figures; afterwards three people have lost their tabs."""
    return asyncio.run(_measure(studio))


async def _measure(studio: TeamStudio) -> dict[str, float]:
    names = [f"idle{number}" for number in range(PEOPLE)]
    cookies = [studio.cookies(name) for name in names]
    first = studio.cookies("first")
    async with AsyncExitStack() as stack:
        witness = await stack.enter_async_context(_tabs.opened(studio.url, "cost", first))  # a page without timers
        for page in PAGES * 2:  # the first visits import modules and fill caches
            async with _tabs.opened(studio.url, page, first):
                pass
        cpu_without, before = await _settled(studio, witness)
        tabs = [
            await stack.enter_async_context(
                _tabs.opened(studio.url, PAGES[number % len(PAGES)], cookies[number % PEOPLE], sentences=_CLOSED)
            )
            for number in range(SESSIONS)
        ]
        staying = [asyncio.create_task(tab.stay(float("inf"))) for tab in tabs]
        cpu, after = await _settled(studio, witness)
        for task in staying:
            if task.done():
                task.result()  # raises
        print(f"idle, no sessions: {before:.0f} MB, {cpu_without:.2f} % CPU; {SESSIONS}: {after:.0f} MB, {cpu:.2f} %")
        revoked_s = [
            await _revoked_s(studio, name, tabs[number::PEOPLE], act)
            for number, (name, act) in enumerate(zip(names, _acts(studio), strict=False))
        ]
        for task in staying:
            task.cancel()
        await asyncio.gather(*staying, return_exceptions=True)
    return {
        "mb_per_idle_session": round((after - before) / SESSIONS, 3),
        "idle_cpu_percent": round(cpu, 2),
        "revoked_tab_s": round(max(revoked_s), 2),
    }


async def _settled(studio: TeamStudio, witness: Tab) -> tuple[float, float]:
    """CPU time in percent of a core while idle, and then the memory after a complete garbage collection in MB."""
    await asyncio.sleep(SETTLE_S)
    used = cpu_s(studio.pid)
    await asyncio.sleep(WATCH_S)
    share = 100 * (cpu_s(studio.pid) - used) / WATCH_S
    await witness.rerun()  # Streamlit collects garbage after each run
    await asyncio.sleep(1)
    return share, private_mb(studio.pid)


def _acts(studio: TeamStudio) -> list[Callable[[str], None]]:
    """What closes a person's tabs."""
    store, admin = studio.store, studio.admin
    return [
        lambda person_id: people.disable(store, admin, person_id),
        lambda person_id: people.sign_out_everywhere(store, admin, person_id),
        lambda person_id: people.set_role(store, admin, person_id, "editor"),
    ]


async def _revoked_s(studio: TeamStudio, name: str, tabs: Sequence[Tab], act: Callable[[str], None]) -> float:
    """Seconds from a change until the last of a person's tabs says that it is closed."""
    everyone = people.everyone(studio.store, studio.admin)
    person_id = next(one.id for one in everyone if one.email == f"{name}@{DOMAIN}")
    began = time.monotonic()
    act(person_id)
    while not all(tab.shown_at for tab in tabs):
        if time.monotonic() > began + _MOST_S:
            raise RuntimeError(f"a tab of {name} was still open after {_MOST_S:.0f} s")
        await asyncio.sleep(_LOOK_S)
    return max(tab.shown_at or 0.0 for tab in tabs) - began
