"""Evaluations on a real PostgreSQL with several real workers. Skipped with a reason if there is none."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.actor import LOCAL
from core.datasets import versions
from core.db.store import Store
from core.db.tables import EvaluationAnswer
from core.evaluation import evaluations
from core.evaluation.comparing import compare_evaluations
from core.evaluation.evaluations import EvaluationForm
from core.settings import Settings
from tests.support import fault_server
from tests.support.fakes import BASE, TUNED
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

_ROOT = Path(__file__).parents[2]
_AT_ONCE = 4  # requests in flight per worker


@pytest.fixture
def settings(on_postgres: Settings) -> Settings:
    return on_postgres


@contextmanager
def worker(settings: Settings, server: FaultServer) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a separate process, killed at the end."""
    env = os.environ | {"DATABASE_URL": settings.database_url, "FABULA_HOME": str(settings.home)}
    env["FABULA_ENGINE_URL"] = server.url.removesuffix("/v1")
    process = subprocess.Popen([sys.executable, "-m", "core.jobs.worker"], cwd=_ROOT, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _label(prompt: str) -> fault_server.Answer:
    return fault_server.text(f" {prompt.removesuffix(' ->').split('about ')[-1]}.")


def _asked(server: FaultServer, model: str) -> Counter[str]:
    """The number of requests per row for a model."""
    bodies = [one.body for one in server.requests if one.method == "POST" and one.body.get("model") == model]
    return Counter(str(body["prompt"]) for body in bodies)


def _done(store: Store, *ids: str) -> bool:
    found = [evaluations.get(store, one) for one in ids]
    assert all(one.state != "failed" for one in found), [one.reason for one in found]
    return all(one.state == "done" for one in found)


def test_two_workers_judge_a_pair_and_no_row_is_asked_twice(
    store: Store, settings: Settings, form: EvaluationForm
) -> None:
    with FaultServer(_label) as server, worker(settings, server), worker(settings, server):
        tuned = evaluations.start(store, LOCAL, form)
        base = evaluations.start(store, LOCAL, replace(form, model=BASE))
        until(lambda: _done(store, tuned, base), "both judged")
        rows = versions.get(store, str(form.version_id)).n_validation
        for model in (TUNED, BASE):
            assert len(_asked(server, model)) == rows and set(_asked(server, model).values()) == {1}
    found = compare_evaluations(store, tuned, base)
    assert (found.n, found.tuned.value, found.base.value, found.p_value) == (rows, 1.0, 1.0, 1.0)


def test_a_worker_that_is_killed_leaves_every_answer_and_another_asks_for_the_rest(
    store: Store, settings: Settings, form: EvaluationForm
) -> None:
    number = itertools.count()
    with FaultServer(
        lambda prompt: _label(prompt) if next(number) < 6 else fault_server.held(_label(prompt))
    ) as server:
        evaluation = evaluations.start(store, LOCAL, form)
        with worker(settings, server) as first:
            until(lambda: server.flying == _AT_ONCE, "a worker at work")
            first.kill()
            first.wait()
        finished = evaluations.get(store, evaluation)
        assert (finished.state, finished.answered) == ("running", 6)
        server.release()
        with worker(settings, server), worker(settings, server):
            until(lambda: _done(store, evaluation), "the rest judged")
        requests = _asked(server, TUNED)
    rows = versions.get(store, str(form.version_id)).n_validation
    with store.reading() as session:
        each = session.execute(select(EvaluationAnswer.row_key, func.count()).group_by(EvaluationAnswer.row_key)).all()
    assert len(each) == rows and {n for _, n in each} == {1}
    assert sum(requests.values()) == rows + _AT_ONCE and max(requests.values()) <= 2
