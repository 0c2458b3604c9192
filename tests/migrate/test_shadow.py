"""Shadow in the ledger, with a real engine and a scripted provider: counts, costs, the flip by itself, and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core.actor import LOCAL, Actor
from core.db.store import Store
from core.db.tables import ShadowPair, Spend
from core.errors import ChangedMeanwhile, NotAllowed
from core.migrate import shadow, shadow_worker
from core.migrate.shadow import ShadowForm, ShadowView
from core.parity import agreement
from core.providers import Provider, Registry, engine_aliases, engine_shadows
from core.providers.registry import ENGINE
from tests.support import fault_server
from tests.support.engine_process import DEADLINE_S, TINY, TOKEN, EngineUnderTest, running
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

_OLD = "ft:gpt-4o-mini:org::abc"
_FORM = ShadowForm(_OLD, TINY, "fault", share=100)
_MESSAGES: Any = [{"role": "user", "content": [{"type": "text", "text": "Where is my order?"}]}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("shadow") / "home") as started:
        yield started


@pytest.fixture
def provider() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def registry(engine: EngineUnderTest, provider: FaultServer) -> Iterator[Registry]:
    """The engine and the old model's provider."""
    found = Registry([Provider(ENGINE, "engine", "The engine", engine.url, TOKEN), provider.provider()])
    yield found
    client = found.get(ENGINE)
    for one in engine_shadows.listed(client):
        engine_shadows.remove(client, one.id)
    with engine.http() as http:
        for alias in engine_aliases.listed(client):
            http.delete(f"/fabula/v1/aliases/{alias.id}")


def _ask(engine: EngineUnderTest, calls: int = 1) -> list[str]:
    client = openai.OpenAI(base_url=engine.url, api_key=TOKEN, max_retries=0, timeout=DEADLINE_S)
    answers = [
        client.chat.completions.create(model=_OLD, messages=_MESSAGES, max_tokens=4, temperature=0)
        for _ in range(calls)
    ]
    return [answer.choices[0].message.content or "" for answer in answers]


def _look(store: Store, registry: Registry, shadow_id: str) -> ShadowView:
    shadow_worker.carry_out(store, registry, shadow_id, threading.Event())
    found = shadow.newest(store, _OLD)
    assert found is not None
    return found


def _compared(store: Store, registry: Registry, shadow_id: str, calls: int) -> ShadowView:
    """Work as the worker does until so many calls are compared."""

    def look() -> ShadowView | None:
        found = _look(store, registry, shadow_id)
        return found if found.agreement.n >= calls else None

    return until(look, "the calls are compared")


