"""Which runs several workers share, and what becomes of an executor's rows and answers when the run or database ends
elsewhere.
"""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from core import processes
from core.actor import LOCAL
from core.db import leases
from core.db.storage_errors import unreachable
from core.db.store import Store, new_id
from core.db.tables import Row, Run, WorkerHeartbeat, utcnow
from core.errors import DatabaseLost, FabulaError, Misconfigured, ModelNotFound, NotFound, ProviderRemoved, Refused
from core.generation import run_progress, run_sharing, run_store, runs
from core.generation.group_commit_writer import GroupCommitWriter
from core.generation.retry_policy import RequestRetryPolicy, RunEnd, end_for_error
from core.generation.run_store import RunContext
from core.jobs.heartbeat import Heartbeat
from core.jobs.task_runner import KINDS
from core.settings import Settings
from tests.support.fault_server import FaultServer, error, held, quota, text, unauthorized
from tests.support.live_runs import QUICK, all_rows, execute, executing, queue, recipe, spends, states
from tests.support.stores import fresh
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("rows", "values", "shared"),
    [
        (run_sharing.MIN_ROWS, {"state": "running"}, True),
        (run_sharing.MIN_ROWS - 1, {"state": "running"}, False),
        (run_sharing.MIN_ROWS, {"state": "queued"}, False),
        (run_sharing.MIN_ROWS, {"state": "pausing"}, False),
        (run_sharing.MIN_ROWS, {"state": "running", "mode": "batch"}, False),
        (run_sharing.MIN_ROWS, {"state": "running", "provider": "engine"}, False),
        (run_sharing.MIN_ROWS, {"state": "running", "scope": run_store.FAILED_ONLY}, False),  # of which none is left
    ],
)
def test_a_running_live_run_with_rows_left_is_shared(
    on_postgres: Settings, rows: int, values: dict[str, str], shared: bool
) -> None:
    with closing(fresh(on_postgres)) as store:
        run_id = _running(store, rows, values)
        assert run_sharing.open_to_helpers(store) == ([run_id] if shared else [])


def test_no_run_on_sqlite_is_shared(store: Store) -> None:
    _running(store, run_sharing.MIN_ROWS, {"state": "running"})
    assert run_sharing.open_to_helpers(store) == []


def _running(store: Store, rows: int, values: dict[str, str]) -> str:
    run_id = queue(store, recipe(rows))
    with store.session() as session:
        session.execute(update(Run).where(Run.id == run_id).values(values))
    return run_id


def test_answers_are_kept_when_another_executor_ends_the_run(store: Store, server: FaultServer) -> None:
    """The request in flight is paid for; before, it was cancelled, and its row was sent again later."""
    server.when("n0000", held())
    run_id = queue(store, recipe(2))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=1)):
        server.wait_for(lambda s: s.flying == 1)
        server.when("n0001", quota())
        execute(store, server, run_id)
        assert run_progress.get(store, run_id).state == "failed"
        server.release()
    assert states(store, run_id) == {"done": 1, "pending": 1}
    assert [line.prompt_tokens for line in spends(store) if line.prompt_tokens] == [10]
    assert run_progress.get(store, run_id).state == "failed"


