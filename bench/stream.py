"""Compares the speed of the story page with the raw SDK and plain `st.write_stream`: `python -m bench.stream`.

A loopback server streams 100 chunks per second. The studio and a page with one `st.write_stream` are started in the
usual way; each is read through its websocket, like a browser, and its bytes and the server's CPU time are counted
(minus the CPU time of the same server while idle). The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from bench import _smoke
from bench._paced_server import ENDLESS
from bench._page_server import served
from bench._process import cpu_s

ROOT = Path(__file__).parents[1]
TRIES = 5
ROUNDS = 3
PEOPLE = 10
IDLE_S = 3.0
WATCH_S = 6.0


@dataclass
class ReceivedStream:
    """The data that one visitor's websocket has received."""

    size: int = 0
    texts: list[tuple[float, str]] = field(default_factory=list)
    button: str = ""
    area: str = ""
    finished: int = 0


class Visitor:
    """Simulates a browser."""

    def __init__(self, session: aiohttp.ClientSession, url: str, page: str) -> None:
        self._session, self._url, self._page = session, url, page
        self.seen = ReceivedStream()

    async def __aenter__(self) -> Visitor:
        address = self._url.replace("http", "ws") + "/_stcore/stream"
        self.socket = await self._session.ws_connect(
            address, protocols=("streamlit",), origin=self._url, max_msg_size=0
        )
        self._reader = asyncio.create_task(self._read())
        await self.run({})
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def run(self, widgets: dict[str, Any], *, wait: bool = True) -> float:
        """Rerun the page with these widget values; return the time of the request."""
        message = BackMsg()
        state = message.rerun_script
        state.page_name = self._page
        for name, value in widgets.items():
            one = state.widget_states.widgets.add(id=name)
            if value is True:
                one.trigger_value = True
            elif isinstance(value, str):
                one.string_value = value
            else:
                one.string_array_value.data[:] = value
        before, asked = self.seen.finished, time.monotonic()
        await self.socket.send_bytes(message.SerializeToString())
        while wait and self.seen.finished == before:
            await asyncio.sleep(0.005)
        return asked

    async def write(self) -> float:
        """Click the button; return the time."""
        return await self.run({self.seen.button: True}, wait=False)

    async def _read(self) -> None:
        async for received in self.socket:
            if received.type != aiohttp.WSMsgType.BINARY:
                continue
            now = time.monotonic()
            self.seen.size += len(received.data)
            message = ForwardMsg.FromString(received.data)
            kind = message.WhichOneof("type")
            if kind == "script_finished":
                self.seen.finished += 1
            elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                self._learn(message.delta.new_element, now)

    def _learn(self, element: Any, now: float) -> None:
        kind = element.WhichOneof("type")
        if kind == "button" and element.button.label == "Write":
            self.seen.button = element.button.id
        elif kind == "text_area":
            self.seen.area = element.text_area.id
        elif kind in ("text", "markdown"):
            said = getattr(element, kind).body
            if said.lstrip().startswith("the sea"):
                self.seen.texts.append((now, said))


@contextmanager
def _process(arguments: list[str], **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environ}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()


async def _whole(session: aiohttp.ClientSession, url: str, pid: int, page: str) -> tuple[int, float]:
    """Bytes and CPU seconds for one story, from the click to its end."""
    async with Visitor(session, url, page) as visitor:
        await visitor.run({})
        idle = cpu_s(pid)
        await asyncio.sleep(IDLE_S)
        idle_rate = (cpu_s(pid) - idle) / IDLE_S
        size, used, began = visitor.seen.size, cpu_s(pid), await visitor.write()
        finished = visitor.seen.finished
        while visitor.seen.finished == finished or not visitor.seen.texts:
            await asyncio.sleep(0.02)
        took = time.monotonic() - began
        await asyncio.sleep(0.5)  # wait for the run that restores the Write button
        return visitor.seen.size - size, max(0.01, cpu_s(pid) - used - idle_rate * (took + 0.5))


