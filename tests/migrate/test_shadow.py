"""Shadow in the ledger, with a real engine and a scripted provider: counts, costs, the flip by itself, and back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import accumulate
from random import Random
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core.actor import LOCAL, Actor
from core.db.store import Store
from core.db.tables import AuditEntry, ModelShadow, ShadowPair, Spend, utcnow
from core.errors import BadRequest, ChangedMeanwhile, FabulaError, NotAllowed, Unavailable
from core.migrate import shadow, shadow_worker
from core.migrate.shadow import ShadowForm, ShadowView
from core.parity import agreement
from core.pricing import custom_prices
from core.pricing.price_book import PriceBook
from core.providers import Provider, Registry, RetryPolicy, engine_aliases, engine_shadows
from core.providers.engine_aliases import Expected
from core.providers.engine_shadows import EngineShadow
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
    with engine.http() as http:
        for one in engine_shadows.listed(client):
            http.delete(f"/fabula/v1/shadows/{one.id}")
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
    found = shadow.newest(store, LOCAL, _OLD)
    assert found is not None
    return found


def _until_settled(store: Store, registry: Registry, shadow_id: str) -> None:
    until(
        lambda: shadow_worker.carry_out(store, registry, shadow_id, threading.Event()) is None,
        "nothing is left to collect",
    )


def _spent(store: Store, shadow_id: str) -> list[Spend]:
    with store.reading() as session:
        return session.query(Spend).filter_by(page="shadow", reference=shadow_id).all()


def _newest(store: Store) -> ShadowView:
    found = shadow.newest(store, LOCAL, _OLD)
    assert found is not None
    return found


def _without_engine(registry: Registry, url: str) -> Registry:
    """The same registry with an engine at another address."""
    elsewhere = replace(registry.provider(ENGINE), base_url=url)
    policy = RetryPolicy(total_s=1, tries=1, base_s=0.001, cap_s=0.001)
    return Registry([elsewhere, registry.provider("fault")], retry_policy=policy)


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
    worst = shadow.worst_pairs(store, LOCAL, shadow_id)
    assert {one.old for one in worst} == {"order_status", "refund"} and worst[0].prompt == "Where is my order?"
    spent = _spent(store, shadow_id)
    assert len(spent) == 2 and all(one.prompt_tokens for one in spent)
    shadow.delete_pairs(store, LOCAL, registry, shadow_id)
    found = _look(store, registry, shadow_id)
    assert (found.pairs, found.agreement.n) == (0, 2)


def test_texts_that_are_deleted_while_the_worker_has_them_are_not_stored(
    store: Store, registry: Registry, engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    _ask(engine)
    until(lambda: engine_shadows.calls(registry.get(ENGINE), shadow_id, 0)[0], "the call has ended")
    book = custom_prices.book

    def delete_first(*args: Any) -> PriceBook:
        """The worker reads the prices between fetching calls and storing them."""
        shadow.delete_pairs(store, LOCAL, registry, shadow_id)
        return book(*args)

    with monkeypatch.context() as patched:
        patched.setattr(custom_prices, "book", delete_first)
        found = _look(store, registry, shadow_id)
    assert (found.pairs, found.agreement.n, len(_spent(store, shadow_id))) == (0, 1, 1)
    _ask(engine)
    assert _compared(store, registry, shadow_id, 2).pairs == 1  # later calls are stored again


def test_it_flips_by_itself_and_back(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer
) -> None:
    own = openai.OpenAI(base_url=engine.url, api_key=TOKEN, max_retries=0, timeout=DEADLINE_S)
    said = own.chat.completions.create(model=TINY, messages=_MESSAGES, max_tokens=4, temperature=0)
    provider.default = fault_server.text(said.choices[0].message.content or "")  # the old model says the same
    shadow_id = shadow.start(store, LOCAL, registry, replace(_FORM, threshold=0.1, min_calls=3))
    _ask(engine, 2)
    assert _compared(store, registry, shadow_id, 2).state == "on"  # too few calls
    _ask(engine)
    found = until(lambda: seen if (seen := _look(store, registry, shadow_id)).state != "on" else None, "it has flipped")
    assert found.state == "flipped" and "3 calls compared" in (found.reason or "")
    asked = len(provider.requests)
    _ask(engine)
    assert len(provider.requests) == asked
    change = engine_aliases.changes(store)[_OLD]
    assert (change.model, change.changed_by) == (TINY, engine_aliases.AUTOMATIC)

    again = shadow.resume(store, LOCAL, registry, shadow_id)
    _ask(engine)
    assert len(provider.requests) == asked + 1
    assert engine_aliases.changes(store)[_OLD].model is None
    found = _compared(store, registry, again, 1)
    assert (found.form.threshold, found.state) == (None, "on")
    shadow.flip(store, LOCAL, registry, again)
    _until_settled(store, registry, again)
    assert [(one.id, one.model) for one in engine_aliases.listed(registry.get(ENGINE))] == [(_OLD, TINY)]


def test_a_stopped_old_model_ends_the_comparison_with_its_reason(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    provider.enqueue(fault_server.error(404, "The model does not exist", "model_not_found"))
    assert _ask(engine)
    found = _look(store, registry, shadow_id)
    assert found.state == "dark" and "does not exist" in (found.reason or "")
    change = engine_aliases.changes(store)[_OLD]
    assert (change.model, change.changed_by) == (TINY, engine_aliases.AUTOMATIC)
    _until_settled(store, registry, shadow_id)
    assert engine_shadows.listed(registry.get(ENGINE)) == () and _ask(engine)


def test_the_worker_hands_over_changes_and_waits_for_a_provider(
    store: Store, registry: Registry, engine: EngineUnderTest
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    with pytest.raises(ChangedMeanwhile):
        shadow.start(store, LOCAL, registry, _FORM)
    with pytest.raises(NotAllowed):
        shadow.stop(store, Actor("e", "E", "editor"), registry, shadow_id)
    shadow.change(store, LOCAL, shadow_id, share=0, threshold=None, min_calls=1, fallback=False, keep_days=7)
    alone = Registry([registry.provider(ENGINE)])
    assert _look(store, alone, shadow_id).note
    assert _look(store, registry, shadow_id).note is None
    (relay,) = engine_shadows.listed(registry.get(ENGINE))
    assert (relay.share, relay.fallback) == (0, False)
    shadow.stop(store, LOCAL, registry, shadow_id)
    assert engine_shadows.listed(registry.get(ENGINE)) == ()


def test_calls_that_end_after_the_comparison_are_paid_too_and_leave_the_engine(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    provider.enqueue(fault_server.held(fault_server.text("refund")))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(_ask, engine)
        provider.wait_for(lambda server: server.flying == 1)
        shadow.stop(store, LOCAL, registry, shadow_id)
        assert shadow_worker.carry_out(store, registry, shadow_id, threading.Event()) is not None
        assert (_newest(store).state, _newest(store).settled) == ("stopped", False)
        provider.release()
        assert asked.result() == ["refund"]
    _until_settled(store, registry, shadow_id)
    (spent,) = _spent(store, shadow_id)
    assert spent.prompt_tokens and _newest(store).settled and _newest(store).relayed == 1
    assert engine_shadows.calls(registry.get(ENGINE), shadow_id, 0) == ((), 0)


def test_a_stop_is_asked_for_until_the_engine_has_confirmed_it(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer
) -> None:
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    with FaultServer() as gone:
        down = _without_engine(registry, gone.url)
    for _ in range(2):
        shadow.stop(store, LOCAL, down, shadow_id)
        assert _newest(store).state == "stopping" and _newest(store).note
    with pytest.raises(ChangedMeanwhile):
        shadow.start(store, LOCAL, registry, _FORM)
    shadow_worker.give_up(store, shadow_id, FabulaError("a bug", ""))
    _ask(engine)
    _until_settled(store, registry, shadow_id)
    assert _newest(store).state == "stopped" and len(_spent(store, shadow_id)) == 1
    with pytest.raises(ChangedMeanwhile):  # what the worker had begun to send before
        engine_shadows.save(
            registry.get(ENGINE), provider.provider(), alias=_OLD, model=TINY, label=shadow_id, share=1, fallback=True
        )
    assert engine_shadows.listed(registry.get(ENGINE)) == ()


@pytest.mark.parametrize("arrived", [True, False])
def test_a_start_without_an_answer_is_settled_by_the_worker(
    store: Store, registry: Registry, engine: EngineUnderTest, provider: FaultServer, arrived: bool
) -> None:
    with FaultServer() as silent:
        silent.enqueue(fault_server.error(504, "Gateway timeout"))
        with pytest.raises(Unavailable):
            shadow.start(store, LOCAL, _without_engine(registry, silent.url), _FORM)
    found = _newest(store)
    assert found.state == "starting"
    if arrived:
        engine_shadows.save(
            registry.get(ENGINE), provider.provider(), alias=_OLD, model=TINY, label=found.id, share=100, fallback=True
        )
    assert _look(store, registry, found.id).state == ("on" if arrived else "starting")
    with store.session() as session:
        session.get_one(ModelShadow, found.id).created_at -= timedelta(minutes=5)
    found = _look(store, registry, found.id)
    assert (found.state, bool(found.reason)) == (("on", False) if arrived else ("stopped", True))


def test_a_start_that_the_engine_has_accepted_is_in_the_audit_log_if_its_confirmation_fails(
    store: Store, registry: Registry, engine: EngineUnderTest
) -> None:
    admin = Actor("a", "Ann", "admin", ask_role=lambda: "admin")  # signed in, so what they do is recorded
    with FaultServer() as silent:
        relay = EngineShadow("x", "", TINY, 100, True, "on", "", 0, True)
        silent.enqueue(fault_server.raw(json.dumps(asdict(relay)).encode()), fault_server.error(503, "Restarting"))
        shadow.start(store, admin, _without_engine(registry, silent.url), _FORM)
    assert (_newest(store).state, bool(_newest(store).note)) == ("starting", True)  # the worker goes on
    with store.reading() as session:
        changes = [json.loads(one.details)["changes"] for one in session.query(AuditEntry).filter_by(actor="a")]
    assert {f"aliases {_OLD} relayed to": [None, "fault"]} in changes


def test_a_newer_change_is_never_undone(store: Store, registry: Registry, engine: EngineUnderTest) -> None:
    with pytest.raises(ChangedMeanwhile):
        shadow.start(store, LOCAL, registry, _FORM, Expected("another"))
    assert shadow.newest(store, LOCAL, _OLD) is None
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    with engine.http() as http:
        http.delete(f"/fabula/v1/shadows/{_OLD}")
    shadow.flip(store, LOCAL, registry, shadow_id)  # of someone whose page still shows it
    assert (_newest(store).state, engine_aliases.listed(registry.get(ENGINE))) == ("stopped", ())
    with pytest.raises(ChangedMeanwhile):
        shadow.flip(store, LOCAL, registry, shadow_id)
    with pytest.raises(ChangedMeanwhile):  # the alias does not lead to the new model
        shadow.resume(store, LOCAL, registry, shadow_id)


def test_a_call_that_cannot_be_compared_is_paid(
    store: Store, registry: Registry, engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "task_of", lambda old: 1 / 0)
    shadow_id = shadow.start(store, LOCAL, registry, _FORM)
    _ask(engine)
    until(lambda: _look(store, registry, shadow_id).relayed == 1, "the call is collected")
    assert len(_spent(store, shadow_id)) == 1 and _newest(store).dropped == 1


def test_pairs_are_kept_for_as_many_days_as_chosen_and_shown_to_admins_only(store: Store) -> None:
    row = ModelShadow(
        id="s1", alias=_OLD, model="new", provider="openai", share=1, min_calls=1, fallback=True, created_by="local",
        state="stopped", keep_days=7,
    )  # fmt: skip
    with store.session() as session:
        session.add(row)
        session.flush()
        for age in (6, 8):
            session.add(
                ShadowPair(
                    shadow_id="s1", remote_id=str(age), created_at=utcnow() - timedelta(days=age), prompt="[]",
                    old="x", new="y", score=0.0,
                )
            )  # fmt: skip
    with store.session() as session:
        shadow.delete_old_pairs(session, utcnow())
    assert _newest(store).pairs == 1
    for read in (shadow.newest, shadow.worst_pairs):
        with pytest.raises(NotAllowed):
            read(store, Actor("e", "E", "editor"), "s1")
    with pytest.raises(BadRequest, match="1 to 99"):
        shadow.change(store, LOCAL, "s1", share=1, threshold=1.0, min_calls=1, fallback=True, keep_days=1)


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
        (106, 106, 0.95, 100, True),
        (106, 106, 0.95, 107, False),
        (105, 106, 0.95, 100, False),
        (5, 5, None, 1, False),
        (0, 0, 0.0, 0, False),
    ],
)
def test_when_it_flips(total: float, n: int, threshold: float | None, min_calls: int, flips: bool) -> None:
    assert agreement.may_flip(agreement.over(total, n), threshold, min_calls) is flips


def test_looking_after_every_call_flips_a_model_below_the_threshold_in_at_most_one_of_forty_comparisons() -> None:
    threshold, calls, comparisons = 0.9, 600, 400
    least: list[int] = []  # how many of the first n calls must agree; it grows by 0 or 1 with each
    for n in range(1, calls + 1):
        agreed = least[-1] if least else 1
        least.append(agreed + (agreement.over(agreed, n).low < threshold))

    def flips(rate: float, source: Random) -> bool:
        agreed = accumulate(source.random() < rate for _ in range(calls))
        return any(so_far >= need for so_far, need in zip(agreed, least, strict=True))

    source = Random(7)
    assert sum(flips(threshold, source) for _ in range(comparisons)) <= 0.025 * comparisons
    assert sum(flips(0.97, source) for _ in range(100)) >= 95
