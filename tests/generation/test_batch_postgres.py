"""Batch runs on a real PostgreSQL: the same code, another database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.db.store import Store
from core.providers import Client
from core.settings import Settings
from tests.support.batch_runs import EACH, HALF, QUICK, Died, execute, queue, recipe, spends, states
from tests.support.batch_server import BatchServer


@pytest.fixture
def settings(on_postgres: Settings) -> Settings:
    return on_postgres


def test_a_run_with_every_kind_of_trouble_buys_each_row_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer() as server:
        server.fates = ["expired"]
        server.faults["POST /v1/batches"] = ["drop"]
        server.answers |= {"n0002": "length", "n0003": (400, "Too long.")}
        run_id = queue(store, recipe(20))

        def die(*_: object) -> None:
            raise Died

        with monkeypatch.context() as patched, pytest.raises(Died):
            patched.setattr(Client, "download", die)
            execute(store, server, run_id, book=HALF)
        done = execute(store, server, run_id, replace(QUICK, max_requests=6), HALF)
        assert (done.state, done.done, done.failed) == ("done", 18, 2)
        assert len(server.bought) == 19 and sum(s[2] or 0 for s in spends(store)) == 19 * EACH
        assert states(store, run_id) == {"done": 18, "failed": 2}
