"""An error in a background task ends its run with the cause: it is not swallowed, and nothing is retried blindly."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text as sql

from core.actor import LOCAL
from core.db.store import Store
from core.engine.api import engine as api_engine
from core.errors import BadRecipe, FabulaError
from core.generation import claims, provider_connection, retry_policy, row_store, run_progress, run_store, runs
from core.jobs import engine_supervisor
from core.jobs.engine_supervisor import SupervisorLimits
from core.jobs.task_runner import KINDS, TaskRunner
from core.providers import CompletionRequest
from core.settings import Settings
from core.stories import story_record
from core.stories.stream import StoryStream, StreamRequest
from tests.support.fault_server import FaultServer
from tests.support.live_runs import NO_PRICES, queue, recipe, states
from tests.support.waiting import WAIT_LIMIT_S


def carry_out(store: Store, server: FaultServer, run_id: str) -> run_progress.RunProgress:
    """Run it like a worker: give up on an item that it cannot finish."""
    TaskRunner(store, server.registry, KINDS, _never_later).run(f"run-{run_id}", "run", run_id)
    return run_progress.get(store, run_id)


def _never_later(kind: str, item_id: str, wait_s: float) -> None:
    raise AssertionError(f"{kind} {item_id} waits {wait_s} s")


_FAULTS = [  # a database that rejects the writes of a background task
    ("claim", "BEFORE INSERT ON spend"),
    ("claim in mid-run", "BEFORE INSERT ON spend WHEN (SELECT count(*) FROM spend) >= 20"),
    ("claim of rows", "BEFORE UPDATE OF claimed_by ON rows WHEN new.state = 'sent'"),
    ("mark as sent", "BEFORE UPDATE OF sent_at ON spend"),
    ("answer", "BEFORE UPDATE OF text ON rows WHEN new.state = 'done'"),
    ("cost of an answer", "BEFORE UPDATE OF prompt_tokens ON spend"),
]


@pytest.mark.parametrize("when", [when for _, when in _FAULTS], ids=[name for name, _ in _FAULTS])
def test_a_database_that_refuses_ends_the_run_with_the_cause(store: Store, server: FaultServer, when: str) -> None:
    run_id = queue(store, recipe(60))
    with store.session() as session:
        session.execute(sql(f"CREATE TRIGGER no {when} BEGIN SELECT RAISE(ABORT, 'no'); END"))
    ended = carry_out(store, server, run_id)
    assert ended.state == "failed" and "unexpected" in (ended.reason or "") and "IntegrityError" in (ended.reason or "")
    assert len(server.requests) <= 16 + ended.done  # at most those in flight: no paid requests are sent blindly
    with store.session() as session:
        session.execute(sql("DROP TRIGGER no"))
    runs.resume(store, LOCAL, run_id)
    assert carry_out(store, server, run_id).done == 60


_RAISED: list[tuple[str, object, str, Exception, str]] = [
    ("claim", row_store, "claim", BadRecipe("The recipe is broken.", "Repair it."), "The recipe is broken. Repair it."),
    ("claim, a bug", row_store, "claim", KeyError("x"), "KeyError"),
    ("is it complete", run_store, "finish_if_complete", ValueError("x"), "ValueError"),
    ("grouping", claims, "group_claims", TypeError("x"), "TypeError"),
    ("an answer", retry_policy.RequestRetryPolicy, "on_answer", ZeroDivisionError("x"), "ZeroDivisionError"),
    ("a request", provider_connection.ProviderConnection, "ask", RuntimeError("x"), "RuntimeError"),
    ("the group's callback", claims.ClaimQueue, "written", LookupError("x"), "LookupError"),
]


@pytest.mark.parametrize(
    ("where", "name", "error", "reason"), [row[1:] for row in _RAISED], ids=[row[0] for row in _RAISED]
)
def test_an_error_of_our_own_ends_the_run_with_the_cause(
    store: Store,
    server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    error: Exception,
    reason: str,
) -> None:
    def raising(*_args: object, **_given: object) -> None:
        raise error

    run_id = queue(store, recipe(30))
    monkeypatch.setattr(where, name, raising)
    ended = carry_out(store, server, run_id)
    assert ended.state == "failed" and reason in (ended.reason or "")
    assert states(store, run_id)["sent"] == 0


def test_an_error_while_the_way_is_looked_for_ends_the_run(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def raising(_self: object, _model: str) -> None:
        raise RuntimeError("no way")

    registry = server.registry()
    monkeypatch.setattr(type(registry.get("fault")), "served", raising)
    run_id = queue(store, recipe(3, endpoint="auto"))
    ended = carry_out(store, server, run_id)
    assert ended.state == "failed" and "RuntimeError" in (ended.reason or "") and server.requests == []


def test_a_story_that_cannot_be_saved_says_so(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_args: object, **_given: object) -> None:
        raise RuntimeError("x")

    request = CompletionRequest(model="writer", prompt="A hero", endpoint="chat", max_tokens=9)
    client = server.registry().get("fault")
    monkeypatch.setattr(story_record.StoryRecord, "save_in", raising)
    story = StoryStream(LOCAL, StreamRequest(store, client, request, NO_PRICES))
    with pytest.raises(FabulaError, match="could not be saved"):
        list(story)
    assert story.done


def test_the_engine_is_kept_after_an_unexpected_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lived, lives = threading.Event(), iter([ValueError("x"), None])

    def live(_self: object) -> None:
        if (error := next(lives, None)) is not None:
            raise error
        lived.set()

    monkeypatch.setattr(engine_supervisor.EngineProcess, "_run_until_stopped", live)
    engine = engine_supervisor.EngineProcess(settings, limits=SupervisorLimits(longest_pause_s=0.01))
    settings.engine_home.mkdir(parents=True)
    engine.start()
    try:
        assert lived.wait(WAIT_LIMIT_S) and "ValueError" in caplog.text
    finally:
        engine.stop()


@pytest.mark.parametrize("make", [RuntimeError, OSError, KeyError])
def test_a_model_that_cannot_be_loaded_ahead_of_time_is_in_the_log(
    make: Callable[[str], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def loading() -> None:
        raise make("broken weights")

    with caplog.at_level(logging.WARNING):
        asyncio.run(api_engine._logged(loading(), "ft:x"))
    assert "ft:x" in caplog.text and "broken weights" in caplog.text
