"""Simulates many browsers at the same time: for `bench.pages`, `bench.responsive` and `bench.soak`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

from bench._page_server import served

VIEWERS = 25
_SECONDS = 12.0  # duration per page; longer for a page with few reruns in that time
_FEWEST, _PATIENCE_S = 10, 60.0
_LARGEST = 1 << 30


def reruns_per_s(script: Path, page: str) -> float:
    """Measure all viewers' total reruns per second on a separate server, which is started in the usual way."""
    with served(script) as (url, _):
        return asyncio.run(_rate(url, page))


async def _rate(url: str, page: str) -> float:
    """Measure the rate: each viewer requests a rerun as soon as its page is complete; the first run of each is not
    counted.
    """
    counted = 0
    together = asyncio.Barrier(VIEWERS + 1)

    async def view() -> None:
        nonlocal counted
        address = url.replace("http", "ws") + "/_stcore/stream"
        async with connect(address, max_size=_LARGEST, origin=Origin(url)) as stream:
            kept = await once(stream, page, set())
            await together.wait()
            while True:
                kept = await once(stream, page, kept)
                counted += 1

    tasks = [asyncio.create_task(view()) for _ in range(VIEWERS)]
    waiting = asyncio.create_task(together.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
    began = time.perf_counter()
    while (gone := time.perf_counter() - began) < _SECONDS or (counted < _FEWEST and gone < _PATIENCE_S):
        await asyncio.sleep(0.5)
    rate = max(counted, 1) / gone  # zero counts as one
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return rate


async def once(
    stream: ClientConnection,
    page: str,
    kept: set[str],
    *,
    query: str = "",
    fragment_id: str = "",
    timers: dict[str, float] | None = None,
) -> set[str]:
    """Rerun the page once and read until the last message.

    Like a browser, report which large elements are cached, and cache new ones.

    Args:
        stream: the websocket of the session.
        page: URL path of the page.
        kept: hashes of the cached elements.
        query: the query string.
        fragment_id: fragment to run on its own, as its timer would.
        timers: filled with the fragments that the page reruns on a timer, and their intervals in seconds.
    """
    ask = BackMsg()
    ask.rerun_script.query_string = query
    ask.rerun_script.page_name = page
    ask.rerun_script.fragment_id = fragment_id
    ask.rerun_script.is_auto_rerun = bool(fragment_id)
    ask.rerun_script.cached_message_hashes.extend(kept)
    await stream.send(ask.SerializeToString())
    seen: set[str] = set()
    while True:
        message = ForwardMsg.FromString(await stream.recv(decode=False))
        kind = message.WhichOneof("type")
        if kind == "script_finished":
            return seen
        if kind == "auto_rerun" and timers is not None:
            timers[message.auto_rerun.fragment_id] = message.auto_rerun.interval
        elif kind == "ref_hash":
            seen.add(message.ref_hash)
        elif message.metadata.cacheable:
            seen.add(message.hash)
