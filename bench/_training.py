"""The training page's part of `bench.pages`: a rerun with many jobs and a long curve, the bytes sent, and 25 viewers.

The reference is Streamlit's own `st.line_chart` with the same curve, both for the bytes per chart and, on a page
without other content, for the total reruns per second of 25 visitors.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from streamlit.testing.v1 import AppTest

from bench import _viewers
from core import packaged_models
from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import TrainingJob, utcnow
from core.settings import Settings

JOBS = 500
STEPS = 1_000_000
_SHORT = 300  # steps of the other jobs
_ROUNDS = 3
_ROOT = Path(__file__).parents[1]

_STOCK = """
import streamlit as st
from core.db.store import Store
from core.settings import Settings
from core.finetuning import job_views, results

@st.cache_resource
def curve():
    store = Store.open(Settings.from_env())
    return results.parse(job_views.get(store, job_views.list_jobs(store)[0].id).results_csv).frame

st.line_chart(curve(), x="step", y="training_loss")
st.line_chart(curve(), x="step", y="training_token_accuracy")
"""


def measure(rerun_ms: Callable[..., float]) -> dict[str, float]:
    """Measure all three figures in the home directory set by the environment."""
    _fill(STEPS)
    tabs = ("events", "settings")
    rerun = rerun_ms("training", {}, lambda at, number: at.get_by_key("training_tab").set_value(tabs[number % 2]))
    print(f"training page, {JOBS} jobs, {STEPS:,} steps open: {rerun:.0f} ms a rerun")
    ours, stock = _sent()
    share = ours / stock
    print(f"one chart of {STEPS:,} steps: {ours:,} bytes, st.line_chart {stock:,} bytes: {share:.2%}")
    ratio = _viewed()
    return {
        "training_rerun_ms": round(rerun, 1),
        "chart_payload_vs_stock": round(share, 5),
        "reruns_vs_stock_25_viewers": round(ratio, 1),
    }


def results_csv(steps: int) -> str:
    """Create a result file with a decreasing, noisy loss like a real one."""
    dice = np.random.default_rng(7)
    step = np.arange(1, steps + 1)
    loss = (0.4 + 1.6 * np.exp(-step / (steps / 5))) * dice.uniform(0.7, 1.3, steps)
    accuracy = 0.95 - 0.4 * np.exp(-step / (steps / 5)) + dice.normal(0, 0.01, steps)
    lines = (f"{n},{n * 600},{n},{a:.6f},0.0,{b:.6f}" for n, a, b in zip(step, loss, accuracy, strict=True))
    head = "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy"
    return "\n".join([head, *lines, ""])


def _fill(steps: int) -> None:
    """Store many short jobs, and a newest job with a long curve."""
    store = Store.open(Settings.from_env())
    short, now = results_csv(_SHORT), utcnow()
    with store.session() as session:
        for number in range(JOBS - 1):
            session.add(finished_job(f"bench{number:05}", short, now - timedelta(hours=1, seconds=number)))
        session.add(finished_job("bench-long", results_csv(steps), now - timedelta(minutes=30)))
    store.close()


def finished_job(job_id: str, text: str, at: datetime, created_by: str = LOCAL.id) -> TrainingJob:
    """Create a job of the engine that has ended, with this result file."""
    return TrainingJob(
        id=job_id, name=job_id, provider="engine", base_model=packaged_models.BASE, hyperparameters={"n_epochs": 3},
        file_format="completion", status="succeeded", remote_id=job_id, results_csv=text, n_examples=464,
        trained_tokens=279_000, created_at=at, updated_at=at, finished_at=utcnow(), created_by=created_by,
        fine_tuned_model=f"ft:{packaged_models.BASE}:fabula:{job_id}",
    )  # fmt: skip


def _sent() -> tuple[int, int]:
    """Bytes that the page sends for its loss chart, and bytes that `st.line_chart` sends."""
    page = AppTest.from_file(str(_ROOT / "pages" / "frame.py"), default_timeout=60).run()
    page.switch_page(str(_ROOT / "pages" / "training.py")).run()
    stock = AppTest.from_string(_STOCK, default_timeout=60).run()
    ours, theirs = (at.get("vega_lite_chart")[0].proto.ByteSize() for at in (page, stock))
    return int(ours), int(theirs)


def _viewed() -> float:
    """Ratio of the training page's reruns per second to those of a page with `st.line_chart`; median of all rounds."""
    stock = Path(os.environ["FABULA_HOME"]) / "stock.py"
    stock.write_text(_STOCK, encoding="utf-8")
    ratios = []
    for _ in range(_ROUNDS):
        ours, theirs = _viewers.reruns_per_s(_ROOT / "app.py", "training"), _viewers.reruns_per_s(stock, "")
        print(f"{_viewers.VIEWERS} viewers of {STEPS:,} steps: {ours:.2f} reruns/s; with st.line_chart {theirs:.2f}")
        ratios.append(ours / theirs)
    return statistics.median(ratios)
