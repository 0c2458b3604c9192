"""A real worker executing a paid run, for tests that make its database unavailable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import Row, Spend
from core.generation import runs
from core.pricing import custom_prices
from core.settings import Settings
from tests.support.fault_server import FaultServer
from tests.support.waiting import WAIT_LIMIT_S

ROOT = Path(__file__).parents[2]
MODEL = "writer"
CEILING = 16  # number of requests that a run keeps in flight
ROWS = 600
LOST = "Check that the database|Restore a backup|permissions|write permission|out of the folder"


@dataclass
class RunningWorker:
    """Runs `python -m core.jobs.worker` with the test server as its provider."""

    process: subprocess.Popen[str]
    log: Path

    def told(self) -> int:
        """Number of log lines about the lost database."""
        words = self.log.read_text()
        return sum(words.count(sentence) for sentence in LOST.split("|"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_LIMIT_S) == 0


@contextmanager
def running_worker(settings: Settings, server: FaultServer, tmp_path: Path, url: str = "") -> Iterator[RunningWorker]:
    environ = os.environ | {"FABULA_HOME": str(settings.home), "OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": server.url}
    log = tmp_path / "worker.log"
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "core.jobs.worker"],
            cwd=ROOT,
            env=environ | ({"DATABASE_URL": url} if url else {}),
            stderr=file,
            text=True,
        )
    try:
        yield RunningWorker(process, log)
    finally:
        process.kill()
        process.wait()


def start_run(store: Store) -> str:
    """Start a priced run that is long enough to be interrupted."""
    for kind in ("input", "output"):
        custom_prices.set_price(store, LOCAL, provider="compatible", model=MODEL, kind=kind, amount="1000")
    numbers = tuple(f"n{i:05}" for i in range(ROWS))
    made = Recipe(
        "stories", (Column("number", numbers),), "{number}", provider="compatible", model=MODEL, max_tokens=99
    )
    return runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, made))


def rows_done(store: Store, run_id: str) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).where(Row.run_id == run_id, Row.state == "done")) or 0


def assert_bought_once(store: Store, provider: FaultServer, run_id: str, home: Path) -> None:
    """Check that every row has its own text and was requested once, and that every request is recorded once with its
    cost.
    """
    asked = Counter(provider.prompts())
    assert (len(asked), set(asked.values())) == (ROWS, {1})
    with store.reading() as session:
        texts = {row.prompt: row.text for row in session.scalars(select(Row).where(Row.run_id == run_id))}
        lines = session.scalars(select(Spend).where(Spend.prompt_tokens.is_not(None))).all()
    assert texts == {prompt: f"A story of {prompt}." for prompt in asked}
    assert len(lines) == ROWS
    # other lines belong to rows that were claimed but never sent
    assert all(line.cost_usd and line.prompt_tokens == 10 for line in lines)
    assert rescue_files.files(home) == []


def stopped_and_broken(running: RunningWorker, act: Callable[[], None]) -> None:
    """Change the database while the worker is suspended in the middle of its work."""
    running.process.send_signal(signal.SIGSTOP)
    os.waitpid(running.process.pid, os.WUNTRACED)
    try:
        act()
    finally:
        running.process.send_signal(signal.SIGCONT)
