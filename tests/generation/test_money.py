"""Money: every charge of a provider is in the spend ledger, also after errors of every kind; budgets limit spending."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select

from bench._scripted_provider import BOOK, GOOD, KINDS, AnswerKind, ScriptedProvider
from bench.answers import run_kind
from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db import spend_totals
from core.db.store import Store
from core.db.tables import Row, Spend
from core.errors import FabulaError, Refused, Unavailable
from core.generation import executor, previewing, run_progress, runs
from core.generation.concurrency import RunLimits
from core.pricing import budget
from core.pricing.price_book import PriceBook
from core.pricing.prices import Price
from core.providers import Client, CompletionRequest, RetryPolicy
from core.settings import Settings
from core.stories.stream import StoryStream, StreamRequest
from tests.support.fault_server import FaultServer, cut, drop, error, quota, raw, text
from tests.support.live_runs import QUICK, book, execute, queue, recipe
from tests.support.stores import fresh

_SEQUENCES = 500
_CEILING = 3  # requests in flight
_WORST = Decimal("0.2")  # US dollars, above the reservation of one request for these rows


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One database for all sequences, with one run per sequence."""
    store = fresh(Settings.from_env({"FABULA_HOME": str(tmp_path_factory.mktemp("money"))}))
    yield store
    store.close()


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


def written(store: Store, provider: ScriptedProvider, made: Recipe, budget_usd: Decimal | None = None) -> str:
    """A run of `made`, executed until it ends."""
    run_id = runs.enqueue(store, LOCAL, datasets.create(store, LOCAL, made), budget_usd=budget_usd)
    limits = RunLimits(ceiling=_CEILING, base_s=0.0005, cap_s=0.002, tick_s=0.02, storage_retry_s=0.01)
    executor.execute(store, provider.registry(), run_id, limits=limits, book=BOOK)
    return run_id


def booked(store: Store, reference: str) -> Decimal:
    """The spend of a run from its ledger entries; checks that the totals agree."""
    with store.reading() as session:
        query = select(spend_totals.MAX_COST).where(Spend.reference == reference)
        lines = sum((usd for usd in session.scalars(query) if usd is not None), Decimal(0))
        assert budget.spent_on(session, reference) == lines
    return lines


def numbered(rows: int, repeats: int = 1, seed: int | None = 5) -> Recipe:
    columns = (Column("number", tuple(str(i) for i in range(rows))),)
    made = Recipe("money", columns, "Story {number}.", provider="scripted", model="writer", max_tokens=64)
    return replace(made, repeats=repeats, seed=seed)


def scripted(dice: random.Random) -> dict[str, list[AnswerKind]]:
    """Answers for each prompt, in order, followed by good answers."""
    shares = dice.choice([0.2, 0.5, 0.9])
    return {
        f"Story {number}.": [dice.choice(KINDS) if dice.random() < shares else GOOD for _ in range(dice.randint(0, 6))]
        for number in range(4)
    }


def _answering(answers: dict[str, list[AnswerKind]]) -> Callable[[str, int], AnswerKind]:
    """Each prompt gets its answers one after the other, then a good one."""
    return lambda prompt, before: (answers[prompt][before:] or [GOOD])[0]


@pytest.mark.parametrize("block", range(10))
def test_nothing_is_charged_that_is_not_in_the_ledger(ledger: Store, provider: ScriptedProvider, block: int) -> None:
    each = _SEQUENCES // 10
    for number in range(block * each, (block + 1) * each):
        dice = random.Random(number)
        answers = scripted(dice)
        provider.reset()
        provider.script = _answering(answers)
        made = numbered(dice.randint(1, 4), repeats=dice.choice([1, 1, 2]), seed=dice.choice([None, 5]))
        limit = dice.choice([None, None, Decimal("0.3"), Decimal("1.5")])
        run_id = written(ledger, provider, made, limit)
        progress = run_progress.get(ledger, run_id)
        assert progress.state in ("done", "failed", "stopped"), number
        assert provider.charged_usd <= booked(ledger, run_id), (number, answers)
        if limit is not None:  # only reasoning above the cap may cost more than the reservation
            beyond = sum(kind.cost_usd for kinds in answers.values() for kind in kinds if kind.cost_usd > _WORST)
            assert provider.charged_usd <= limit + beyond * made.repeats, number
    with ledger.reading() as session:
        assert session.scalar(select(func.count()).where(Row.state == "sent")) == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_answer_is_booked(ledger: Store, provider: ScriptedProvider, kind: AnswerKind) -> None:
    books = run_kind(ledger, provider, kind, rows=2)
    assert books.charged_usd <= books.booked_usd
    if kind.whole:
        assert (books.requests, books.done, books.state) == (2, 2, "done")
        assert books.charged_usd == books.booked_usd  # exactly
    elif kind.took is not None and kind.final:
        assert books.requests == 2 and books.state == "done"  # read once, and never requested again
    elif kind.unclear:
        assert books.done == 2 and books.booked_usd > 2 * GOOD.cost_usd  # and the worst case of each attempt
    elif kind.took is None:
        assert books.booked_usd == books.done * GOOD.cost_usd  # an error costs nothing


