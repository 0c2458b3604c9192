"""The training page's part of `bench.pages`: a rerun with many jobs and a long curve, what is sent, and 25 viewers.

The yardstick is Streamlit's own `st.line_chart` with the same curve: for the bytes that one chart sends, and, on a
page of its own with nothing else on it, for how many reruns a second 25 visitors get together.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.testing.v1 import AppTest

from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.settings import Settings

JOBS = 500
STEPS = 1_000_000
VIEWERS = 25
_SHORT = 300  # steps of the other jobs
_SECONDS = 12.0  # of asking, for each page; longer for a page of which so few reruns end in that time
_FEWEST, _PATIENCE_S = 10, 60.0
_ROOT = Path(__file__).parents[1]
_START_S = 60
_LARGEST = 1 << 30

_STOCK = """
import streamlit as st
from core.db.store import Store
from core.settings import Settings
from core.training import jobs, results

@st.cache_resource
def curve():
    store = Store.open(Settings.from_env())
    return results.parse(jobs.get(store, jobs.list_jobs(store)[0].id).results_csv).frame

st.line_chart(curve(), x="step", y="training_loss")
st.line_chart(curve(), x="step", y="training_token_accuracy")
"""
_OURS = """
import sys
import streamlit as st
app = st.App({frame!r})
"""


def measure(rerun_ms: Callable[..., float]) -> dict[str, float]:
    """All three figures, in the home that the environment names."""
    _fill(STEPS)
    tabs = ("events", "settings")
    rerun = rerun_ms("training", {}, lambda at, number: at.get_by_key("training_tab").set_value(tabs[number % 2]))
    print(f"training page, {JOBS} jobs, {STEPS:,} steps open: {rerun:.0f} ms a rerun")
    ours, stock = _sent()
    share = ours / stock
    print(f"one chart of {STEPS:,} steps: {ours:,} bytes, st.line_chart {stock:,} bytes: {share:.2%}")
    here, there = asyncio.run(_viewed())
    print(f"{VIEWERS} viewers of {STEPS:,} steps: {here:.2f} reruns/s; with st.line_chart {there:.2f}")
    return {
        "training_rerun_ms": round(rerun, 1),
        "chart_payload_vs_stock": round(share, 5),
        "reruns_vs_stock_25_viewers": round(here / there, 1),
    }


def results_csv(steps: int) -> str:
    """A results file that falls and jumps about as a real one does."""
    dice = np.random.default_rng(7)
    step = np.arange(1, steps + 1)
    loss = (0.4 + 1.6 * np.exp(-step / (steps / 5))) * dice.uniform(0.7, 1.3, steps)
    accuracy = 0.95 - 0.4 * np.exp(-step / (steps / 5)) + dice.normal(0, 0.01, steps)
    lines = (f"{n},{n * 600},{n},{a:.6f},0.0,{b:.6f}" for n, a, b in zip(step, loss, accuracy, strict=True))
    head = "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy"
    return "\n".join([head, *lines, ""])


def _fill(steps: int) -> None:
    """Many short jobs, and one with a long curve, the newest."""
    store = Store.open(Settings.from_env())
    short, now = results_csv(_SHORT), utcnow()
    with store.session() as session:
        for number in range(JOBS - 1):
            session.add(_job(f"bench{number:05}", short, now - timedelta(hours=1, seconds=number)))
        session.add(_job("bench-long", results_csv(steps), now - timedelta(minutes=30)))
    store.close()


def _job(job_id: str, text: str, at: object) -> TrainingJob:
    return TrainingJob(
        id=job_id, name=job_id, provider="engine", base_model="gemma-3-270m", hyperparameters={"n_epochs": 3},
        file_format="completion", status="succeeded", remote_id=job_id, results_csv=text, n_examples=464,
        trained_tokens=279_000, created_at=at, updated_at=at, finished_at=utcnow(), created_by="local",
        fine_tuned_model=f"ft:gemma-3-270m:fabula:{job_id}",
    )  # fmt: skip


def _sent() -> tuple[int, int]:
    """Bytes of the loss chart as the page sends it, and of the stock one."""
    page = AppTest.from_file(str(_ROOT / "pages" / "frame.py"), default_timeout=60).run()
    page.switch_page(str(_ROOT / "pages" / "training.py")).run()
    stock = AppTest.from_string(_STOCK, default_timeout=60).run()
    ours, theirs = (at.get("vega_lite_chart")[0].proto.ByteSize() for at in (page, stock))
    return int(ours), int(theirs)


async def _viewed() -> tuple[float, float]:
    """Reruns a second that all viewers get together: of the training page, and of the stock one."""
    home = Path(os.environ["FABULA_HOME"])
    rates = []
    for name, text, page in (
        ("ours.py", _OURS.format(frame=str(_ROOT / "pages" / "frame.py")), "training"),
        ("stock.py", _STOCK, ""),
    ):
        script = home / name
        script.write_text(text, encoding="utf-8")
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
            rates.append(await _rate(port, page))
        finally:
            process.kill()
            process.wait()
    return rates[0], rates[1]


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
    from websockets.asyncio.client import connect

    counted = 0
    together = asyncio.Barrier(VIEWERS + 1)

    async def view() -> None:
        nonlocal counted
        async with connect(
            f"ws://127.0.0.1:{port}/_stcore/stream", max_size=_LARGEST, origin=f"http://127.0.0.1:{port}"
        ) as stream:  # type: ignore[arg-type]  # any origin of this machine is one
            await _once(stream, page)
            await together.wait()
            while True:
                await _once(stream, page)
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


async def _once(stream: object, page: str) -> None:
    """One rerun, to its last message."""
    ask = BackMsg()
    ask.rerun_script.query_string = ""
    ask.rerun_script.page_name = page
    await stream.send(ask.SerializeToString())  # type: ignore[attr-defined]  # a websocket
    while True:
        raw = await stream.recv()  # type: ignore[attr-defined]
        if len(raw) > 200:  # the end of a run is a few bytes; a chart need not be taken apart to be told from it
            continue
        message = ForwardMsg.FromString(raw)
        if message.WhichOneof("type") == "script_finished":
            return