async def _first(session: aiohttp.ClientSession, url: str, paced_server: str) -> float:
    """Delay of the first words on the page compared with the raw SDK, in milliseconds; median of adjacent pairs."""
    client = openai.AsyncOpenAI(base_url=f"{paced_server}/v1", api_key="x", max_retries=0)
    extra = []
    for number in range(TRIES + 1):
        began = time.monotonic()
        stream = await client.chat.completions.create(
            model="writer", messages=[{"role": "user", "content": ENDLESS}], stream=True
        )
        async for _ in stream:
            break
        raw = time.monotonic() - began
        await stream.close()
        async with Visitor(session, url, "story") as visitor:
            asked = await visitor.write()
            while not visitor.seen.texts:
                await asyncio.sleep(0.001)
            if number:  # the first pair is a warm-up
                extra.append((visitor.seen.texts[0][0] - asked - raw) * 1000)
    await client.close()
    return statistics.median(extra)


async def _ten(session: aiohttp.ClientSession, url: str) -> float:
    """Updates per second for the slowest of ten visitors who all stream at the same time."""

    async def one() -> float:
        async with Visitor(session, url, "story") as visitor:
            await ready.wait()
            await visitor.write()
            while not visitor.seen.texts:
                await asyncio.sleep(0.01)
            begun = len(visitor.seen.texts)
            began = time.monotonic()
            await asyncio.sleep(WATCH_S)
            return (len(visitor.seen.texts) - begun) / (time.monotonic() - began)

    ready = asyncio.Event()
    people = [asyncio.create_task(one()) for _ in range(PEOPLE)]
    await asyncio.sleep(5)  # wait until all pages are open
    ready.set()
    return min(await asyncio.gather(*people))


async def _stop(session: aiohttp.ClientSession, url: str, paced_server: str) -> float:
    """Seconds from closing the page to the end of its request, for the slowest of several attempts."""
    slowest = 0.0
    for _ in range(TRIES):
        async with session.get(f"{paced_server}/hung_up") as answer:
            before = len(await answer.json())
        async with Visitor(session, url, "story") as visitor:
            await visitor.write()
            while not visitor.seen.texts:
                await asyncio.sleep(0.01)
            left = time.monotonic()
        while True:
            async with session.get(f"{paced_server}/hung_up") as answer:
                if len(found := await answer.json()) > before:
                    break
            await asyncio.sleep(0.02)
        slowest = max(slowest, found[before] - left)
    return slowest


def _server_answers() -> None:
    with _process(["-m", "bench._paced_server"]) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("http")


async def main() -> None:
    """Measure, then print the results and one line of JSON."""
    _smoke.parse(argparse.ArgumentParser(description=__doc__), start=_server_answers)
    with tempfile.TemporaryDirectory() as home, _process(["-m", "bench._paced_server"]) as server:
        assert server.stdout is not None
        paced_server = server.stdout.readline().strip()
        async with aiohttp.ClientSession() as session:
            with (
                served(ROOT / "bench" / "_write_stream.py", BENCH_TELLER=paced_server) as (stock, stock_pid),
                served(ROOT / "app.py", FABULA_HOME=home, FABULA_ENGINE_URL=paced_server) as (url, pid),
            ):
                first = await _first(session, url, paced_server)
                shares = []
                for _ in range(ROUNDS):
                    plain_bytes, plain_cpu = await _whole(session, stock, stock_pid, "")
                    our_bytes, our_cpu = await _whole(session, url, pid, "story")
                    shares.append((our_bytes / plain_bytes, our_cpu / plain_cpu))
                    print(f"write_stream: {plain_bytes:,} bytes, {plain_cpu:.2f} s of processor", end="; ")
                    print(f"ours: {our_bytes:,}, {our_cpu:.2f} s")
                stop = await _stop(session, url, paced_server)
                ten = await _ten(session, url)
    print(
        json.dumps(
            {
                "first_text_extra_ms": round(first, 1),
                "bytes_vs_write_stream": round(statistics.median(size for size, _ in shares), 4),
                "cpu_vs_write_stream": round(statistics.median(used for _, used in shares), 4),
                "updates_per_s_10_people": round(ten, 2),
                "upstream_stop_s": round(stop, 3),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
