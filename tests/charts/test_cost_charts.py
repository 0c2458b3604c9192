"""Charts of the cost page: valid Vega-Lite with the right rows, no theme, and no unknown values shown as 0."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import altair as alt
import pytest

from core.charts import cost
from core.charts.vega_lite import CONFIG, Spec
from core.pricing import workload
from core.pricing.comparison import compare
from core.pricing.price_book import PriceBook
from core.pricing.prices import Price
from core.pricing.quality import Quality
from core.pricing.spend_history import DayLine
from core.pricing.workload import BreakEven, Candidate, Costs

_PRICES = cost.PriceLabels(
    "USD per 1k", "Model", "Multiple", "List", "your price", "machine time", "retired", "old price"
)
_DAYS = cost.SpendingLabels("Day", "USD", "Model", "other models")
_QUALITY = cost.QualityLabels("USD a story", "Quality", "Model", "Rounds", ("votes", "evaluation"), "free")


def _valid(spec: Spec) -> None:
    plain = json.loads(json.dumps(spec, allow_nan=False))
    alt.LayerChart.from_dict({**plain, "data": {"values": plain["data"]["values"][:5]}})
    text = json.dumps(plain)
    assert plain["config"] == CONFIG and '"font"' not in text and "#" not in text


def _price(model: str, output: str | None, **more: Any) -> Price:
    amount = None if output is None else Decimal(output)
    known: dict[str, Any] = {"provider": "p", "currency": "USD", "source": "s", "checked": date(2026, 11, 1), **more}
    return Price(model, known.pop("provider"), amount, amount, None, None, **known)


def test_price_bars_have_multiples_and_leave_out_free_models() -> None:
    rows = (
        _price("base", "2"),
        _price("dear", "120", valid_until=date(2024, 1, 4)),
        _price("mine", "1", own=True),
        _price("free", "0"),
        _price("dark", None),
        _price("yuan", "8", currency="CNY"),
    )
    book = PriceBook(rows, None, date(2026, 11, 22))
    spec = cost.price_bars(compare(book, ("p", "base"), prices=rows), _PRICES)
    _valid(spec)
    bars = spec["data"]["values"]
    assert [bar["at_end"] for bar in bars] == ["0.50 × your price", "1 ×", "60 × retired"]
    assert [bar["ended"] for bar in bars] == [False, False, True]
    assert all(bar["start"] == pytest.approx(0.0005) for bar in bars)
    assert spec["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"


@pytest.mark.parametrize(("price", "said"), [("0.009", "0.0045 ×"), ("0.3", "0.15 ×"), ("2", "1 ×"), ("24", "12 ×")])
def test_a_small_multiple_is_not_written_as_nothing(price: str, said: str) -> None:
    rows = (_price("base", "2"), _price("other", price))
    spec = cost.price_bars(compare(PriceBook(rows, None, date(2026, 11, 22)), ("p", "base"), prices=rows), _PRICES)
    assert {row["model"]: row["multiple"] for row in spec["data"]["values"]}["other"] == said


@pytest.mark.parametrize("many", [0, 1, 300])
def test_any_number_of_bars_has_room(many: int) -> None:
    rows = [_price(f"m{i}", str(i + 1)) for i in range(many)]
    book = PriceBook(tuple(rows), None, date(2026, 11, 22))
    spec = cost.price_bars(compare(book, ("p", "m0"), prices=rows), _PRICES)
    _valid(spec)
    assert len(spec["data"]["values"]) == many and spec["height"]["step"] >= 18


def test_bars_are_sorted_by_their_place_also_where_some_of_them_were_there_before() -> None:
    rows = [_price(f"m{price}", str(price)) for price in (3, 1, 2)]
    spec = cost.price_bars(compare(PriceBook(tuple(rows), None, date(2026, 11, 22)), ("p", "m1"), prices=rows), _PRICES)
    sort = spec["layer"][0]["encoding"]["y"]["sort"]  # without a sort field, Vega keeps the order of earlier rows
    places = {bar[sort["field"]]: bar["model"] for bar in spec["data"]["values"]}
    assert [places[place] for place in sorted(places)] == ["m1", "m2", "m3"]


def _costs(name: str, upfront: str | None, each: str) -> Costs:
    candidate = Candidate(name, "tuned")
    return Costs(candidate, Decimal(each), None if upfront is None else Decimal(upfront), Decimal(0), Decimal(30))


def test_each_way_is_a_line_and_each_crossing_a_mark() -> None:
    found = [_costs("tuned", "10", "1"), _costs("base", "0", "2"), _costs("dark", None, "1")]
    crossings = [workload.break_even(found[0], found[1]), BreakEven("never")]
    words = cost.BreakEvenLabels("Requests", "USD", "Way", ("10 requests", ""))
    spec = cost.break_even(found, crossings, 20, words)
    _valid(spec)
    rows = spec["data"]["values"]
    assert [(row["way"], row["requests"], row["total"]) for row in rows if "way" in row] == [
        ("tuned", 0, 10.0), ("tuned", 20, 30.0), ("base", 0, 0.0), ("base", 20, 40.0),
    ]  # fmt: skip
    marks = [row for row in rows if "crossing" in row]
    assert marks == [{"requests": 10, "total": 20.0, "crossing": "10 requests", "of": "tuned"}]


def test_days_stack_the_dearest_models_and_sum_up_the_others() -> None:
    day = datetime(2026, 11, 3, tzinfo=UTC)
    lines = [DayLine(day, "story", "p", f"m{i}", "a", 1, 0, 1, Decimal(i)) for i in range(1, 10)]
    spec = cost.spending_bars(lines, [date(2026, 11, n) for n in (1, 2, 3)], _DAYS)
    _valid(spec)
    by_model = {row["model"]: row["spent"] for row in spec["data"]["values"]}
    assert by_model["other models"] == 6.0 and by_model["m9"] == 9.0 and len(by_model) == 7
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == ["11-01", "11-02", "11-03"]
    _valid(cost.spending_bars([], [date(2026, 11, 1)], _DAYS))
    months = cost.spending_bars(lines, [date(2026, 10, 1), date(2026, 11, 1)], _DAYS, monthly=True)
    assert months["layer"][0]["encoding"]["x"]["scale"]["domain"] == ["2026-10", "2026-11"]
    assert {row["day"] for row in months["data"]["values"]} == {"2026-11"}


def test_quality_needs_a_known_cost_and_free_models_stand_at_the_edge() -> None:
    found = [
        Quality("p", "paid", "votes", "votes", 0.75, 0.3, 0.95, 4, Decimal("0.3")),
        Quality("engine", "free", "evaluation", "accuracy", 0.5, 0.4, 0.6, 50, Decimal(0)),
        Quality("p", "dark", "votes", "votes", 0.5, 0.1, 0.9, 2, None),
    ]
    spec = cost.quality_scatter(found, _QUALITY)
    _valid(spec)
    points = {row["model"]: row for row in spec["data"]["values"]}
    assert set(points) == {"paid", "free"}
    assert points["free"]["cost"] == pytest.approx(0.1) and points["free"]["paid"] == 0
    assert (points["free"]["name"], points["paid"]["name"]) == ("free · free", "paid")
    _valid(cost.quality_scatter([], _QUALITY))
    twins = [Quality("p", name, "votes", "votes", 0.5, 0.1, 0.9, 2, Decimal(1)) for name in ("one", "two")]
    assert [row["name"] for row in cost.quality_scatter(twins, _QUALITY)["data"]["values"]] == ["one, two", ""]
