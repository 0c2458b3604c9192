"""Prices, multiples, costs and the spend ledger: exact, with sources, and None where unknown."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from core.actor import LOCAL
from core.db.store import Store
from core.errors import BadFile
from core.file_storage import FolderStorage
from core.pricing import price_book, spend, tokens
from core.pricing.comparison import compare
from core.pricing.price_book import OVERLAY, PriceBook, cost_of, speech_cost, training_cost
from core.pricing.price_csv import read_prices
from core.pricing.prices import ExchangeRate, Price, convert, tuned_base
from core.settings import Settings
from tests.support.spending import spent

_NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
_TURBO_2023 = ("openai-2023", "gpt-3.5-turbo")
_DAVINCI_003 = ("openai-2023", "text-davinci-003")


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.load(now=_NOW)


def _row(**values: object) -> Price:
    known: dict[str, object] = {
        "model": "m",
        "provider": "p",
        "input_per_mtok": Decimal(1),
        "output_per_mtok": Decimal(2),
        "training_per_mtok": None,
        "base_model": None,
        "currency": "USD",
        "source": "test",
        "checked": date(2026, 11, 1),
    }
    return Price(**{**known, **values})  # type: ignore[arg-type]  # a table row, checked by the assertions


# --- the article's arithmetic ---------------------------------------------------------------------------------------


def test_the_articles_job_costs_exactly_what_its_tokens_cost(book: PriceBook) -> None:
    assert training_cost(book, "openai-2023", "curie", 1_229_945) == Decimal("3.689835")


@pytest.mark.parametrize(
    ("model", "baseline", "multiple"),
    [("ft:davinci", _DAVINCI_003, 6), ("ft:davinci", _TURBO_2023, 60), ("ft:curie", _TURBO_2023, 6)],
)
def test_the_articles_multiples_come_out_of_the_table(
    book: PriceBook, model: str, baseline: tuple[str, str], multiple: int
) -> None:
    lines = {line.key: line for line in compare(book, baseline)}
    assert lines["openai-2023", model].multiple == multiple
    assert lines[baseline].multiple == 1
    assert lines[baseline].is_baseline


@pytest.mark.parametrize(
    ("model", "training", "use"),
    [
        ("ft:ada", "0.0004", "0.0016"),
        ("ft:babbage", "0.0006", "0.0024"),
        ("ft:curie", "0.0030", "0.0120"),
        ("ft:davinci", "0.0300", "0.1200"),
        ("text-davinci-003", None, "0.0200"),
        ("gpt-3.5-turbo", None, "0.0020"),
    ],
)
def test_the_2023_table_per_1k_tokens(book: PriceBook, model: str, training: str | None, use: str) -> None:
    line = next(line for line in compare(book, _TURBO_2023, 1_000) if line.key == ("openai-2023", model))
    assert (line.training, line.input, line.output) == (training and Decimal(training), Decimal(use), Decimal(use))


# --- looking up -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("ft:gpt-4o-mini-2024-07-18:org::abc", "gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini-2024-07-18:org:ultraman:abc:ckpt-step-90", "gpt-4o-mini-2024-07-18"),
        ("ft:gemma-3-270m:fabula:ultraman:AbC123", "gemma-3-270m"),
        ("curie:ft-bothub-ai:ultraman-2023-04-04-03-03-26", "curie"),
        ("gpt-4o-mini-2024-07-18.ft-0123", "gpt-4o-mini-2024-07-18"),
        ("qwen3-8b-ft-202511132025-0260", "qwen3-8b"),
        ("soft-ft-model", None),
        ("gpt-4o-mini", None),
        ("storyteller", None),
    ],
)
def test_the_base_is_read_from_a_tuned_id(model: str, base: str | None) -> None:
    assert tuned_base(model) == base


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("ft:gpt-4.1-2025-04-14:org::a", "12"),
        ("ft:gpt-4.1-mini-2025-04-14:org:ultraman:a", "3.2"),
        ("ft:gpt-4o-2024-08-06:org::a", "15"),
        ("ft:gpt-4o-mini-2024-07-18:org::a:ckpt-step-3", "1.2"),
        ("ft:gpt-3.5-turbo-0125:org::a", "6"),
        ("ft:gpt-3.5-turbo-1106:org::a", "6"),  # from genai-prices' row for tuned models
        ("ft:gpt-4-0613:org::a", None),  # listed under gpt-4, which is the price of the base model
        ("ft:gpt-5-2025-08-07:org::a", None),  # no price is known
        ("ft:no-such-model:org::a", None),
        ("curie:ft-org:ultraman-2023-04-04-03-03-26", None),
    ],
)
def test_a_tuned_model_has_a_tuned_price_or_none(book: PriceBook, model: str, output: str | None) -> None:
    price = book.find("openai", model)
    assert (price and price.output_per_mtok) == (output and Decimal(output))
    assert price is None or price.output_per_mtok != 0


def test_no_tuned_price_is_ever_the_bases(book: PriceBook) -> None:
    for base in book.rows(["openai"]):
        if base.base_model is None:
            price = book.find("openai", f"ft:{base.model}:org:suffix:id")
            paid = price and (price.input_per_mtok, price.output_per_mtok)
            assert paid != (base.input_per_mtok, base.output_per_mtok), base.model


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o-mini-2024-07-18"])
def test_untuned_models_come_from_the_snapshot_with_its_date(book: PriceBook, model: str) -> None:
    price = book.find("openai", model)
    assert price is not None
    assert (price.input_per_mtok, price.output_per_mtok) == (Decimal("0.15"), Decimal("0.6"))
    assert price.source.startswith("genai-prices ")
    assert price.checked >= date(2026, 11, 10)


@pytest.mark.parametrize(("provider", "model"), [("openai", "made-up"), ("made-up", "gpt-4o"), ("openai", "whisper-1")])
def test_unknown_costs_are_none(book: PriceBook, provider: str, model: str) -> None:
    assert book.find(provider, model) is None
    assert cost_of(book, provider, model, 10, 10) is None


@pytest.mark.parametrize("model", ["gemma-3-270m", "storyteller", "ft:gemma-3-270m:fabula:ultraman:AbC123"])
def test_the_engines_models_are_local_and_free(book: PriceBook, model: str) -> None:
    price = book.find("engine", model)
    assert price is not None
    assert price.local
    assert price.training_per_mtok == 0
    assert cost_of(book, "engine", model, 1_000, 1_000) == 0
    assert cost_of(book, "engine", model, None, None) == 0
    assert training_cost(book, "engine", model, None) == 0
    assert not book.stale(price)


def test_training_further_costs_the_same_as_training_the_base(book: PriceBook) -> None:
    assert training_cost(book, "openai", "ft:gpt-4o-mini-2024-07-18:org::a", 1_000_000) == 3
    assert training_cost(book, "openai", "gpt-4o-mini-2024-07-18", 1_000_000) == 3
    assert training_cost(book, "openai", "gpt-5", 1_000_000) is None
    assert training_cost(book, "openai", "gpt-4o-mini-2024-07-18", None) is None


# --- costs ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_costs_are_exact(prompt: int, completion: int) -> None:
    book = PriceBook((_row(input_per_mtok=Decimal("0.15"), output_per_mtok=Decimal("0.6")),), None, date(2026, 11, 21))
    cost = cost_of(book, "p", "m", prompt, completion)
    assert cost is not None
    assert cost * 1_000_000 * 100 == 15 * prompt + 60 * completion


@pytest.mark.parametrize(
    ("price", "prompt", "completion", "cost"),
    [
        (_row(), None, 5, None),  # a token count is not known
        (_row(output_per_mtok=None), 5, 5, None),  # the output price is missing
        (_row(output_per_mtok=None), 5, 0, Decimal("0.000005")),  # not needed for 0 tokens
        (_row(currency="CNY"), 5, 5, None),  # not dollars
    ],
)
def test_an_unknown_part_makes_the_cost_unknown(
    price: Price, prompt: int | None, completion: int | None, cost: Decimal | None
) -> None:
    assert cost_of(PriceBook((price,), None, date(2026, 11, 21)), "p", "m", prompt, completion) == cost


@pytest.mark.parametrize(
    ("options", "cost"),
    [
        ({}, "2.2"),
        ({"cached_tokens": 500_000}, "1.75"),
        ({"cached_tokens": 5_000_000}, "1.3"),  # at most the number of prompt tokens
        ({"cached_tokens": -5}, "2.2"),
        ({"batch": True}, "1.1"),
        ({"batch": True, "cached_tokens": 500_000}, "1.1"),  # no cache discount in batches
    ],
)
def test_cached_input_and_batches_have_their_own_prices(options: dict[str, int], cost: str) -> None:
    row = _row(
        cached_input_per_mtok=Decimal("0.1"), batch_input_per_mtok=Decimal("0.5"), batch_output_per_mtok=Decimal("1"),
        output_per_mtok=Decimal(2),
    )  # fmt: skip
    book = PriceBook((row,), None, date(2026, 11, 21))
    assert cost_of(book, "p", "m", 1_000_000, 600_000, **options) == Decimal(cost)  # type: ignore[arg-type]  # a table


def test_a_batch_without_a_price_is_unknown() -> None:
    assert cost_of(PriceBook((_row(),), None, date(2026, 11, 21)), "p", "m", 1, 1, batch=True) is None


@pytest.mark.parametrize(("prompt", "completion"), [(-1, 5), (5, -1)])
def test_a_count_below_zero_is_no_count(prompt: int, completion: int) -> None:
    book = PriceBook((_row(),), None, date(2026, 11, 21))
    assert cost_of(book, "p", "m", prompt, completion) is None
    assert training_cost(book, "p", "m", -1) is None


_PRICED = ["gpt-5.4", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo"]


@pytest.mark.parametrize("model", _PRICED)
@pytest.mark.parametrize(
    ("prompt", "cached", "completion"),
    [(0, 0, 0), (120, 0, 400), (272_000, 0, 9), (272_001, 100, 9), (10**6, 10**6, 1)],
)
def test_call_costs_match_genai_prices(book: PriceBook, model: str, prompt: int, cached: int, completion: int) -> None:
    usage = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
    expected = calc_price(usage, model_ref=model, provider_id="openai", genai_request_timestamp=_NOW).total_price
    assert cost_of(book, "openai", model, prompt, completion, cached_tokens=cached) == expected


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "gpt-5.4"])
def test_batch_costs_match_genai_prices(book: PriceBook, model: str) -> None:
    expected = calc_price(
        Usage(input_tokens=120, output_tokens=400), model_ref=model, provider_id="openai", genai_request_timestamp=_NOW,
        price_context={"processing": "batch"},
    ).total_price  # fmt: skip
    assert cost_of(book, "openai", model, 120, 400, batch=True) == expected


_TOKENS = st.integers(0, 10**7)


@given(_TOKENS, _TOKENS, _TOKENS, _TOKENS)
def test_costs_are_monotone_and_additive(prompt: int, more: int, completion: int, longer: int) -> None:
    flat = PriceBook((_row(),), None, date(2026, 11, 21))
    one, two = cost_of(flat, "p", "m", prompt, completion), cost_of(flat, "p", "m", more, longer)
    both = cost_of(flat, "p", "m", prompt + more, completion + longer)
    assert one is not None and two is not None and both == one + two >= max(one, two)


@given(prompt=_TOKENS, more=_TOKENS, completion=_TOKENS)
def test_long_prompts_are_never_cheaper(book: PriceBook, prompt: int, more: int, completion: int) -> None:
    shorter, longer = (cost_of(book, "openai", "gpt-5.4", tokens, completion) for tokens in (prompt, prompt + more))
    assert shorter is not None and longer is not None and shorter <= longer


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_training_is_monotone_and_additive(one: int, two: int) -> None:
    book = PriceBook((_row(base_model="b", training_per_mtok=Decimal("0.48")),), None, date(2026, 11, 21))
    first, second, both = (training_cost(book, "p", "b", tokens) for tokens in (one, two, one + two))
    assert first is not None and second is not None and both == first + second


def test_comparison_is_sorted_and_unknown_stays_unknown() -> None:
    rows = (_row(model="dear", output_per_mtok=Decimal(9)), _row(), _row(model="dark", output_per_mtok=None))
    lines = compare(PriceBook(rows, None, date(2026, 11, 21)), ("p", "m"), 1_000_000, prices=rows)
    assert [(line.model, line.multiple) for line in lines] == [("m", 1), ("dear", Decimal("4.5")), ("dark", None)]
    assert lines[-1].output is None


@pytest.mark.parametrize("baseline", [("p", "gone"), ("p", "free")])
def test_an_unknown_or_free_baseline_gives_no_multiples(baseline: tuple[str, str]) -> None:
    rows = (_row(), _row(model="free", output_per_mtok=Decimal(0)))
    lines = compare(PriceBook(rows, None, date(2026, 11, 21)), baseline, prices=rows)
    assert all(line.multiple is None for line in lines)


def test_currencies_are_not_compared() -> None:
    rows = (_row(), _row(model="yuan", currency="CNY"))
    lines = compare(PriceBook(rows, None, date(2026, 11, 21)), ("p", "m"), prices=rows)
    assert {line.model: line.multiple for line in lines} == {"m": 1, "yuan": None}


_RATE = ExchangeRate("CNY", Decimal(7), "test", date(2026, 11, 1))


def test_a_stated_rate_makes_currencies_comparable() -> None:
    rows = (_row(), _row(model="yuan", currency="CNY", output_per_mtok=Decimal(7)), _row(model="lira", currency="TRY"))
    book = PriceBook(rows, None, date(2026, 11, 21))
    in_usd = {line.model: line for line in compare(book, ("p", "m"), 1_000_000, prices=rows, rate=_RATE)}
    assert {name: line.multiple for name, line in in_usd.items()} == {"m": 1, "yuan": Decimal("0.5"), "lira": None}
    assert (in_usd["yuan"].output, in_usd["yuan"].currency) == (1, "USD")
    assert (in_usd["lira"].output, in_usd["lira"].currency) == (2, "TRY")  # not converted, and last
    assert list(in_usd)[-1] == "lira"
    in_cny = {
        line.model: line for line in compare(book, ("p", "m"), 1_000_000, prices=rows, currency="CNY", rate=_RATE)
    }
    assert (in_cny["m"].output, in_cny["yuan"].output) == (14, 7)
    assert in_cny["yuan"].multiple == Decimal("0.5")


@pytest.mark.parametrize(
    ("amount", "currency", "to", "rate", "expected"),
    [
        (Decimal(2), "USD", "USD", None, Decimal(2)),
        (Decimal(2), "USD", "CNY", _RATE, Decimal(14)),
        (Decimal(14), "CNY", "USD", _RATE, Decimal(2)),
        (Decimal(2), "USD", "CNY", None, None),
        (Decimal(2), "EUR", "CNY", _RATE, None),
        (None, "USD", "CNY", _RATE, None),
    ],
)
def test_nothing_is_converted_without_a_rate(
    amount: Decimal | None, currency: str, to: str, rate: ExchangeRate | None, expected: Decimal | None
) -> None:
    assert convert(amount, currency, to, rate) == expected


@pytest.mark.parametrize("per_usd", ["0", "-7", "NaN", "Infinity"])
def test_a_rate_is_above_zero(per_usd: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        ExchangeRate("CNY", Decimal(per_usd), "test", date(2026, 11, 1))


def test_the_baseline_is_added_when_it_is_not_among_the_rows(book: PriceBook) -> None:
    lines = compare(book, ("openai", "gpt-4o-mini"), prices=[_row()])
    assert [line.key for line in lines if line.is_baseline] == [("openai", "gpt-4o-mini")]


def test_old_rows_say_so(book: PriceBook) -> None:
    lines = {line.key: line for line in compare(book, _TURBO_2023)}
    assert lines[_TURBO_2023].stale
    assert lines[_TURBO_2023].price_expired and not lines[_TURBO_2023].ended  # the price expired, the model did not
    assert lines[_DAVINCI_003].ended
    today = lines["openai", "ft:gpt-4o-mini-2024-07-18"]
    assert not today.stale
    assert not today.ended
    later = PriceBook.load(now=datetime(2027, 3, 1, tzinfo=UTC))
    assert later.stale(today.price)
    assert later.ended(today.price)


@pytest.mark.parametrize(
    ("model", "cost"), [("tts-1", "0.0045"), ("tts-1-hd", "0.009"), ("gpt-4o-mini-tts", None), ("gpt-4o-mini", None)]
)
def test_reading_aloud_costs_by_the_character_or_an_unknown_amount(
    book: PriceBook, model: str, cost: str | None
) -> None:
    assert speech_cost(book, "openai", model, "字" * 300) == (None if cost is None else Decimal(cost))


# --- price files ----------------------------------------------------------------------------------------------------


def test_every_shipped_row_has_a_source_and_a_date_and_no_zero() -> None:
    rows = read_prices(OVERLAY)
    assert len(rows) > 100
    for row in rows:
        assert row.source.startswith("https://"), row.where
        assert date(2023, 1, 1) <= row.checked <= date(2026, 11, 22), row.where
        assert row.amount is None or row.amount > 0, row.where
        assert row.model == (f"ft:{row.base_model}" if row.base_model else row.model), row.where


@pytest.mark.parametrize(
    ("model", "training", "output"), [("qwen3-8b", "6", "2"), ("qwen2.5-72b-instruct", "150", "12")]
)
def test_dashscope_trains_in_yuan_and_costs_no_dollars(book: PriceBook, model: str, training: str, output: str) -> None:
    price = book.training_price("dashscope", model)
    assert price is not None and price.currency == "CNY"
    assert (price.training_per_mtok, price.output_per_mtok) == (Decimal(training), Decimal(output))
    assert training_cost(book, "dashscope", model, 1_000_000) is None  # no exchange rate: unknown


def test_openais_tuned_models_have_their_last_days(book: PriceBook) -> None:
    tuned = [price for price in book.overlay if price.provider == "openai" and price.training_per_mtok is not None]
    assert {price.training_until for price in tuned} == {date(2027, 1, 6)}
    assert {price.valid_until for price in tuned} == {date(2027, 1, 14)}
    retired = book.find("openai", "ft:gpt-3.5-turbo-0125:org::a")
    assert retired is not None and retired.valid_until == date(2026, 10, 23) and book.ended(retired)


@pytest.mark.parametrize(
    ("model", "last_day"),
    [("gpt-5", date(2026, 12, 11)), ("gpt-4o", date(2027, 1, 14)), ("gpt-5.1", date(2027, 4, 1))],
)
def test_last_days_apply_to_models_priced_elsewhere(book: PriceBook, model: str, last_day: date) -> None:
    price = book.find("openai", model)
    assert price is not None and price.source.startswith("genai-prices")
    assert price.valid_until == last_day
    assert next(row for row in book.rows(["openai"]) if row.model == model).valid_until == last_day


def _price_file(home: Path, *lines: str) -> None:
    home.mkdir()
    header = OVERLAY.read_text(encoding="utf-8").splitlines()[0]
    (home / "prices.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8-sig")


def test_own_prices_win(home: Path) -> None:
    _price_file(
        home,
        "gpt-4o-mini,openai,,input,7,USD,mtok,,,contract,2026-11-20,",
        "mine,house,,output,0.001,USD,ktok,,,me,2026-11-20,",
        "mine,house,,input,1,USD,mtok,,,me,2026-11-20,",
    )
    book = PriceBook.load(FolderStorage(home), _NOW)
    assert cost_of(book, "openai", "gpt-4o-mini", 1_000_000, 0) == 7
    assert cost_of(book, "openai", "gpt-4o-mini", 0, 1_000_000) == Decimal("0.6")  # other amounts are unchanged
    price = book.find("openai", "gpt-4o-mini")
    assert price is not None and price.own and price.source == "contract"
    assert cost_of(book, "house", "mine", 0, 1_000_000) == 1
    assert training_cost(book, "openai-2023", "curie", 1_229_945) == Decimal("3.689835")


def test_amounts_follow_each_other_by_date(home: Path) -> None:
    _price_file(
        home,
        "m,p,,input,1,USD,mtok,,2026-10-31,old,2026-10-01,",
        "m,p,,input,2,USD,mtok,2026-11-01,2026-11-30,now,2026-11-01,",
        "m,p,,input,3,USD,mtok,2026-12-01,,soon,2026-11-01,",
    )
    for day, amount in ((date(2026, 10, 31), 1), (date(2026, 11, 21), 2), (date(2026, 12, 1), 3)):
        price = PriceBook.load(FolderStorage(home), datetime(day.year, day.month, day.day, tzinfo=UTC)).find("p", "m")
        assert price is not None and price.input_per_mtok == amount


def test_expired_amounts_are_marked_and_future_ones_ignored(home: Path) -> None:
    _price_file(
        home,
        "past,p,,input,1,USD,mtok,,2026-10-31,s,2026-10-01,",
        "next,p,,input,1,USD,mtok,2026-12-01,,s,2026-10-01,",
    )
    book = PriceBook.load(FolderStorage(home), _NOW)
    past = book.find("p", "past")
    assert past is not None and book.price_expired(past) and not book.ended(past)
    assert book.find("p", "next") is None


_GOOD = "m,p,,input,1,USD,mtok,,,s,2026-11-20,"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["m,p,,input,cheap,USD,mtok,,,s,2026-11-20,"], "line 2: “cheap” in “amount” is not a number"),
        (["m,p,,input,-1,USD,mtok,,,s,2026-11-20,"], "line 2: “-1” in “amount” is not a price"),
        (["m,p,,input,NaN,USD,mtok,,,s,2026-11-20,"], "line 2: “NaN” in “amount” is not a price"),
        (["m,p,,input,1000000,USD,mtok,,,s,2026-11-20,"], "is far above any known price"),
        (["m,p,,batch_factor,5,,factor,,,s,2026-11-20,"], "is far above any known price"),
        (["m,p,,input,1,USD,hour,,,s,2026-11-20,"], "“input” is not priced per “hour”"),
        (["m,p,,lunch,1,USD,mtok,,,s,2026-11-20,"], "“lunch” in “kind” is not one of"),
        (["m,p,,input,1,dollars,mtok,,,s,2026-11-20,"], "“dollars” in “currency” is not a code"),
        (["m,p,,input,1,USD,mtok,,,s,20.11.2026,"], "line 2: “20.11.2026” in “checked” is not a date"),
        (["m,p,,input,1,USD,mtok,2026-12-01,2026-11-01,s,2026-11-20,"], "“valid_from” is after “valid_until”"),
        (["m,p,,input,1,USD,mtok,,,,2026-11-20,"], "line 2: “source” is empty"),
        (["m,p,,input,1,USD,mtok,,,s,,"], "line 2: “checked” is empty"),
        (["m,p,,use,,,,,,s,2026-11-20,"], "“use” needs a last day"),
        (["m"], "line 2: “provider” is empty"),
        ([_GOOD, _GOOD], "line 2 and prices.csv, line 3 give two amounts of “input” for m"),
        (
            ["m,p,,input,1,USD,mtok,,2026-11-30,s,2026-11-20,", "m,p,,input,2,USD,mtok,2026-11-30,,s,2026-11-20,"],
            "give two amounts of “input” for m",
        ),
        ([_GOOD, "m,p,,output,1,CNY,mtok,,,s,2026-11-20,"], "price m in"),
    ],
)
def test_a_bad_price_file_names_its_line(home: Path, lines: list[str], says: str) -> None:
    _price_file(home, *lines)
    with pytest.raises(BadFile) as caught:
        PriceBook.load(FolderStorage(home), _NOW)
    assert says in caught.value.what
    assert caught.value.next_step


@pytest.mark.parametrize("data", [b"model,price\nm,1\n", b"", b"\xff\xfe\x00", b"model,provider\n"])
def test_a_file_that_is_no_price_list_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes(data)
    with pytest.raises(BadFile):
        read_prices(path)


# --- tokens and estimates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "tokens_counted", "exact"),
    [
        ("gpt-4o-mini", 2, True),
        ("ft:gpt-3.5-turbo-0125:org::a", 2, True),
        ("gemma-3-270m", 2, False),
        ("curie", 2, False),
    ],
)
def test_tokens_are_counted_offline(model: str, tokens_counted: int, exact: bool) -> None:
    assert tokens.count(["hello world"], model) == tokens.TokenCount(tokens_counted, exact)


def test_no_texts_have_no_tokens() -> None:
    assert tokens.count([], "gpt-4o-mini").tokens == 0
    assert tokens.count(["", "<|endoftext|>"], "gpt-4o-mini").tokens > 1  # markup in data counts as the text it is


def test_a_data_set_is_measured_by_its_average_example() -> None:
    found = tokens.measure(["hello world"] * 3, ["hello", "hello world", "hello world hello world"], "gpt-4o-mini")
    assert found == tokens.DatasetTokens(
        mean_prompt_tokens=2, mean_completion_tokens=2, total=13, examples=3, exact=True
    )
    with pytest.raises(ValueError, match="at least one"):
        tokens.measure([], [], "gpt-4o-mini")


def test_an_estimate_of_many_short_prompts_pays_no_long_prompts_price(book: PriceBook) -> None:
    found = price_book.estimate_generation(
        book, "openai", "gpt-5.4", requests=10_000, prompt_tokens_each=100, completion_tokens_each=100, max_tokens=200
    )
    assert found.expected_usd == Decimal("17.5")


def test_an_estimate_names_its_worst_case(book: PriceBook) -> None:
    found = price_book.estimate_generation(
        book,
        "openai",
        "gpt-4o-mini",
        requests=486,
        prompt_tokens_each=120,
        completion_tokens_each=400,
        max_tokens=2048,
    )
    assert found.expected_usd == Decimal("0.125388")
    assert found.worst_usd == Decimal("0.6059448")
    assert (found.prompt_tokens, found.completion_tokens) == (58_320, 194_400)


def test_the_cost_of_training_and_its_last_day(book: PriceBook) -> None:
    model, price = "gpt-4o-mini-2024-07-18", book.training_price("openai", "gpt-4o-mini-2024-07-18")
    assert training_cost(book, "openai", model, 800_000) == Decimal("2.4")
    assert price is not None and (price.local, price.training_until) == (False, date(2027, 1, 6))
    free = book.training_price("engine", "gemma-3-270m")
    assert training_cost(book, "engine", "gemma-3-270m", 800_000) == 0
    assert free is not None and (free.local, free.training_until) == (True, None)
    assert training_cost(book, "openai", "gpt-5", 1) is None


# --- the ledger -----------------------------------------------------------------------------------------------------


def _spend(store: Store, cost: str | None, reference: str = "run-1", model: str = "gpt-4o-mini") -> int:
    with store.session() as session:
        return spend.record(
            session,
            LOCAL,
            "dataset",
            provider="openai",
            model=model,
            reference=reference,
            prompt_tokens=10,
            completion_tokens=None if cost is None else 20,
            cost_usd=None if cost is None else Decimal(cost),
        )


def test_spend_sums_are_exact_and_unknown_is_counted_apart(settings: Settings) -> None:
    store = Store.open(settings)
    since = datetime.now(UTC) - timedelta(minutes=1)
    for cost in (*["0.1"] * 3, "0.000000000000000001", None):
        _spend(store, cost)
    _spend(store, "5", reference="run-2", model="gpt-4.1")
    every = spent(store, since)
    assert every.cost_usd == Decimal("5.300000000000000001")
    assert (every.calls, every.unknown) == (6, 1)
    one = spent(store, since, reference="run-1")
    assert one.cost_usd == Decimal("0.300000000000000001")
    assert (one.prompt_tokens, one.completion_tokens) == (50, 80)
    assert spent(store, datetime.now(UTC) + timedelta(minutes=1)).calls == 0


def test_a_reservation_is_settled_with_the_actual_cost(settings: Settings) -> None:
    store = Store.open(settings)
    since = datetime.now(UTC) - timedelta(minutes=1)
    reserved = _spend(store, "0.5")
    with store.session() as session:
        spend.settle(session, reserved, prompt_tokens=11, completion_tokens=7, cost_usd=Decimal("0.02"))
    line = spent(store, since)
    assert (line.cost_usd, line.prompt_tokens, line.completion_tokens) == (Decimal("0.02"), 11, 7)
