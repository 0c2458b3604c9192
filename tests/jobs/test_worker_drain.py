"""SIGTERM: a worker answers and saves what is in flight, returns the rest, and ends. Real processes, a slow server."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.db.store import Store
from core.db.tables import Row, Run, Spend
from core.settings import Settings
from tests.support.fault_server import FaultServer, held, text
from tests.support.running_worker import (
    CEILING,
    ROWS,
    RunningWorker,
    assert_bought_once,
    rows_done,
    running_worker,
    start_run,
)
from tests.support.waiting import WAIT_LIMIT_S, until


def _told_to_stop(worker: RunningWorker) -> None:
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "Stopping: the requests in flight" in worker.log.read_text(), "the worker's reaction")


def _sent(store: Store) -> int:
    with store.reading() as session:
        return session.scalar(select(func.count()).where(Row.state == "sent")) or 0


def test_what_is_in_flight_is_answered_and_nothing_is_requested_twice(
    store: Store, settings: Settings, server: FaultServer, tmp_path: Path
) -> None:
    server.default = lambda prompt: held(text(f"A story of {prompt}."))
    run_id = start_run(store)
    with running_worker(settings, server, tmp_path) as worker:
        server.wait_for(lambda s: s.flying == CEILING)
        _told_to_stop(worker)
        assert worker.process.poll() is None  # it waits
        server.release()
        assert worker.process.wait(WAIT_LIMIT_S) == 0
    asked = Counter(server.prompts())
    assert rows_done(store, run_id) == len(asked) == CEILING
    assert _sent(store) == 0
    with store.reading() as session:
        assert session.get_one(Run, run_id).state == "running"  # it continues at the next start
    with running_worker(settings, server, tmp_path) as worker:
        until(lambda: rows_done(store, run_id) == ROWS, "the rest of the run")
        worker.stop()
    assert_bought_once(store, server, run_id, settings.home)


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_keep_a_worker(
    store: Store, settings: Settings, server: FaultServer, tmp_path: Path
) -> None:
    server.default = held()
    run_id = start_run(store)
    with running_worker(settings, server, tmp_path) as worker:
        server.wait_for(lambda s: s.flying == CEILING)
        worker.stop()
    assert _sent(store) == 0 and rows_done(store, run_id) == 0
    with store.reading() as session:
        lines = session.scalars(select(Spend).where(Spend.sent_at.is_not(None))).all()
    assert len(lines) == CEILING and all(line.estimated_usd for line in lines)  # they count at their worst case
