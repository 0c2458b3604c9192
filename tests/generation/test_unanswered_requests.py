"""A request without a known outcome may be billed: its cost is unknown and counts with its worst case, and it is not
sent again automatically. A request that was rejected, or never arrived, costs nothing. This applies to every kind of
single paid request.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal

import pandas as pd
import pytest
from sqlalchemy import update

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Evaluation, Row, utcnow
from core.errors import FabulaError
from core.evaluation import evaluation_run, evaluations
from core.evaluation.evaluations import EvaluationForm
from core.generation import previewing
from core.pricing import budget, custom_prices, spend
from core.pricing.spend import Reservation, settle_abandoned
from core.providers import Client, CompletionRequest, Provider, RetryPolicy
from core.providers.speech import Speech, SpeechRequest
from core.stories import read_aloud
from core.stories.stream import StoryStream, StreamRequest
from tests.support.fault_server import (
    Answer,
    FaultServer,
    cut,
    drop,
    error,
    held,
    html,
    quota,
    rate_limit,
    raw,
    text,
    unauthorized,
)
from tests.support.live_runs import MODEL, OneClient, spends

_PATIENCE = RetryPolicy(total_s=60, tries=3, base_s=0.001, cap_s=0.01)
_EVALUATION_TRIES = 5  # attempts per row
Buyer = Callable[[Store, Provider, float | None], None]

UNHEARD = {
    "timeout": held(),
    "dropped": drop(),
    "408": error(408, "slow"),
    "500": error(500, "oops"),
    "502": error(502, "bad gateway"),
    "504": error(504, "gateway timeout"),
    "login page": html(),
    "half an answer": raw(b"{"),
}
REFUSED = {
    "429": rate_limit(retry_after_ms="1"),
    "503": error(503, "overloaded"),
    "529": error(529, "overloaded"),
    "409": error(409, "locked"),
    "400": error(400, "no"),
    "404": error(404, "no"),
    "401": unauthorized(),
    "no credit": quota(),
    "429 inside 200": raw(b'{"error": {"message": "Slow down", "code": 429}}'),
    "no credit inside 200": raw(b'{"error": {"message": "No balance", "code": "1113"}}'),
}


class InstantPause(threading.Event):
    """Skip pauses."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def client(provider: Provider, timeout: float | None) -> Client:
    return Client(provider, retry_policy=_PATIENCE, timeout=timeout)


def preview(store: Store, provider: Provider, timeout: float | None) -> None:
    recipe = Recipe("s", (Column("n", ("a",)),), "{n}", provider=provider.id, model=MODEL, max_tokens=9)
    book = custom_prices.book(store)
    list(previewing.preview(store, LOCAL, client(provider, timeout), recipe, 1, book=book))


def story(store: Store, provider: Provider, timeout: float | None) -> None:
    request = CompletionRequest(MODEL, "once", max_tokens=9)
    list(StoryStream(LOCAL, StreamRequest(store, client(provider, timeout), request, custom_prices.book(store))))


def speech(store: Store, provider: Provider, timeout: float | None) -> None:
    speaker = Speech(provider, retry_policy=_PATIENCE, timeout=timeout)
    list(
        read_aloud.read_aloud(
            store, LOCAL, speaker, SpeechRequest(MODEL, "v", "words"), "s1", custom_prices.book(store)
        )
    )


def evaluation(store: Store, provider: Provider, timeout: float | None) -> None:
    frame = pd.DataFrame({"question": ["q"], "answer": ["a"]})
    dataset_id = datasets.from_frame(store, LOCAL, "one", frame, ["question"], "answer")
    with store.session() as session:
        session.execute(update(Row).values(split="held_out"))
    form = EvaluationForm(dataset_id, provider.id, MODEL, max_tokens=9)
    made = evaluations.start(store, LOCAL, form)
    evaluation_run.carry_out(store, OneClient(client(provider, timeout)), made, InstantPause())


