"""Runs of a person who is disabled: nothing more is sent, what is paid for is kept, and another editor can resume."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy.orm import Session

from core import ownership
from core.actor import Actor
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import Run
from core.generation import run_progress, run_store, runs
from core.message import Message
from core.ownership import Thing
from core.people import people
from core.people.sign_in import SignedIn
from core.settings import Settings
from tests.support import batch_runs, live_runs, team
from tests.support.batch_server import BatchServer
from tests.support.fault_server import FaultServer, held, text
from tests.support.waiting import WAIT_LIMIT_S

_BOB = "bob@example.org"


@pytest.fixture
def settings(home: object) -> Settings:
    """Settings of a team."""
    return Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(home)})


@pytest.fixture
def admin(store: Store, settings: Settings) -> Actor:
    """The first admin."""
    return team.arrive(store, settings).actor(store)


@pytest.fixture
def bob(store: Store, settings: Settings, admin: Actor) -> SignedIn:
    """An editor."""
    return team.member(store, settings, admin, _BOB, "editor")


def test_a_run_stops_after_the_rows_in_flight_and_says_why(
    store: Store,
    server: FaultServer,
    settings: Settings,
    admin: Actor,
    bob: SignedIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.default, ask, noticed = held(text("paid for")), run_store.owner_disabled, threading.Event()

    def noticing(session: Session, run_id: str) -> Message | None:
        reason = ask(session, run_id)
        if reason is not None:
            noticed.set()
        return reason

    monkeypatch.setattr(run_store, "owner_disabled", noticing)
    actor = bob.actor(store)
    dataset_id = datasets.create(store, actor, live_runs.recipe(200))
    ownership.share(store, actor, Thing("dataset", dataset_id), "team_edit")
    run_id = runs.enqueue(store, actor, dataset_id)
    with live_runs.executing(store, server.registry(), run_id):
        server.wait_for(lambda s: s.flying > 0)
        people.disable(store, admin, bob.person_id)
        assert noticed.wait(WAIT_LIMIT_S)  # while its requests are in flight
        server.release()
    stopped = run_progress.get(store, run_id)
    assert stopped.state == "stopped" and "Bob, who started this run, has been disabled" in (stopped.reason or "")
    assert 0 < stopped.done == len(server.requests) < 200 and stopped.in_flight == 0
    live_runs.execute(store, server, run_id)  # a worker that finds it again does nothing
    assert run_progress.get(store, run_id).done == stopped.done

    eve = team.member(store, settings, admin, "eve@example.org", "editor")
    runs.resume(store, eve.actor(store), run_id)
    live_runs.execute(store, server, run_id)
    assert run_progress.get(store, run_id).state == "done"
    with store.reading() as session:
        assert session.get_one(Run, run_id).created_by == eve.person_id


def test_a_run_that_waits_its_turn_sends_nothing(
    store: Store, server: FaultServer, admin: Actor, bob: SignedIn
) -> None:
    actor = bob.actor(store)
    run_id = runs.enqueue(store, actor, datasets.create(store, actor, live_runs.recipe(12)))
    people.disable(store, admin, bob.person_id)
    live_runs.execute(store, server, run_id)
    assert run_progress.get(store, run_id).state == "stopped" and server.requests == []


def test_an_enabled_person_resumes_their_own_run(
    store: Store, server: FaultServer, settings: Settings, admin: Actor, bob: SignedIn
) -> None:
    actor = bob.actor(store)
    run_id = runs.enqueue(store, actor, datasets.create(store, actor, live_runs.recipe(12)))
    people.disable(store, admin, bob.person_id)
    live_runs.execute(store, server, run_id)
    people.enable(store, admin, bob.person_id)
    runs.resume(store, team.arrive(store, settings, _BOB).actor(store), run_id)
    live_runs.execute(store, server, run_id)
    done = run_progress.get(store, run_id)
    assert (done.state, done.done, done.reason) == ("done", 12, None)


def test_a_batch_is_cancelled_and_its_answers_are_kept(store: Store, admin: Actor, bob: SignedIn) -> None:
    disabled: list[str] = []

    def disable_once(request: str) -> None:
        if request == "GET /v1/batches/batch_1" and not disabled:
            disabled.append(request)
            people.disable(store, admin, bob.person_id)

    with BatchServer() as server:
        server.fates, server.on = ["endless"], disable_once
        actor = bob.actor(store)
        dataset_id = datasets.create(store, actor, batch_runs.recipe())
        run_id = runs.enqueue(store, actor, dataset_id, mode="batch")
        stopped = batch_runs.execute(store, server, run_id)
        assert stopped.state == "stopped" and "has been disabled" in (stopped.reason or "")
        assert stopped.done == 6 and server.count("POST /v1/batches/batch_1/cancel") == 1