def test_an_executor_without_rows_of_its_own_is_not_stalled(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for another one, whose answers may take longer than the limit for its own."""
    server.when("n0000", held())
    server.when("n0001", error(503, "x"), text("A story of n0001."))
    run_id = queue(store, recipe(2))
    looks: list[str] = []
    time_is_over = threading.Event()
    real = run_store.finish_if_complete

    def look(session: Session, context: RunContext) -> bool:
        looks.append(context.claimant)
        return real(session, context)

    def check(policy: RequestRetryPolicy, now: float, all_retried: bool) -> None:
        if time_is_over.is_set() and policy.cause and all_retried:
            policy.end_run(RunEnd("failed", "stalled"))

    monkeypatch.setattr(run_store, "finish_if_complete", look)
    monkeypatch.setattr(RequestRetryPolicy, "check_stalled", check)
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=1)):
        server.wait_for(lambda s: s.flying == 1)
        with executing(store, server.registry(), run_id, replace(QUICK, ceiling=1)):
            until(lambda: looks, "it has written its own row and looks for the end")
            time_is_over.set()
            before = len(looks)
            until(lambda: len(looks) > before + 5, "it looked for the end several times")
            assert run_progress.get(store, run_id).state == "running"
            server.release()
    assert states(store, run_id) == {"done": 2}


def test_an_executor_that_outlives_a_run_does_not_end_it_again(store: Store, server: FaultServer) -> None:
    """It was stopped and resumed while an answer was in flight."""
    server.when("n0000", held())
    run_id = queue(store, recipe(3))
    with executing(store, server.registry(), run_id, replace(QUICK, ceiling=1)):
        server.wait_for(lambda s: s.flying == 1)
        with store.session() as session:
            run_store.finish(session, run_id, "stopped", None)
        until(lambda: run_progress.get(store, run_id).state == "stopped", "the end")
        runs.resume(store, LOCAL, run_id)
        server.release()
    assert states(store, run_id) == {"done": 3} and run_progress.get(store, run_id).state == "done"


def test_rows_left_behind_by_a_lost_database_are_released_by_their_own_process(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers on other hosts take this process for alive, so they would wait for these rows forever."""
    run_id = queue(store, recipe(3))

    def lose(*_: object) -> set[int]:
        raise unreachable()

    with monkeypatch.context() as patch, pytest.raises(DatabaseLost):
        patch.setattr(GroupCommitWriter, "_record", lose)
        execute(store, server, run_id)
    assert states(store, run_id) == {"sent": 3}
    Heartbeat(store).beat(0)
    with monkeypatch.context() as elsewhere, store.session() as session:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        claimant = session.query(Row.claimed_by).limit(1).scalar()
        assert claimant and leases.dead_claimants(session, [claimant]) == []
    assert run_sharing.has_left_claims()
    run_sharing.release_left_claims(store)
    assert states(store, run_id) == {"pending": 3} and not run_sharing.has_left_claims()
    execute(store, server, run_id)
    assert len(server.prompts()) == len(all_rows(store, run_id)) == 3


def test_a_deleted_run_has_no_claims_to_release(store: Store) -> None:
    run_sharing.leave_claims("a:1:2:x", "no-such-run")
    run_sharing.release_left_claims(store)
    assert not run_sharing.has_left_claims()


# --- a worker that cannot use the provider ----------------------------------------------------------------------------


def test_a_worker_with_a_wrong_key_leaves_the_run_to_the_others(
    on_postgres: Settings, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.default = unauthorized()
    with closing(fresh(on_postgres)) as store:
        _register(store, "elsewhere")
        run_id = queue(store, recipe(run_sharing.MIN_ROWS))
        carry_out = KINDS["run"].carry_out
        wait_s = carry_out(store, server.registry(), run_id, threading.Event())
        left, asked = run_progress.get(store, run_id), len(server.requests)
        assert (left.state, left.in_flight) == ("running", 0) and wait_s
        assert KINDS["run"].unfinished(store) == []  # however fast this worker is, another one takes it
        assert f"Worker {socket.gethostname()} can't use this provider" in (left.note or "")
        assert "Incorrect API key" in (left.note or "")
        assert carry_out(store, server.registry(), run_id, threading.Event()) == wait_s
        execute(store, server, run_id)  # as a helper
        assert len(server.requests) == asked and run_sharing.open_to_helpers(store) == []
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
            server.default = text("A story.")
            assert KINDS["run"].unfinished(store) == run_sharing.open_to_helpers(store) == [run_id]
            assert carry_out(store, server.registry(), run_id, threading.Event()) is None
        assert states(store, run_id) == {"done": run_sharing.MIN_ROWS}
        done = run_progress.get(store, run_id)
        assert (done.state, done.note) == ("done", None)
        assert carry_out(store, server.registry(), run_id, threading.Event()) is None


@pytest.mark.parametrize("others_end", [False, True])
def test_a_run_that_no_worker_can_write_fails_with_the_reason(
    on_postgres: Settings, server: FaultServer, monkeypatch: pytest.MonkeyPatch, others_end: bool
) -> None:
    server.default = unauthorized()
    with closing(fresh(on_postgres)) as store:
        run_id = queue(store, recipe(3))
        _register(store, "elsewhere")
        assert KINDS["run"].carry_out(store, server.registry(), run_id, threading.Event())
        if others_end:
            with store.session() as session:
                session.execute(delete(WorkerHeartbeat))
            assert KINDS["run"].unfinished(store) == [run_id]
            assert KINDS["run"].carry_out(store, server.registry(), run_id, threading.Event()) is None
        else:
            _register(store, socket.gethostname())
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
                assert KINDS["run"].carry_out(store, server.registry(), run_id, threading.Event()) is None
        ended = run_progress.get(store, run_id)
        assert ended.state == "failed" and "Incorrect API key" in (ended.reason or "")
        assert states(store, run_id) == {"pending": 3}
        server.default = text("A story.")  # someone corrects the key
        runs.resume(store, LOCAL, run_id)
        assert KINDS["run"].carry_out(store, server.registry(), run_id, threading.Event()) is None
        assert states(store, run_id) == {"done": 3}


@pytest.mark.parametrize(
    ("error", "unable"),
    [
        (Refused("No."), True),
        (Misconfigured("No."), True),
        (NotFound("There is no provider 'x' on this machine."), True),
        (ProviderRemoved("It was removed."), False),
        (ModelNotFound("There is no such model."), False),
    ],
)
def test_only_what_another_worker_may_have_is_left_to_it(error: FabulaError, unable: bool) -> None:
    assert end_for_error(error).unable == unable


def _register(store: Store, host: str) -> None:
    with store.session() as session:
        session.add(WorkerHeartbeat(id=new_id(), host=host, process=processes.identity(), heartbeat_at=utcnow()))
