"""Charts are plain Vega-Lite: right data, thinned with their extremes, and no look of their own."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import charts
from core.cost.book import PriceBook, compare
from core.cost.prices import Price
from core.training.results import COLUMNS

_WORDS = charts.CurveLabels(step="Step", value="Loss", training="Training", validation="Validation")
_PRICE_WORDS = charts.PriceLabels(price="USD per 1k", model="Model", multiple="Multiple", provider="List")


def _frame(steps: int, validation_every: int = 0) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    frame = pd.DataFrame({name: np.full(steps, np.nan) for name in COLUMNS})
    frame["step"] = step
    frame = frame.astype({"step": "Int64"})
    frame["training_loss"] = 3 / np.sqrt(step)
    frame["training_token_accuracy"] = 1 - 0.5 / np.sqrt(step)
    if validation_every:
        frame.loc[step % validation_every == 0, ["validation_loss", "validation_token_accuracy"]] = 0.5
    return frame


def _rows(spec: charts.Spec, kind: str, *, ends: bool = False) -> list[dict[str, Any]]:
    return [row for row in spec["data"]["values"] if row["kind"] == kind and ("end" in row) == ends]


def _valid(spec: charts.Spec) -> None:
    """It is JSON, and Vega-Lite's own schema accepts it (checked on a few rows: the schema is slow on thousands)."""
    plain = json.loads(json.dumps(spec, allow_nan=False))
    alt.LayerChart.from_dict({**plain, "data": {"values": plain["data"]["values"][:5]}})


@pytest.mark.parametrize("steps", [0, 1, 2, 2000, 2001, 10_000])
@pytest.mark.parametrize("chart", [charts.loss_chart, charts.accuracy_chart])
def test_a_curve_of_any_length_is_valid_and_bounded(steps: int, chart: Any) -> None:
    spec = chart(_frame(steps, validation_every=100), 0.6, _WORDS)
    _valid(spec)
    assert len(_rows(spec, "raw")) == min(steps, charts.MOST_POINTS)
    assert len(_rows(spec, "smooth")) == min(steps, charts.MOST_POINTS)
    assert len(_rows(spec, "validation")) == steps // 100


def test_a_curve_says_its_last_smoothed_value() -> None:
    frame = _frame(3, validation_every=3)
    loss = charts.loss_chart(frame, 0.0, _WORDS)
    assert [row["end"] for row in _rows(loss, "smooth", ends=True)] == ["1.73"]
    assert [row["end"] for row in _rows(loss, "validation", ends=True)] == ["0.50"]
    accuracy = charts.accuracy_chart(frame, 0.0, _WORDS)
    assert [row["end"] for row in _rows(accuracy, "smooth", ends=True)] == ["71.1%"]


def test_words_are_the_callers() -> None:
    words = charts.CurveLabels(step="步", value="损失", training="训练", validation="验证", description="说明")
    text = json.dumps(charts.loss_chart(_frame(5, 1), 0.5, words), ensure_ascii=False)
    assert all(word in text for word in ("步", "损失", "训练", "验证"))
    assert "说明" not in text  # the page gives it as alt; Streamlit warns of two descriptions


def test_one_curve_does_not_leak_into_the_next() -> None:
    long, short = charts.loss_chart(_frame(50), 0.5, _WORDS), charts.loss_chart(_frame(5), 0.5, _WORDS)
    assert (len(_rows(long, "raw")), len(_rows(short, "raw"))) == (50, 5)
    assert long["params"] != short["params"]


def test_no_chart_paints_a_background_or_sets_a_font() -> None:
    frame, lines = _frame(5, 1), compare(_book(), ("p", "a"), prices=_book().overlay)
    for spec in (
        charts.loss_chart(frame, 0.5, _WORDS),
        charts.price_bars(lines, _PRICE_WORDS),
    ):
        _valid(spec)
        assert {"background", "config", "datasets", "description"}.isdisjoint(spec)
        assert '"font"' not in json.dumps(spec)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2001, 6000), peak=st.integers(1, 999), pit=st.integers(1, 999))
def test_thinning_keeps_first_last_and_extremes(seed: int, size: int, peak: int, pit: int) -> None:
    values = np.random.default_rng(seed).normal(size=size)
    values[peak], values[size - 1 - pit] = 1e9, -1e9
    kept = charts.thin(pd.DataFrame({"x": np.arange(size), "y": values}), "x", "y")
    assert len(kept) <= charts.MOST_POINTS
    assert {0, size - 1, peak, size - 1 - pit} <= set(kept["x"])
    assert kept["x"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("values", "weight", "expected"),
    [
        ([1, 2, 3], 0.0, [1, 2, 3]),
        ([1, 3], 0.5, [1, (0.5 * 1 + 3) / 1.5]),
        ([2, 2, 2], 0.9, [2, 2, 2]),
        ([1, np.nan, 3], 0.5, [1, np.nan, (0.5 * 1 + 3) / 1.5]),
    ],
)
def test_smoothing_is_the_unbiased_moving_average(values: list[float], weight: float, expected: list[float]) -> None:
    np.testing.assert_allclose(charts.smooth(pd.Series(values, dtype=float), weight), expected)


@pytest.mark.parametrize("weight", [-0.1, 1.0, 2.0])
def test_a_smoothing_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="smoothing must be"):
        charts.smooth(pd.Series([1.0]), weight)


# --- bars -----------------------------------------------------------------------------------------------------------


def _book() -> PriceBook:
    def row(model: str, output: str | None) -> Price:
        amount = None if output is None else Decimal(output)
        return Price(model, "p", amount, amount, None, None, "USD", "test", date(2026, 11, 1))

    return PriceBook((row("a", "2"), row("b", "120"), row("c", "12"), row("d", None)), None, date(2026, 11, 21))


def test_price_bars_are_sorted_with_their_multiples_and_leave_out_the_unknown() -> None:
    spec = charts.price_bars(compare(_book(), ("p", "a"), prices=_book().overlay), _PRICE_WORDS)
    rows = [(row["model"], row["multiple"], row["kind"]) for row in spec["data"]["values"]]
    assert rows == [("a", "1 ×", "baseline"), ("c", "6 ×", "other"), ("b", "60 ×", "other")]


@pytest.mark.parametrize(
    ("multiple", "written"),
    [("6", "6 ×"), ("60", "60 ×"), ("1200", "1,200 ×"), ("7.5", "7.5 ×"), ("0.3", "0.30 ×"), ("133.33", "133 ×")],
)
def test_multiples_are_written_as_people_read_them(multiple: str, written: str) -> None:
    assert charts.times(Decimal(multiple)) == written


def test_an_unknown_multiple_is_not_written() -> None:
    assert charts.times(None) == ""
