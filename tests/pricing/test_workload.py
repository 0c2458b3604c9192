"""Workload costs per option, break-even, and sensitivity."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FabulaError
from core.pricing import workload
from core.pricing.price_book import PriceBook
from core.pricing.prices import ExchangeRate, Price, Tier
from core.pricing.workload import BreakEven, Candidate, Costs, Machine, Workload

_DAY = date(2026, 11, 1)
_OPENAI_TUNED, _OPENAI_BASE = ("openai", "ft:gpt-4o-mini-2024-07-18"), ("openai", "gpt-4o-mini")


def _price(**amounts: object) -> Price:
    known: dict[str, object] = {
        "model": "m",
        "provider": "p",
        "input_per_mtok": Decimal("0.15"),
        "output_per_mtok": Decimal("0.6"),
        "training_per_mtok": None,
        "base_model": None,
        "currency": "USD",
        "source": "test",
        "checked": _DAY,
    }
    return Price(**{**known, **amounts})  # type: ignore[arg-type]  # a table row, checked by the assertions


_BASE = Candidate("base", "base", _price())
_TUNED = Candidate(
    "tuned",
    "tuned",
    _price(input_per_mtok=Decimal("0.3"), output_per_mtok=Decimal("1.2"), training_per_mtok=Decimal(3)),
)
_WORK = Workload(
    requests_per_day=Decimal(1000),
    prompt_tokens=20,
    completion_tokens=300,
    context_tokens=4000,
    training_tokens=400_000,
    epochs=4,
)


def test_a_tuned_model_pays_training_once_and_a_short_prompt() -> None:
    found = workload.costs(_WORK, _TUNED)
    assert found.upfront == Decimal("4.8")
    assert found.per_request == Decimal("0.000366")
    assert found.per_thousand == Decimal("0.366")
    assert found.per_month == Decimal("10.98")
    assert found.total(1000) == Decimal("5.166")
    assert found.problem is None


def test_a_base_pays_for_its_long_prompt() -> None:
    found = workload.costs(_WORK, _BASE)
    assert (found.upfront, found.per_request) == (0, Decimal("0.000783"))


def test_break_even_is_the_first_request_from_which_it_is_no_dearer() -> None:
    tuned, base = workload.costs(_WORK, _TUNED), workload.costs(_WORK, _BASE)
    found = workload.break_even(tuned, base)
    assert found.outcome == "at" and found.requests == 11_511 and found.days == Decimal("11.511")
    totals = [(tuned.total(n), base.total(n)) for n in (found.requests - 1, found.requests)]
    assert totals[0][0] > totals[0][1] and totals[1][0] <= totals[1][1]  # type: ignore[operator]  # both are known


@pytest.mark.parametrize(
    ("upfront", "each", "other_upfront", "other_each", "outcome", "requests"),
    [
        ("10", "1", "0", "2", "at", 10),
        ("10", "1", "0", "4", "at", 4),
        ("10", "2", "0", "2", "never", None),
        ("10", "3", "0", "2", "never", None),
        ("0", "2", "0", "2", "at_once", None),
        ("0", "1", "10", "2", "at_once", None),
        ("0", "3", "10", "2", "until", 10),
        ("10", None, "0", "2", "unknown", None),
        (None, "1", "0", "2", "unknown", None),
    ],
)
def test_when_it_pays_back(
    upfront: str | None, each: str | None, other_upfront: str, other_each: str, outcome: str, requests: int | None
) -> None:
    tuned_costs = Costs(_TUNED, each and Decimal(each), upfront and Decimal(upfront), Decimal(0), Decimal(30))  # type: ignore[arg-type]  # None stays None
    base_costs = Costs(_BASE, Decimal(other_each), Decimal(other_upfront), Decimal(0), Decimal(30))
    found = workload.break_even(tuned_costs, base_costs)
    assert (found.outcome, found.requests) == (outcome, requests)
    assert found.days == requests  # 30 requests per month are one per day


def test_hosting_counts_by_the_month_and_is_shared_among_its_requests() -> None:
    hosted = replace(_TUNED, price=replace(_TUNED.price, hosting_per_hour=Decimal("1.7")))  # type: ignore[type-var]  # it has a price
    found = workload.costs(_WORK, hosted)
    assert found.fixed_per_month == 1224
    assert found.per_month == Decimal("1234.98")
    assert found.slope == Decimal("0.041166")
    nobody_asks = workload.costs(replace(_WORK, requests_per_day=Decimal(0)), hosted)
    assert (nobody_asks.per_month, nobody_asks.slope) == (1224, None)


@pytest.mark.parametrize(
    ("change", "per_request"),
    [
        ({"cached_share": Decimal("0.5")}, "0.000633"),
        ({"cached_share": Decimal(1)}, "0.000483"),
        ({"batch": True}, "0.0003915"),
    ],
)
def test_caching_and_batches_make_the_long_prompt_cheaper(change: dict[str, object], per_request: str) -> None:
    price = _price(
        cached_input_per_mtok=Decimal("0.075"),
        batch_input_per_mtok=Decimal("0.075"),
        batch_output_per_mtok=Decimal("0.3"),
    )
    found = workload.costs(replace(_WORK, **change), Candidate("base", "base", price))  # type: ignore[arg-type]  # a table row
    assert found.per_request == Decimal(per_request)


def test_a_prompt_beyond_a_tier_pays_its_price_for_every_token() -> None:
    tier = Tier(4000, Decimal(1), None, Decimal(2))
    found = workload.costs(_WORK, Candidate("base", "base", _price(tiers=(tier,))))
    assert found.per_request == Decimal("0.00462")


# --- own machine ----------------------------------------------------------------------------------------------


def test_the_machines_price_is_its_hour_through_its_speed() -> None:
    assert Machine(Decimal("0.036"), Decimal(40)).per_mtok == Decimal("0.25")
    assert Machine(Decimal("0.036"), Decimal(0)).per_mtok is None
    found = workload.costs(_WORK, Candidate("here", "local", machine=Machine(Decimal("0.036"), Decimal(40))))
    assert found.per_request == Decimal("0.000075")
    assert found.fixed_per_month == 0


@pytest.mark.parametrize(
    ("per_hour", "training", "epochs", "upfront"),
    [
        ("0.036", "40", None, Decimal("0.4")),
        ("0.036", "400", None, Decimal("0.04")),  # trains faster than it generates
        ("0.036", "4", None, Decimal(4)),
        ("0.036", None, None, None),  # no job has finished
        ("0.036", None, 0, Decimal(0)),  # nothing to train
        ("0", None, None, Decimal(0)),
    ],
)
def test_the_machine_trains_at_its_measured_training_speed(
    per_hour: str, training: str | None, epochs: int | None, upfront: Decimal | None
) -> None:
    speed = None if training is None else Decimal(training)
    machine = Machine(Decimal(per_hour), Decimal(40), training_tokens_per_s=speed)
    work = _WORK if epochs is None else replace(_WORK, epochs=epochs)
    found = workload.costs(work, Candidate("here", "local", machine=machine))
    assert found.upfront == upfront and found.per_request is not None
    assert (found.problem is None) == (upfront is not None)


def test_an_always_on_machine_has_a_fixed_monthly_cost() -> None:
    machine = Machine(Decimal("0.5"), Decimal(40), always_on=True)
    found = workload.costs(_WORK, Candidate("here", "local", machine=machine))
    assert (found.per_request, found.upfront, found.fixed_per_month, found.per_month) == (0, 0, 360, 360)


def test_a_machine_that_is_too_slow_says_so() -> None:
    machine = Machine(Decimal("0.036"), Decimal(40))
    busy = replace(_WORK, requests_per_day=Decimal(20_000))
    assert "can't write that many" in (workload.costs(busy, Candidate("h", "local", machine=machine)).problem or "")
    unmeasured = workload.costs(_WORK, Candidate("h", "local", machine=Machine(Decimal(1), Decimal(0))))
    assert unmeasured.per_request is None and "has not been measured" in (unmeasured.problem or "")


# --- unknown values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "change", "says"),
    [
        (Candidate("x", "base", None), {}, "price is unknown"),
        (Candidate("x", "base", _price(output_per_mtok=None)), {}, "A price needed for this"),
        (Candidate("x", "tuned", _price()), {}, "The training price"),
        (Candidate("x", "base", _price()), {"batch": True}, "No batch price"),
        (Candidate("x", "base", _price(currency="CNY")), {}, "prices are in CNY"),
    ],
)
def test_unknown_costs_are_reported_and_never_free(candidate: Candidate, change: dict[str, bool], says: str) -> None:
    found = workload.costs(replace(_WORK, **change), candidate)  # type: ignore[arg-type]  # a table row
    assert found.problem is not None and says in found.problem
    assert found.total(10) is None
    assert workload.break_even(found, workload.costs(_WORK, _BASE)) == BreakEven("unknown")


def test_a_stated_rate_brings_candidates_together() -> None:
    rate = ExchangeRate("CNY", Decimal(7), "test", _DAY)
    yuan = Candidate(
        "x", "base", _price(currency="CNY", input_per_mtok=Decimal("1.05"), output_per_mtok=Decimal("4.2"))
    )
    assert workload.costs(_WORK, yuan, rate=rate).per_request == workload.costs(_WORK, _BASE).per_request
    in_yuan = workload.costs(_WORK, _BASE, "CNY", rate).per_request
    assert in_yuan == Decimal("0.005481")


@pytest.mark.parametrize(
    "change",
    [
        {"requests_per_day": Decimal(-1)},
        {"requests_per_day": Decimal("1e12")},
        {"requests_per_day": Decimal("NaN")},
        {"prompt_tokens": -1},
        {"completion_tokens": 10**12},
        {"context_tokens": -5},
        {"training_tokens": -1},
        {"epochs": 5000},
        {"cached_share": Decimal("1.5")},
    ],
)
def test_absurd_numbers_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FabulaError) as caught:
        replace(_WORK, **change).validate()  # type: ignore[arg-type]  # a table row
    assert caught.value.next_step
    _WORK.validate()


# --- properties -----------------------------------------------------------------------------------------------------

_COUNT = st.integers(0, 10**6)


@given(_COUNT, _COUNT, _COUNT, _COUNT, st.integers(1, 20))
def test_more_of_anything_never_costs_less(
    prompt: int, completion: int, context: int, tokens: int, epochs: int
) -> None:
    work = replace(
        _WORK,
        prompt_tokens=prompt,
        completion_tokens=completion,
        context_tokens=context,
        training_tokens=tokens,
        epochs=epochs,
    )
    for candidate in (
        _BASE,
        _TUNED,
        Candidate("h", "local", machine=Machine(Decimal(1), Decimal(40), False, Decimal(400))),
    ):
        before = workload.costs(work, candidate).total(100)
        for name in ("prompt_tokens", "completion_tokens", "context_tokens", "training_tokens", "epochs"):
            after = workload.costs(replace(work, **{name: getattr(work, name) + 1}), candidate).total(100)
            assert before is not None and after is not None and after >= before


@given(_COUNT, _COUNT)
def test_totals_add_up(one: int, two: int) -> None:
    found = workload.costs(_WORK, _TUNED)
    total, first, second = found.total(one + two), found.total(one), found.total(two)
    assert total is not None and first is not None and second is not None and found.upfront is not None
    assert total + found.upfront == first + second


@given(*[st.decimals(least, "100", places=4) for least in ("0", "0", "0.0001", "0.0001")])
def test_at_the_crossing_the_two_change_places(upfront: Decimal, each: Decimal, more: Decimal, saved: Decimal) -> None:
    tuned_costs = Costs(_TUNED, each, upfront + more, Decimal(0), Decimal(30))
    base_costs = Costs(_BASE, each + saved, upfront, Decimal(0), Decimal(30))
    found = workload.break_even(tuned_costs, base_costs)
    assert found.outcome == "at"
    n = found.requests or 0
    before, after = n - 1, n
    assert tuned_costs.total(after) <= base_costs.total(after)  # type: ignore[operator]  # both are known
    assert tuned_costs.total(before) > base_costs.total(before)  # type: ignore[operator]  # both are known


# --- sensitivity ----------------------------------------------------------------------------------------------------


def _both(work: Workload) -> tuple[Costs, Costs]:
    return workload.costs(work, _TUNED), workload.costs(work, _BASE)


def test_the_three_inputs_that_matter_most() -> None:
    in_days, found = workload.sensitivity(_WORK, _both)
    assert in_days
    assert [effect.input for effect in found] == ["context_tokens", "requests_per_day", "training_tokens"]
    assert found[1].lower == Decimal("14.38875") and found[1].higher == Decimal("9.5925")
    context = found[0]
    assert context.lower is not None and context.higher is not None and context.lower > context.higher


def test_inputs_that_decide_the_break_even_are_first() -> None:
    work = replace(_WORK, context_tokens=1400)
    in_days, found = workload.sensitivity(work, _both)
    assert in_days and None in (found[0].lower, found[0].higher)


def test_without_a_break_even_the_monthly_difference_is_reported() -> None:
    in_days, found = workload.sensitivity(replace(_WORK, context_tokens=0), _both)
    assert not in_days
    assert found[0].input in ("requests_per_day", "completion_tokens")
    assert all(effect.lower is not None and effect.lower > 0 for effect in found)


def test_a_chart_shows_twice_the_crossing_and_a_month_where_the_crossing_is_not_lost_in_it() -> None:
    tuned, base = _both(_WORK)
    assert workload.chart_range([tuned, base], [BreakEven("at", 41_200, None)]) == 82_400
    assert workload.chart_range([tuned, base], [BreakEven("never")]) == 30_000
    assert workload.chart_range([tuned, base], [BreakEven("at", 2_000, None), BreakEven("never")]) == 30_000
    assert workload.chart_range([tuned, base], [BreakEven("at", 100, None)]) == 2_000
    assert workload.chart_range([], []) == 10


# --- the worked example of the documentation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuned", "base", "context", "upfront", "tuned_each", "base_each", "outcome", "requests"),
    [
        # 2023: tuned curie and gpt-3.5-turbo
        (
            ("openai-2023", "ft:curie"),
            ("openai-2023", "gpt-3.5-turbo"),
            0,
            "3.689835",
            "0.00618",
            "0.00103",
            "never",
            None,
        ),
        (
            ("openai-2023", "ft:curie"),
            ("openai-2023", "gpt-3.5-turbo"),
            6000,
            "3.689835",
            "0.00618",
            "0.01303",
            "at",
            539,
        ),
        # today: tuned gpt-4o-mini and gpt-4o-mini
        (_OPENAI_TUNED, _OPENAI_BASE, 0, "3.689835", "0.0006045", "0.00030225", "never", None),
        (_OPENAI_TUNED, _OPENAI_BASE, 6000, "3.689835", "0.0006045", "0.00120225", "at", 6173),
    ],
)
def test_the_articles_reasoning_with_2023s_and_todays_prices(
    tuned: tuple[str, str],
    base: tuple[str, str],
    context: int,
    upfront: str,
    tuned_each: str,
    base_each: str,
    outcome: str,
    requests: int | None,
) -> None:
    book = PriceBook.load(now=datetime(2026, 11, 22, tzinfo=UTC))
    work = Workload(Decimal(1000), 15, 500, context, training_tokens=1_229_945, epochs=1)
    tuned_costs = workload.costs(work, Candidate("tuned", "tuned", book.find(*tuned)))
    base_costs = workload.costs(work, Candidate("base", "base", book.find(*base)))
    assert (tuned_costs.upfront, tuned_costs.per_request, base_costs.per_request) == (
        Decimal(upfront), Decimal(tuned_each), Decimal(base_each),
    )  # fmt: skip
    found = workload.break_even(tuned_costs, base_costs)
    assert (found.outcome, found.requests) == (outcome, requests)