BUYERS: dict[str, Buyer] = {"preview": preview, "story": story, "speech": speech, "evaluation": evaluation}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def sent(server: FaultServer) -> int:
    return sum(seen.method == "POST" for seen in server.requests)


def serve(server: FaultServer, answer: Answer) -> float | None:
    """Use this answer for everything, including speech; returns the client's timeout in seconds."""
    server.enqueue(*[answer] * 40)
    return 0.2 if answer.end == "hold" else None


@pytest.mark.parametrize("buyer", BUYERS)
@pytest.mark.parametrize("fault", UNHEARD)
def test_what_may_be_billed_counts_at_its_worst(priced: Store, server: FaultServer, fault: str, buyer: str) -> None:
    timeout = serve(server, UNHEARD[fault])
    with contextlib.suppress(FabulaError):
        BUYERS[buyer](priced, server.provider(), timeout)
    found = spends(priced)
    assert sent(server) == (_EVALUATION_TRIES if buyer == "evaluation" else 1)
    assert len(found) == sent(server)
    assert all(line.cost_usd is None and line.estimated_usd for line in found)
    with priced.reading() as session:
        counted = sum(budget.spent_on(session, reference) for reference in {line.reference for line in found})
    assert counted == sum(line.estimated_usd or Decimal(0) for line in found) > 0


@pytest.mark.parametrize("buyer", BUYERS)
@pytest.mark.parametrize("fault", REFUSED)
def test_what_was_refused_costs_nothing(priced: Store, server: FaultServer, fault: str, buyer: str) -> None:
    serve(server, REFUSED[fault])
    with contextlib.suppress(FabulaError):
        BUYERS[buyer](priced, server.provider(), None)
    assert sent(server) >= 1
    assert spends(priced) == []


@pytest.mark.parametrize("buyer", BUYERS)
def test_what_never_left_costs_nothing(priced: Store, server: FaultServer, buyer: str) -> None:
    provider = server.provider()
    server.__exit__()  # the client has given up
    with contextlib.suppress(FabulaError):
        BUYERS[buyer](priced, provider, None)
    assert spends(priced) == []


def test_a_row_that_is_never_answered_is_left_alone_and_says_why(priced: Store, server: FaultServer) -> None:
    serve(server, drop())
    evaluation(priced, server.provider(), None)
    (view,) = evaluations.list_evaluations(priced)
    assert (view.state, view.answered, view.failed) == ("done", 0, 1)
    (answer,) = evaluations.answers(priced, view.id)
    assert "cannot be reached" in (answer.reason or "")


def test_tries_of_an_evaluation_end_with_the_budget(priced: Store, server: FaultServer) -> None:
    serve(server, drop())
    # an attempt: 1 prompt token, 9 completion tokens, one cent
    budget.set_budget(priced, LOCAL, "run", Decimal("0.025"))
    with pytest.raises(FabulaError, match="budget"):
        evaluation(priced, server.provider(), None)
    assert sent(server) == 2
    assert sum(line.estimated_usd or Decimal(0) for line in spends(priced)) <= Decimal("0.025")


def test_a_try_that_was_answered_later_is_booked_beside_the_one_that_was_not(
    priced: Store, server: FaultServer
) -> None:
    server.enqueue(drop(), rate_limit(retry_after_ms="1"), text("a"))
    evaluation(priced, server.provider(), None)
    assert [(line.prompt_tokens, line.cost_usd is None) for line in spends(priced)] == [(None, True), (10, False)]
    (view,) = evaluations.list_evaluations(priced)
    assert view.answered == 1


def test_a_story_that_is_stopped_before_its_first_word_is_an_unknown_cost(priced: Store, server: FaultServer) -> None:
    serve(server, held())
    request = CompletionRequest(MODEL, "once", max_tokens=9)
    told = StoryStream(
        LOCAL, StreamRequest(priced, client(server.provider(), None), request, custom_prices.book(priced))
    )
    server.wait_for(lambda s: s.flying == 1)
    told.stop()
    (line,) = spends(priced)
    assert line.cost_usd is None and line.estimated_usd


