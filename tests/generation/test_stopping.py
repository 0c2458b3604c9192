"""Stop ends a request in every state: the cost of sent requests is unknown, and no more paid requests are sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import update

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row, utcnow
from core.errors import BadRequest, Cancelled, FabulaError, Unavailable
from core.evaluation import evaluation_run, evaluations
from core.evaluation.evaluations import EvaluationForm
from core.generation import previewing
from core.pricing import custom_prices
from core.pricing.spend import settle_abandoned
from core.providers import Client, Provider, RetryPolicy
from core.providers.connection import call_until
from core.providers.speech import Speech, SpeechRequest
from core.stories import read_aloud
from tests.support import fault_server
from tests.support.fault_server import FaultServer, error, held, rate_limit, raw, text
from tests.support.live_runs import MODEL, OneClient, spends
from tests.support.waiting import WAIT_LIMIT_S

_LONG = RetryPolicy(total_s=7200, tries=3, base_s=3600, cap_s=3600)
Begin = Callable[[Store, Provider], Callable[[], None]]
"""Begins something in a thread; what it gives back stops it and waits for its end."""


def _in_thread(work: Callable[[], object], stop: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except Cancelled:
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def ends() -> None:
        stop()
        thread.join(WAIT_LIMIT_S)
        assert not thread.is_alive(), "it did not stop"

    return ends


def _preview(store: Store, provider: Provider) -> Callable[[], None]:
    stop, client, recipe = threading.Event(), Client(provider, retry_policy=_LONG), _recipe(provider)
    book = custom_prices.book(store)
    rows = previewing.preview(store, LOCAL, client, recipe, 1, book=book, stop=stop)
    return _in_thread(lambda: list(rows), stop.set)


def _speech(store: Store, provider: Provider) -> Callable[[], None]:
    stop, request, book = threading.Event(), SpeechRequest(MODEL, "v", "words"), custom_prices.book(store)
    speaker = Speech(provider, retry_policy=_LONG)
    sound = read_aloud.read_aloud(store, LOCAL, speaker, request, "s1", book, stop=stop)
    return _in_thread(lambda: list(sound), stop.set)


def _evaluation(store: Store, provider: Provider) -> Callable[[], None]:
    made = _evaluation_of(store, provider)
    registry = OneClient(Client(provider, retry_policy=_LONG))

    ends = _in_thread(
        lambda: evaluation_run.carry_out(store, registry, made), lambda: evaluations.stop(store, LOCAL, made)
    )

    def checked() -> None:
        ends()
        assert evaluations.get(store, made).state == "stopped"

    return checked


def _recipe(provider: Provider, cells: int = 1) -> Recipe:
    values = tuple("abcdefgh"[:cells])
    return Recipe("s", (Column("n", values),), "{n}", provider=provider.id, model=MODEL, max_tokens=9, endpoint="chat")


def _evaluation_of(store: Store, provider: Provider) -> str:
    frame = pd.DataFrame({"question": ["q"], "answer": ["a"]})
    dataset_id = datasets.from_frame(store, LOCAL, "one", frame, ["question"], "answer")
    with store.session() as session:
        session.execute(update(Row).values(split="held_out"))
    return evaluations.start(store, LOCAL, EvaluationForm(dataset_id, provider.id, MODEL, max_tokens=9))


KINDS: dict[str, Begin] = {"preview": _preview, "speech": _speech, "evaluation": _evaluation}


@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_for_its_headers_stops_at_once(priced: Store, server: FaultServer, kind: str) -> None:
    server.enqueue(held())  # and never released
    ends = KINDS[kind](priced, server.provider())
    server.wait_for(lambda s: s.flying == 1)
    ends()
    (line,) = spends(priced)
    assert line.cost_usd is None and line.estimated_usd


@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_for_its_next_try_stops_at_once(priced: Store, server: FaultServer, kind: str) -> None:
    server.enqueue(rate_limit(retry_after="60"))
    ends = KINDS[kind](priced, server.provider())
    server.wait_for(lambda s: len([seen for seen in s.requests if seen.method == "POST"]) == 1 and s.flying == 0)
    ends()
    assert sum(seen.method == "POST" for seen in server.requests) == 1
    assert all(line.cost_usd is None for line in spends(priced))


def test_what_is_stopped_before_it_begins_is_not_sent(server: FaultServer) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled) as caught:
        Speech(server.provider()).speak(SpeechRequest(MODEL, "v", "words"), stop)
    assert not caught.value.may_be_billed and server.requests == []


def test_an_error_of_the_request_is_raised_where_it_is_waited_for() -> None:
    async def fails() -> None:
        raise Unavailable("x")

    with pytest.raises(Unavailable):
        call_until(threading.Event(), fails)


# --- paid results are kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [error(400, "no"), error(500, "oops"), rate_limit(retry_after="9999")])
def test_a_preview_shows_the_texts_that_came_beside_one_that_failed(
    priced: Store, server: FaultServer, bad: fault_server.Answer
) -> None:
    server.when("b", bad)
    server.default = lambda prompt: text(f"A story of {prompt}.")
    client = Client(server.provider(), retry_policy=RetryPolicy(total_s=5, tries=1))
    rows = previewing.preview(priced, LOCAL, client, _recipe(server.provider(), 3), 3, book=custom_prices.book(priced))
    found = []
    with pytest.raises(FabulaError):
        for row in rows:
            found.append(row.text)
    assert sorted(found) == ["A story of a.", "A story of c."]


_TWO = "第一句。" * 600 + "第二句。" * 600  # two parts


@pytest.mark.parametrize(
    ("second", "kind", "unknown"),
    [(fault_server.drop(), Unavailable, 1), (error(400, "no"), BadRequest, 0), (fault_server.unauthorized(), None, 0)],
)
def test_a_reading_goes_on_after_the_parts_that_were_paid(
    priced: Store, server: FaultServer, second: Any, kind: type[FabulaError] | None, unknown: int
) -> None:
    server.enqueue(raw(b"one", "audio/mpeg"), second, raw(b"two", "audio/mpeg"))
    speech, book = Speech(server.provider(), retry_policy=RetryPolicy(tries=1)), custom_prices.book(priced)
    request = SpeechRequest(MODEL, "v", _TWO)
    sound = []
    with pytest.raises(kind or FabulaError):
        for part in read_aloud.read_aloud(priced, LOCAL, speech, request, "s1", book):
            sound.append(part)
    sound += read_aloud.read_aloud(priced, LOCAL, speech, request, "s1", book, skip_parts=len(sound))
    assert sound == [b"one", b"two"]
    first, again, twice = [seen.body["input"] for seen in server.requests]
    assert first != again == twice
    assert [line.cost_usd is None for line in spends(priced)].count(True) == unknown
    assert len(spends(priced)) == 2 + unknown
    with priced.session() as session:  # what was delivered is settled, so it never becomes unknown
        assert settle_abandoned(session, utcnow() + timedelta(hours=2)) == 0
