"""Spending by day, person and run; budgets at reservation; custom prices; quality and price."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Thread
from typing import Any

import pytest

from core.actor import LOCAL, Actor
from core.confidence_interval import wilson
from core.db.store import Store, new_id
from core.db.tables import Evaluation, Person, Spend, Story, TrainingJob, Vote
from core.errors import FabulaError, NotAllowed, NotFound, OverBudget
from core.evaluation.scoring import Interval, Metrics
from core.pricing import budget, custom_prices, quality, spend, spend_history
from core.pricing.price_book import PriceBook, cost_of, speech_cost, training_cost
from core.pricing.quality import Quality

_ANNA = Actor("anna", "Anna", "editor")
_VIEWER = Actor("vic", "Vic", "viewer")


def _reserve(store: Store, amount: str | None, actor: Actor = LOCAL, reference: str = "run-1") -> int:
    with store.session() as session:
        return spend.record(
            session, actor, "dataset", provider="openai", model="m", reference=reference,
            cost_usd=None if amount is None else Decimal(amount),
        )  # fmt: skip


def _paid(
    store: Store, amount: str | None, actor: Actor = LOCAL, reference: str = "s", at: datetime | None = None
) -> int:
    with store.session() as session:
        spend_id = spend.record(
            session, actor, "story", provider="openai", model="m", reference=reference, prompt_tokens=10,
            completion_tokens=20, cost_usd=None if amount is None else Decimal(amount),
        )  # fmt: skip
        if at is not None:
            session.get_one(Spend, spend_id).created_at = at
        return spend_id


# --- budgets --------------------------------------------------------------------------------------------------------


def test_without_budgets_nothing_is_limited(store: Store) -> None:
    _reserve(store, "1000000")
    assert budget.remaining(store, LOCAL) is None
    assert budget.budgets(store) == []


@pytest.mark.parametrize(
    ("scope", "subject", "says"),
    [
        ("month", "", "this month's budget"),
        ("person", "local", "your budget for this month"),
        ("run", "", "the budget per run"),
    ],
)
def test_a_reservation_that_goes_over_a_budget_is_refused_and_not_written(
    store: Store, scope: budget.Scope, subject: str, says: str
) -> None:
    budget.set_budget(store, LOCAL, scope, Decimal(10), subject)
    _reserve(store, "6")
    with pytest.raises(OverBudget) as caught:
        _reserve(store, "4.01")
    assert says in caught.value.what and "$6.00 of $10.00" in caught.value.what and caught.value.next_step
    assert budget.remaining(store, LOCAL, "run-1") == 4
    _reserve(store, "4")
    assert budget.remaining(store, LOCAL, "run-1") == 0


def test_a_run_and_a_person_have_their_own(store: Store) -> None:
    budget.set_budget(store, LOCAL, "run", Decimal(5))
    budget.set_budget(store, LOCAL, "person", Decimal(7), "anna")
    _reserve(store, "5", _ANNA, "run-1")
    with pytest.raises(OverBudget):
        _reserve(store, "0.01", _ANNA, "run-1")
    with pytest.raises(OverBudget):
        _reserve(store, "3", _ANNA, "run-2")
    _reserve(store, "3", LOCAL, "run-2")  # another person
    assert budget.remaining(store, _ANNA, "run-3") == 2
    assert budget.remaining(store, LOCAL, "run-2") == 2
    assert budget.remaining(store, LOCAL) is None  # no budget applies


def test_many_rows_reserved_in_one_transaction_are_counted_together(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(3))
    with pytest.raises(OverBudget), store.session() as session:
        for _ in range(4):
            spend.record(
                session, LOCAL, "dataset", provider="p", model="m", reference="r", cost_usd=Decimal(1)
            )  # fmt: skip
    assert budget.remaining(store, LOCAL) == 3  # all or nothing


def test_settling_releases_the_unused_reservation(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(3))
    spend_id = _reserve(store, "3")
    with store.session() as session:
        assert budget.remaining_in(session, LOCAL) == 0
        spend.settle(session, spend_id, prompt_tokens=5, completion_tokens=5, cost_usd=Decimal("0.5"))
        assert budget.remaining_in(session, LOCAL) == Decimal("2.5")
    line = spend_history.by_reference(store, datetime.now(UTC) - timedelta(days=1))[0]
    assert (line.estimated_usd, line.cost_usd) == (3, Decimal("0.5"))  # the worst case remains as the estimate


def test_last_month_does_not_count(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    _paid(store, "100", at=budget.month_start(datetime.now(UTC)) - timedelta(seconds=1))
    assert budget.remaining(store, LOCAL) == 1


def test_paid_calls_are_recorded_despite_a_budget(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    _paid(store, "2")
    view = budget.budgets(store)[0]
    assert (view.spent_usd, view.left_usd) == (2, -1)
    assert budget.remaining(store, LOCAL) == 0


def test_unknown_prices_are_blocked_by_a_budget(store: Store) -> None:
    with store.session() as session:
        budget.check(session, LOCAL, None)  # no budget applies
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    with store.session() as session, pytest.raises(OverBudget) as caught:
        budget.check(session, LOCAL, None)
    assert "price of this model is unknown" in caught.value.what
    with store.session() as session:
        budget.check(session, LOCAL, Decimal(0))  # the engine's


def test_two_at_once_do_not_both_get_the_last_dollar(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(5))
    refused: list[OverBudget] = []

    def buy() -> None:
        for _ in range(5):
            try:
                _reserve(store, "1")
            except OverBudget as error:
                refused.append(error)

    threads = [Thread(target=buy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 15
    assert budget.remaining(store, LOCAL) == 0


def test_a_budget_is_changed_and_taken_away(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal(5))
    budget.set_budget(store, LOCAL, "month", Decimal(6))
    assert [view.amount_usd for view in budget.budgets(store)] == [6]
    budget.set_budget(store, LOCAL, "month", None)
    assert budget.budgets(store) == []


@pytest.mark.parametrize(
    ("actor", "scope", "amount", "subject"),
    [
        (LOCAL, "month", Decimal(-1), ""),
        (LOCAL, "month", Decimal("NaN"), ""),
        (LOCAL, "month", Decimal("Infinity"), ""),
        (LOCAL, "month", Decimal("1e10"), ""),
        (LOCAL, "person", Decimal(1), " "),
        (LOCAL, "month", Decimal(1), "anna"),
        (_ANNA, "month", Decimal(1), ""),
    ],
)
def test_invalid_budgets_are_rejected(
    store: Store, actor: Actor, scope: budget.Scope, amount: Decimal, subject: str
) -> None:
    with pytest.raises(FabulaError):
        budget.set_budget(store, actor, scope, amount, subject)
    assert budget.budgets(store) == []


# --- the ledger -----------------------------------------------------------------------------------------------------


def test_the_reported_count_is_used_and_the_local_one_saved(store: Store) -> None:
    with store.session() as session:
        both = spend.record(
            session, LOCAL, "story", provider="p", model="m", reference="s", prompt_tokens=10, completion_tokens=20,
            counted_prompt_tokens=11, counted_completion_tokens=19,
        )  # fmt: skip
        ours = spend.record(
            session, LOCAL, "story", provider="p", model="m", reference="s", counted_prompt_tokens=11,
            counted_completion_tokens=19,
        )  # fmt: skip
        rows = [session.get_one(Spend, made) for made in (both, ours)]
        assert [(row.prompt_tokens, row.completion_tokens) for row in rows] == [(10, 20), (11, 19)]
        assert {(row.counted_prompt_tokens, row.counted_completion_tokens) for row in rows} == {(11, 19)}


def test_days_are_grouped_by_model_and_person(store: Store) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for at, amount, actor in (
        (start, "1", LOCAL),
        (start + timedelta(hours=23, minutes=59), "0.1", LOCAL),
        (start + timedelta(days=1), "2", _ANNA),
        (start + timedelta(days=1), None, _ANNA),
        (start - timedelta(seconds=1), "50", LOCAL),
        (start + timedelta(days=2), "50", LOCAL),
    ):
        _paid(store, amount, actor, at=at)
    found = spend_history.by_period(store, [start, start + timedelta(days=1)], start + timedelta(days=2))
    assert [(line.day.day, line.person, line.cost_usd, line.calls, line.unknown) for line in found] == [
        (1, "local", Decimal("1.1"), 2, 0),
        (2, "anna", Decimal(2), 2, 1),
    ]
    assert found[0].tokens == 60


def test_months_go_back_to_the_first_call_and_each_has_its_own_sums(store: Store) -> None:
    now = datetime(2026, 3, 5, 12, tzinfo=UTC)
    january, february, march = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))
    assert spend_history.months(store, now) == [march]
    _paid(store, "1", at=january + timedelta(days=30, hours=23))
    _paid(store, "2", at=march)
    assert spend_history.months(store, now) == [march, february, january]
    found = spend_history.by_period(store, [january, february, march], now)
    assert [(line.day, line.cost_usd) for line in found] == [(january, Decimal(1)), (march, Decimal(2))]
    (work,) = spend_history.by_reference(store, january, february)
    assert work.cost_usd == 1
    assert b"\n2026-01-31T23:00:00" in spend_history.export(store, january, february)
    assert spend_history.export(store, february, march).count(b"\n") == 1


def test_estimate_and_actual_cost_per_run_and_job(store: Store) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    _reserve(store, "2", reference="run-1")
    spend_id = _reserve(store, "2", reference="run-1")
    with store.session() as session:
        spend.settle(session, spend_id, prompt_tokens=1, completion_tokens=1, cost_usd=Decimal("0.25"))
        job = TrainingJob(
            id="job-1", name="Ultraman", provider="openai", base_model="b", hyperparameters={},
            file_format="chat", estimated_usd=Decimal("2.4"), created_by="local",
        )  # fmt: skip
        session.add(job)
        spend.record(
            session, LOCAL, "training", provider="openai", model="b", reference="job-1", prompt_tokens=9,
            cost_usd=Decimal("2.5"),
        )  # fmt: skip
    job_line, run_line = spend_history.by_reference(store, since)
    assert (job_line.name, job_line.estimated_usd, job_line.cost_usd) == ("Ultraman", Decimal("2.4"), Decimal("2.5"))
    assert (run_line.estimated_usd, run_line.cost_usd, run_line.calls) == (4, Decimal("2.25"), 2)
    assert len(spend_history.by_reference(store, since, limit=1)) == 1


def test_engine_work_has_no_cost_without_a_machine_price(store: Store) -> None:
    with store.session() as session:
        spend.record(
            session, LOCAL, "story", provider="engine", model="storyteller", reference="s-1", completion_tokens=9,
            cost_usd=Decimal(0),
        )  # fmt: skip
    (line,) = spend_history.by_reference(store, datetime.now(UTC) - timedelta(hours=1))
    assert (line.estimated_usd, line.cost_usd) == (None, None)


def test_an_unknown_cost_stays_unknown_in_its_run(store: Store) -> None:
    _paid(store, None, reference="dark")
    line = spend_history.by_reference(store, datetime.now(UTC) - timedelta(hours=1))[0]
    assert (line.cost_usd, line.unknown, line.calls) == (None, 1, 1)


def test_the_export_is_csv_that_no_spreadsheet_runs(store: Store) -> None:
    now = datetime.now(UTC)
    _paid(store, "0.000000000000000001", Actor("=cmd()", "x", "editor"), reference="@evil")
    _paid(store, None)
    data = spend_history.export(store, now - timedelta(hours=1), now + timedelta(hours=1))
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    assert [row["cost_usd"] for row in rows] == ["1E-18", ""]
    assert (rows[0]["actor"], rows[0]["reference"]) == ("'=cmd()", "'@evil")
    assert tuple(rows[0]) == spend_history.COLUMNS


def test_the_export_of_one_person_has_only_what_they_paid_for(store: Store) -> None:
    now = datetime.now(UTC)
    for name in ("ann", "bob"):
        _paid(store, "0.5", Actor(name, name, "editor"), reference=f"run of {name}")
    data = spend_history.export(store, now - timedelta(hours=1), now + timedelta(hours=1), "bob")
    assert [row["reference"] for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig")))] == ["run of bob"]


def test_the_newest_work_of_one_person_is_found_behind_that_of_others(store: Store) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    _paid(store, "0.5", Actor("bob", "Bob", "editor"), reference="run of bob")
    for number in range(3):
        _paid(store, "0.5", Actor("ann", "Ann", "editor"), reference=f"run {number} of ann")
    found = spend_history.by_reference(store, since, person="bob", limit=2)
    assert [line.reference for line in found] == ["run of bob"]


def test_spending_has_the_names_of_people(store: Store) -> None:
    now = datetime.now(UTC)
    since, until = now - timedelta(hours=1), now + timedelta(hours=1)
    with store.session() as session:
        session.add(Person(id="anna", email="anna@example.com", name="Anna Smith", role="editor"))
    _paid(store, "1", _ANNA, reference="a")
    _paid(store, "2", _VIEWER, reference="b")  # not a person of the team
    expected = {("anna", "Anna Smith"), ("vic", "vic")}
    assert {(one.person, one.person_name) for one in spend_history.by_period(store, [since], until)} == expected
    assert {(one.person, one.person_name) for one in spend_history.by_reference(store, since)} == expected
    rows = csv.DictReader(io.StringIO(spend_history.export(store, since, until).decode("utf-8-sig")))
    assert {(row["actor"], row["person"]) for row in rows} == expected


# --- own prices -----------------------------------------------------------------------------------------------------


def _set(store: Store, **values: str) -> str:
    return custom_prices.set_price(
        store, LOCAL, **{"provider": "openai", "model": "gpt-4o-mini", "kind": "output", **values}
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("0.15", "0.15"), (" 2 ", "2"), ("1,500", "1500"), ("12,345.5", "12345.5"), ("1,234,567", None), (".5", "0.5"),
        ("１.５", "1.5"), ("1e-3", "0.001"), ("0", "0"), ("99 999", "99999"),
        ("0,15", None), ("1,5", None), ("1,50", None), ("0,150", None), ("1,2345", None), ("1.500,25", None),
        ("1,5,000", None), (",5", None), ("1,", None), ("1，5", None), ("$0.15", None), ("nan", None), ("-1", None),
        ("Infinity", None), ("", None), ("one", None),
    ],
)  # fmt: skip
def test_a_comma_is_read_only_where_it_groups_three_digits(store: Store, typed: str, meant: str | None) -> None:
    if meant is None:
        with pytest.raises(FabulaError):
            _set(store, amount=typed)
        assert custom_prices.list_custom(store) == []
    else:
        _set(store, amount=typed)
        assert custom_prices.list_custom(store)[0].amount == Decimal(meant)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("model", "m" * 201, "The model's name has 201 characters; the limit is 200."),
        ("provider", "p" * 51, "The provider's name has 51 characters; the limit is 50."),
        ("model", " ", "A price needs a provider and a model."),
    ],
)
def test_a_name_that_does_not_fit_is_refused_for_its_length(store: Store, name: str, value: str, says: str) -> None:
    with pytest.raises(FabulaError) as refused:
        _set(store, amount="1", **{name: value})
    assert refused.value.what == says and custom_prices.list_custom(store) == []


def test_a_custom_price_overrides_the_list_price(store: Store) -> None:
    _set(store, amount="0.9")
    book = custom_prices.book(store)
    price = book.find("openai", "gpt-4o-mini")
    assert price is not None and price.own and price.source == "set in this studio"
    assert (price.output_per_mtok, price.input_per_mtok) == (Decimal("0.9"), Decimal("0.15"))
    assert next(row for row in book.rows(["openai"]) if row.model == "gpt-4o-mini").own
    tuned = book.find("openai", "ft:gpt-4o-mini-2024-07-18:org::a")
    assert tuned is not None and not tuned.own  # a base model's price does not apply to tuned models


def test_a_later_price_replaces_an_earlier_one_and_can_be_taken_back(store: Store) -> None:
    _set(store, amount="0.9")
    second = _set(store, amount="0.0008", unit="ktok")
    assert [(view.amount, view.unit) for view in custom_prices.list_custom(store)] == [(Decimal("0.0008"), "ktok")]
    assert cost_of(custom_prices.book(store), "openai", "gpt-4o-mini", 0, 1_000_000) == Decimal("0.8")
    custom_prices.remove(store, LOCAL, second)
    assert cost_of(custom_prices.book(store), "openai", "gpt-4o-mini", 0, 1_000_000) == Decimal("0.6")
    with pytest.raises(NotFound):
        custom_prices.remove(store, LOCAL, second)


def test_own_prices_make_unknown_models_and_trainings_known(store: Store) -> None:
    for kind, amount in (("input", "1"), ("output", "2"), ("training", "4"), ("hosting_hour", "3")):
        unit = "hour" if kind == "hosting_hour" else "mtok"
        _set(store, provider="mistral", model="ft:open-mistral-7b", kind=kind, amount=amount, unit=unit)
    _set(store, provider="openai", model="gpt-5", kind="training", amount="50")
    book = custom_prices.book(store)
    assert cost_of(book, "mistral", "ft:open-mistral-7b:org:x", 1_000_000, 1_000_000) == 3
    assert training_cost(book, "mistral", "open-mistral-7b", 1_000_000) == 4
    assert training_cost(book, "openai", "gpt-5", 1_000_000) == 50
    assert any(price.key == ("mistral", "ft:open-mistral-7b") for price in book.rows(["mistral"]))


def test_reading_aloud_can_have_an_own_price(store: Store) -> None:
    _set(store, model="our-voice", kind="speech", amount="20", unit="mchar")
    assert speech_cost(custom_prices.book(store), "openai", "our-voice", "字" * 500) == Decimal("0.01")
    with pytest.raises(FabulaError):
        _set(store, model="our-voice", kind="speech", amount="20", unit="mtok")


def test_prices_in_another_currency_stand_alone(store: Store) -> None:
    _set(store, amount="5", currency="CNY")
    price = custom_prices.book(store).find("openai", "gpt-4o-mini")
    assert price is not None
    assert (price.currency, price.input_per_mtok, price.output_per_mtok) == ("CNY", None, Decimal(5))
    with pytest.raises(FabulaError, match="CNY"):
        _set(store, kind="input", amount="1", currency="USD")


def test_the_machine_has_a_price_an_hour_and_its_models_none_a_token(store: Store) -> None:
    assert custom_prices.machine_hour(store) is None
    custom_prices.set_machine_hour(store, LOCAL, "0.05")
    custom_prices.set_machine_hour(store, LOCAL, "0.30", "CNY")
    assert custom_prices.machine_hour(store) == (Decimal("0.30"), "CNY")
    assert custom_prices.list_custom(store) == []
    assert cost_of(custom_prices.book(store), "engine", "storyteller", 100, 100) == 0
    with pytest.raises(FabulaError):
        _set(store, provider="engine", model="storyteller", amount="1")


@pytest.mark.parametrize(
    "values",
    [
        {"amount": "cheap"},
        {"amount": "-1"},
        {"amount": "NaN"},
        {"amount": ""},
        {"amount": "99999999"},
        {"amount": "1", "provider": " "},
        {"amount": "1", "model": ""},
        {"amount": "1", "model": "m" * 300},
        {"amount": "1", "kind": "lunch"},
        {"amount": "1", "unit": "hour"},
        {"amount": "1", "currency": "EUR"},
        {"amount": "2", "kind": "batch_factor", "unit": "factor"},
    ],
)
def test_invalid_prices_are_rejected(store: Store, values: dict[str, str]) -> None:
    with pytest.raises(FabulaError) as caught:
        _set(store, **values)
    assert caught.value.next_step
    assert custom_prices.list_custom(store) == []


def test_viewers_look_but_do_not_set(store: Store) -> None:
    with pytest.raises(NotAllowed):
        custom_prices.set_price(store, _VIEWER, provider="p", model="m", kind="input", amount="1")
    price_id = _set(store, amount="1")
    with pytest.raises(NotAllowed):
        custom_prices.remove(store, _VIEWER, price_id)


# --- quality and price -------------------------------------------------------------------------------------------


def _story(store: Store, model: str, provider: str = "openai") -> str:
    with store.session() as session:
        row = Story(
            id=new_id(), actor="local", provider=provider, model=model, prompt="p", parameters={}, text="t"
        )  # fmt: skip
        session.add(row)
        return row.id


def _vote(store: Store, order: list[str], winner: str | None, blind: bool = True) -> None:
    with store.session() as session:
        session.add(Vote(id=new_id(), actor="local", round_id=new_id(), blind=blind, story_ids=order, winner_id=winner))


def test_blind_votes_become_shares_with_their_interval(store: Store) -> None:
    a, b, repeated = _story(store, "a"), _story(store, "b"), _story(store, "a")
    for _ in range(3):
        _vote(store, [a, b], a)
    _vote(store, [b, a], None)  # no winner
    _vote(store, [a, b], b, blind=False)
    _vote(store, [a, repeated], a)  # a model against itself does not count
    found = {q.model: q for q in quality.qualities(store, PriceBook((), None, datetime.now(UTC).date()))}
    assert (found["a"].share, found["a"].n, found["b"].share) == (0.75, 4, 0.0)
    assert found["a"].low == pytest.approx(0.3006, abs=1e-4) and found["a"].high == pytest.approx(0.9544, abs=1e-4)


def _quality(model: str, share: float, low: float, high: float, kind: str = "votes", measure: str = "votes") -> Quality:
    return Quality("p", model, kind, measure, share, low, high, 10, None)  # type: ignore[arg-type]  # a table row


@pytest.mark.parametrize(
    ("found", "best", "rivals", "clear"),
    [
        ([_quality("a", 0.9, 0.8, 0.95), _quality("b", 0.5, 0.4, 0.6)], "a", [], True),
        ([_quality("a", 0.6, 0.3, 0.8), _quality("b", 0.5, 0.2, 0.7)], "a", ["b"], False),
        ([_quality("a", 0.6, 0.5, 0.7), _quality("b", 0.4, 0.3, 0.5)], "a", ["b"], False),  # the intervals touch
        ([_quality("a", 1.0, 0.2, 1.0)], "a", [], False),  # only one model
        (  # evaluations and votes are not compared
            [_quality("a", 0.9, 0.8, 0.95), _quality("b", 0.5, 0.4, 0.6),
             _quality("c", 0.99, 0.7, 1.0, "evaluation", "accuracy")], "a", [], True,
        ),
        ([_quality("a", 0.5, 0.5, 0.5), _quality("b", 0.5, 0.5, 0.5)], "a", ["b"], False),
    ],
)  # fmt: skip
def test_best_so_far_needs_a_difference_that_the_intervals_support(
    found: list[Quality], best: str, rivals: list[str], clear: bool
) -> None:
    first = quality.leader(found)
    assert first is not None
    assert (first.best.model, [one.model for one in first.rivals], first.clear) == (best, rivals, clear)
    assert quality.leader([]) is None


def test_cost_per_preferred_story() -> None:
    def one(kind: str, share: float, cost: str | None) -> Decimal | None:
        usd = None if cost is None else Decimal(cost)
        return quality.Quality("openai", "a", kind, kind, share, 0, 1, 4, usd).usd_per_preferred  # type: ignore[arg-type]

    assert one("votes", 0.25, "0.01") == Decimal("0.04")
    assert one("votes", 0.25, None) is one("votes", 0, "0.01") is one("evaluation", 0.5, "0.01") is None


@pytest.mark.parametrize(("wins", "n", "low", "high"), [(0, 0, 0, 1), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1)])
def test_the_interval_is_honest_at_the_ends(wins: int, n: int, low: float, high: float) -> None:
    assert wilson(wins, n) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


_SURE = Interval(0.8, 0.7, 0.9, 50)


@pytest.mark.parametrize(
    ("found", "measure"),
    [
        ({"accuracy": _SURE}, "accuracy"),
        ({"overlap": _SURE, "exact": Interval(0.1, 0.0, 0.2, 50)}, "overlap"),
        ({"accuracy": Interval(7.0, 6.0, 8.0, 50)}, None),
        ({}, None),
        (None, None),
    ],
)
def test_evaluations_count_by_their_share(store: Store, found: dict[str, Any] | None, measure: str | None) -> None:
    nothing = Metrics(
        n=50, accuracy=None, exact=None, loss=None, loss_note="", labels=(), confusion={}, overlap=None, quality={},
        prompt_tokens=None, completion_tokens=None, cost_usd=None,
    )  # fmt: skip
    metrics = None if found is None else replace(nothing, **found).to_dict()
    with store.session() as session:
        for state in ("done", "running"):
            session.add(
                Evaluation(
                    id=new_id(), dataset_id="d", provider="openai", model=f"m-{state}", kind="label", settings={},
                    state=state, total=50, metrics=metrics, created_by="local",
                )
            )  # fmt: skip
    measured = quality.qualities(store, PriceBook((), None, datetime.now(UTC).date()))
    assert [(q.model, q.measure, q.share, q.low, q.high, q.n) for q in measured] == (
        [("m-done", measure, 0.8, 0.7, 0.9, 50)] if measure else []
    )


def test_quality_uses_paid_costs_or_todays_price(store: Store) -> None:
    _vote(store, [_story(store, "paid"), _story(store, "gpt-4o-mini")], None)
    with store.session() as session:
        for model, cost in (("paid", Decimal("0.3")), ("paid", Decimal("0.1")), ("gpt-4o-mini", None)):
            spend.record(
                session, LOCAL, "story", provider="openai", model=model, reference="s", prompt_tokens=1000,
                completion_tokens=1000, cost_usd=cost,
            )  # fmt: skip
    found = {q.model: q.cost_usd for q in quality.qualities(store, PriceBook.load())}
    assert found == {"paid": Decimal("0.2"), "gpt-4o-mini": Decimal("0.00075")}