def test_a_story_that_is_stopped_while_its_money_is_reserved_costs_nothing(priced: Store, server: FaultServer) -> None:
    request, book = CompletionRequest(MODEL, "once", max_tokens=9), custom_prices.book(priced)
    with priced.session() as session:
        session.connection()  # begins the transaction of another writer: the reservation must wait
        told = StoryStream(LOCAL, StreamRequest(priced, client(server.provider(), None), request, book))
        told.cancel()
    assert list(told) == []
    assert (sent(server), spends(priced)) == (0, [])


def test_a_story_that_is_cut_is_billed_by_its_words(priced: Store, server: FaultServer) -> None:
    server.enqueue(cut("Once upon"))
    with pytest.raises(FabulaError):
        story(priced, server.provider(), None)
    (line,) = spends(priced)
    assert line.cost_usd and line.completion_tokens


# --- the process was killed -----------------------------------------------------------------------------------------


def _reserve(store: Store, page: spend.Page, reference: str, usd: str = "0.5") -> Reservation:
    return Reservation(store, LOCAL, page, provider="fault", model=MODEL, reference=reference, worst_usd=Decimal(usd))


@pytest.mark.parametrize(
    ("page", "reference", "usd", "hours", "abandoned"),
    [
        ("dataset", budget.PREVIEW, "0.5", 2, True),
        ("story", "a story", "0.5", 2, True),
        ("comparison", "a story", "0.5", 2, True),
        ("training", "an evaluation", "0.5", 2, True),
        ("story", "a story", "0.5", 0, False),  # it may be running
        ("story", "a story", "0", 2, False),  # free
        ("story", "a continued story", "0.5", 2, True),  # the story has another entry, which is settled
        ("dataset", "a run", "0.5", 2, False),  # of a batch: at the provider for up to a day
        ("training", "a job", "0.5", 2, False),
    ],
)
def test_what_a_killed_process_had_in_flight_becomes_an_unknown_cost(
    store: Store, page: spend.Page, reference: str, usd: str, hours: int, abandoned: bool
) -> None:
    for _ in range(2 if reference == budget.PREVIEW else 1):
        _reserve(store, page, reference, usd)
    with store.session() as session:
        session.add(
            Evaluation(
                id="an evaluation",
                dataset_id="d",
                provider="fault",
                model=MODEL,
                kind="text",
                settings={},
                created_by=LOCAL.id,
            )
        )
        spend.record(
            session, LOCAL, "story", provider="fault", model=MODEL, reference="a continued story",
            prompt_tokens=1, completion_tokens=1, cost_usd=Decimal("0.1"),
        )  # fmt: skip
    reserved = len(spends(store)) - 1
    with store.session() as session:
        before = budget.spent_on(session, reference)
        assert settle_abandoned(session, utcnow() + timedelta(hours=hours)) == (reserved if abandoned else 0)
    settled = [line for line in spends(store) if line.reference == reference and line.prompt_tokens is None]
    assert [(line.cost_usd, line.estimated_usd) for line in settled] == [
        (None if abandoned else Decimal(usd), Decimal(usd))
    ] * reserved
    with store.reading() as session:
        assert budget.spent_on(session, reference) == before


def test_a_request_that_takes_very_long_still_gets_its_real_cost(store: Store) -> None:
    slow, refused = _reserve(store, "story", "slow"), _reserve(store, "story", "refused")
    with store.session() as session:
        assert settle_abandoned(session, utcnow() + timedelta(hours=2)) == 2
    slow.settle(10, 5, Decimal("0.015"))
    refused.failed(FabulaError("No.", ""))
    assert [(line.reference, line.cost_usd) for line in spends(store)] == [("slow", Decimal("0.015"))]