@pytest.mark.parametrize(
    "name", ["JSON that is cut off", "a connection that is dropped", "JSON of another shape", "a gateway timeout"]
)
def test_a_budget_limits_spending_on_unreadable_answers(ledger: Store, provider: ScriptedProvider, name: str) -> None:
    """Two rows and a budget of $0.30; this used to take 320 requests and $4.80."""
    broken = next(kind for kind in KINDS if kind.name == name)
    provider.reset()
    provider.script = lambda prompt, before: broken
    run_id = written(ledger, provider, numbered(2), Decimal("0.30"))
    progress = run_progress.get(ledger, run_id)
    assert progress.state == "stopped" and "budget" in (progress.reason or "")
    assert provider.charged_usd <= booked(ledger, run_id) <= Decimal("0.30")
    assert provider.requests.total() <= 2


def test_a_row_with_unreadable_answers_fails_after_a_few_attempts(ledger: Store, provider: ScriptedProvider) -> None:
    broken = next(kind for kind in KINDS if kind.name == "a gateway timeout")
    provider.reset()
    provider.script = lambda prompt, before: broken if prompt == "Story 0." else GOOD
    run_id = written(ledger, provider, numbered(3))
    progress = run_progress.get(ledger, run_id)
    assert (progress.state, progress.done, progress.failed) == ("done", 2, 1)
    assert provider.requests["Story 0."] == RunLimits().max_row_failures
    assert provider.charged_usd <= booked(ledger, run_id)


def test_a_run_ends_if_no_answer_can_be_read(ledger: Store, provider: ScriptedProvider) -> None:
    provider.reset()
    provider.script = lambda prompt, before: next(kind for kind in KINDS if kind.name == "a list")
    run_id = written(ledger, provider, numbered(40))
    progress = run_progress.get(ledger, run_id)
    assert progress.state == "failed" and (progress.reason or "").startswith("None of the answers can be read.")
    assert provider.requests.total() <= RunLimits().max_repeated_failures + 2 * _CEILING
    assert provider.charged_usd <= booked(ledger, run_id)


def test_the_row_of_a_lost_request_waits_and_is_written(store: Store, server: FaultServer) -> None:
    server.enqueue(drop(), raw(b"{"), text("done"))
    run_id = queue(store, recipe(1), Decimal(10))
    execute(store, server, run_id, QUICK, book())
    assert run_progress.get(store, run_id).state == "done" and len(server.requests) == 3
    with store.reading() as session:
        lines = session.scalars(select(Spend).where(Spend.reference == run_id).order_by(Spend.id)).all()
    assert [line.cost_usd for line in lines] == [None, None, Decimal("0.011")]
    assert all(line.estimated_usd for line in lines) and len({line.row_id for line in lines}) == 1


# --- previews, stories ---