def test_calls_are_counted_paid_and_compared_once(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    provider.enqueue(fault_server.text("order_status"), fault_server.text("refund"), fault_server.rate_limit())
    assert _ask(engine, 2) == ["order_status", "refund"]
    with pytest.raises(openai.RateLimitError):
        _ask(engine)
    found = _compared(store, registry, shadow_id, 2)
    found = _look(store, registry, shadow_id)
    assert (found.agreement.n, found.relayed, found.failed, found.state, found.pairs) == (2, 3, 1, "on", 2)
    worst = shadow.worst_pairs(store, shadow_id)
    assert {one.old for one in worst} == {"order_status", "refund"} and worst[0].prompt == "Where is my order?"
    with store.reading() as session:
        spent = session.query(Spend).filter_by(page="shadow", reference=shadow_id).all()
        assert len(spent) == 2 and all(one.prompt_tokens for one in spent)
    shadow.delete_pairs(store, LOCAL, registry, shadow_id)
    found = _look(store, registry, shadow_id)
    assert (found.pairs, found.agreement.n) == (0, 2)


def test_it_flips_by_itself_and_back(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer
) -> None:
    own = openai.OpenAI(base_url=engine.url, api_key=TOKEN, max_retries=0, timeout=DEADLINE_S)
    said = own.chat.completions.create(model=TINY, messages=_MESSAGES, max_tokens=4, temperature=0)
    provider.default = fault_server.text(said.choices[0].message.content or "")  # the old model says the same
    shadow_id = shadow.start(store, LOCAL, registry, replace(_FORM, threshold=0.3, min_calls=3))
    _ask(engine, 2)
    assert _compared(store, registry, shadow_id, 2).state == "on"  # too few calls
    _ask(engine)
    found = until(lambda: seen if (seen := _look(store, registry, shadow_id)).state != "on" else None, "it has flipped")
    assert found.state == "flipped" and "3 calls compared" in (found.reason or "")
    asked = len(provider.requests)
    _ask(engine)
    assert len(provider.requests) == asked
    assert engine_aliases.changes(store)[_OLD].model == TINY

    again = shadow.resume(store, LOCAL, registry, shadow_id)
    _ask(engine)
    assert len(provider.requests) == asked + 1
    assert engine_aliases.changes(store)[_OLD].model is None
    found = _compared(store, registry, again, 1)
    assert (found.form.threshold, found.state) == (None, "on")
    shadow.flip(store, LOCAL, registry, again)
    assert shadow_worker.carry_out(store, registry, again, threading.Event()) is None
    assert [(one.id, one.model) for one in engine_aliases.listed(registry.get(ENGINE))] == [(_OLD, TINY)]


def test_a_stopped_old_model_ends_the_comparison_with_its_reason(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    provider.enqueue(fault_server.error(404, "The model does not exist", "model_not_found"))
    assert _ask(engine)
    found = _look(store, registry, shadow_id)
    assert found.state == "dark" and "does not exist" in (found.reason or "")
    assert engine_aliases.changes(store)[_OLD].model == TINY


def test_the_worker_hands_over_changes_and_waits_for_a_provider(
    store: Store, registry: Registry, engine: EngineUnderTest
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    with pytest.raises(ChangedMeanwhile):
        shadow.start(store, LOCAL, registry, _FORM)
    with pytest.raises(NotAllowed):
        shadow.stop(store, Actor("e", "E", "editor"), registry, shadow_id)
    shadow.change(store, LOCAL, shadow_id, share=0, threshold=None, min_calls=1, fallback=False)
    alone = Registry([registry.provider(ENGINE)])
    assert _look(store, alone, shadow_id).note
    assert _look(store, registry, shadow_id).note is None
    (relay,) = engine_shadows.listed(registry.get(ENGINE))
    assert (relay.share, relay.fallback) == (0, False)
    shadow.stop(store, LOCAL, registry, shadow_id)
    assert engine_shadows.listed(registry.get(ENGINE)) == ()


def test_only_the_newest_pairs_are_kept(
    store: Store, registry: Registry, engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "KEPT_PAIRS", 2)
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    _ask(engine, 3)
    found = _compared(store, registry, shadow_id, 3)
    assert (found.agreement.n, found.pairs) == (3, 2)
    with store.reading() as session:
        assert session.query(ShadowPair).count() == 2


@pytest.mark.parametrize(
    ("old", "new", "score"),
    [
        ("refund", " Refund ", 1.0),
        ("refund", "order", 0.0),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', 1.0),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', 0.5),
        ("refund", None, 0.0),
    ],
)
def test_the_score_of_a_pair(old: str, new: str | None, score: float) -> None:
    assert agreement.score(old, new) == score


@pytest.mark.parametrize(
    ("total", "n", "threshold", "min_calls", "flips"),
    [
        (100, 100, 0.95, 100, True),
        (99, 99, 0.95, 100, False),
        (97, 100, 0.95, 100, False),
        (5, 5, None, 1, False),
        (0, 0, 0.0, 0, False),
    ],
)
def test_when_it_flips(total: float, n: int, threshold: float | None, min_calls: int, flips: bool) -> None:
    assert agreement.may_flip(agreement.over(total, n), threshold, min_calls) is flips
