"""Many browsers on one page at once, as far as its server can tell: for `bench.pages`."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin

VIEWERS = 25
_SECONDS = 12.0  # of asking, for each page; longer for a page of which so few reruns end in that time
_FEWEST, _PATIENCE_S = 10, 60.0
_ROOT = Path(__file__).parents[1]
_START_S = 60
_LARGEST = 1 << 30


def reruns_per_s(script: Path, page: str) -> float:
    """Reruns a second that all viewers get together, from a server of its own that is started as people do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}", "--server.headless=true"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        _up(port, process)
        return asyncio.run(_rate(port, page))
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _up(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers."""
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server did not start")


async def _rate(port: int, page: str) -> float:
    """Each viewer asks again as soon as its page is there; the first run of each does not count."""
    counted = 0
    together = asyncio.Barrier(VIEWERS + 1)

    async def view() -> None:
        nonlocal counted
        address, origin = f"ws://127.0.0.1:{port}/_stcore/stream", Origin(f"http://127.0.0.1:{port}")
        async with connect(address, max_size=_LARGEST, origin=origin) as stream:
            kept = await _once(stream, page, set())
            await together.wait()
            while True:
                kept = await _once(stream, page, kept)
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
    rate = max(counted, 1) / gone  # none at all counts as one
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return rate


async def _once(stream: ClientConnection, page: str, kept: set[str]) -> set[str]:
    """One rerun, to its last message. As a browser it tells which large elements it has, and keeps those that came."""
    ask = BackMsg()
    ask.rerun_script.query_string = ""
    ask.rerun_script.page_name = page
    ask.rerun_script.cached_message_hashes.extend(kept)
    await stream.send(ask.SerializeToString())
    seen: set[str] = set()
    while True:
        message = ForwardMsg.FromString(await stream.recv(decode=False))
        kind = message.WhichOneof("type")
        if kind == "script_finished":
            return seen
        if kind == "ref_hash":
            seen.add(message.ref_hash)
        elif message.metadata.cacheable:
            seen.add(message.hash)