_PRICE = Price("writer", "fault", Decimal(1000), Decimal(1000), None, None, "USD", "test", BOOK.today)
_PAID = PriceBook(
    overlay=(replace(_PRICE, cached_input_per_mtok=Decimal(100)),),
    source=None,
    today=BOOK.today,
)
_QUICKLY = RetryPolicy(total_s=5, tries=3, base_s=0.001, cap_s=0.01)
_CACHED = raw(
    json.dumps(
        {
            "choices": [{"message": {"content": [{"type": "text", "text": "From"}]}, "finish_reason": "STOP"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}},
        }
    ).encode()
)
# 2 uncached and 1 completion token at a thousandth of a dollar, 8 cached tokens at a tenth of that
_CACHED_USD = Decimal("0.0038")
_OUTCOMES: list[tuple[Any, int, bool, type[FabulaError] | None]] = [
    (_CACHED, 1, True, None),
    (drop(), 1, True, Unavailable),
    (raw(b'{"choices": [{"mess'), 1, True, Unavailable),
    (raw(b""), 1, True, Unavailable),
    (error(504, "upstream timed out"), 1, True, Unavailable),
    (error(503, "busy"), 3, False, Unavailable),
    (error(400, "not this one"), 1, False, FabulaError),
    (quota(), 1, False, Refused),
    (raw(b'{"error": {"message": "Slow down", "code": 429}}'), 3, False, FabulaError),
]


def lines_of(store: Store) -> list[Spend]:
    with store.reading() as session:
        return list(session.scalars(select(Spend).order_by(Spend.id)))


def check_line(store: Store, stays: bool, failed: bool) -> None:
    """One entry if it may be billed (with unknown cost after an error), else none."""
    lines = lines_of(store)
    assert len(lines) == stays
    if stays and failed:
        assert lines[0].cost_usd is None and lines[0].estimated_usd
    elif stays:
        assert lines[0].cost_usd == _CACHED_USD


@pytest.mark.parametrize(("answer", "requests", "stays", "kind"), _OUTCOMES)
def test_a_preview_books_what_may_be_billed(
    store: Store, server: FaultServer, answer: Any, requests: int, stays: bool, kind: type[FabulaError] | None
) -> None:
    server.default = answer
    client = Client(server.provider(), retry_policy=_QUICKLY)
    rows = previewing.preview(store, LOCAL, client, recipe(1), 1, book=_PAID)
    if kind is None:
        assert [(row.text, row.reason) for row in rows] == [("From", None)]
    else:
        with pytest.raises(kind):
            list(rows)
    assert len(server.requests) == requests
    check_line(store, stays, kind is not None)


@pytest.mark.parametrize(("answer", "requests", "stays", "kind"), _OUTCOMES)
def test_a_story_books_what_may_be_billed(
    store: Store, server: FaultServer, answer: Any, requests: int, stays: bool, kind: type[FabulaError] | None
) -> None:
    server.default = answer
    result = story(store, server)
    if kind is None:
        assert "".join(result) == "From" and result.facts.finish_reason == "stop"
    else:
        with pytest.raises(kind):
            list(result)
    assert len(server.requests) == requests
    check_line(store, stays, kind is not None)


def story(store: Store, server: FaultServer) -> StoryStream:
    request = CompletionRequest("writer", "Tell a story.", max_tokens=50)
    return StoryStream(LOCAL, StreamRequest(store, Client(server.provider(), retry_policy=_QUICKLY), request, _PAID))


def streamed(*chunks: object) -> Any:
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return raw(body.encode(), "text/event-stream")


def piece(**delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta}]}


def test_a_story_that_broke_off_is_billed_by_our_own_count(store: Store, server: FaultServer) -> None:
    server.default = cut("From the sea ", "came a giant")
    result = story(store, server)
    with pytest.raises(FabulaError):
        list(result)
    (line,) = lines_of(store)
    assert line.cost_usd is not None and line.completion_tokens == line.counted_completion_tokens == 6


@pytest.mark.parametrize("delta", [{"reasoning_content": "Hm."}, {"content": [{"type": "thinking", "thinking": []}]}])
def test_thinking_that_is_not_counted_makes_the_cost_unknown(
    store: Store, server: FaultServer, delta: dict[str, object]
) -> None:
    server.default = streamed(piece(**delta), piece(content="From"))
    assert "".join(story(store, server)) == "From"
    (line,) = lines_of(store)
    assert line.cost_usd is None and line.estimated_usd


def test_a_story_that_began_and_broke_off_before_its_first_word_may_be_billed(
    store: Store, server: FaultServer
) -> None:
    server.default = streamed(piece(role="assistant"), {"error": {"message": "broke", "code": 500}})
    with pytest.raises(FabulaError, match="broke"):
        list(story(store, server))
    (line,) = lines_of(store)
    assert line.cost_usd is None and line.estimated_usd and len(server.requests) == 1
