"""Training charts: valid Vega-Lite with the right data, downsampled with extremes, and no theme."""

from __future__ import annotations

import itertools
import json
import math
import re
from decimal import Decimal
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import message
from core.charts import comparison, cost, lineage, training_curve, vega_lite
from core.charts.comparison import IntervalLabels, IntervalRow, OverlayLabels, RunCurve
from core.charts.lineage import Member
from core.charts.training_curve import CurveMark
from core.charts.vega_lite import CONFIG, CurveView
from core.finetuning import results
from core.finetuning.results import COLUMNS, Results

_WORDS = training_curve.CurveLabels("Step", "Loss", "Training", "Smoothed", "Validation", "Step")
_OVERLAY = OverlayLabels("Step", "Loss", "Job")
_BOTH = [training_curve.loss_chart, training_curve.accuracy_chart]


def _frame(steps: int, validation_every: int = 0) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    frame = pd.DataFrame({name: np.full(steps, np.nan) for name in COLUMNS})
    frame["step"], frame["elapsed_tokens"] = step, step * 500
    frame = frame.astype({"step": "Int64", "elapsed_tokens": "Int64"})
    frame["training_loss"] = 3 / np.sqrt(step)
    frame["training_token_accuracy"] = 1 - 0.5 / np.sqrt(step)
    frame["epoch"], frame["seconds"] = step / 10, step * 6.0
    if validation_every:
        frame.loc[step % validation_every == 0, ["validation_loss", "validation_token_accuracy"]] = 0.5
    return frame


def _rows(spec: vega_lite.Spec, field: str) -> list[dict[str, Any]]:
    return [row for row in spec["data"]["values"] if field in row]


def _valid(spec: vega_lite.Spec) -> None:
    """Check that a spec is JSON and valid against Vega-Lite's schema (with a few rows, because validation is slow)."""
    plain = json.loads(json.dumps(spec, allow_nan=False))
    alt.LayerChart.from_dict({**plain, "data": {"values": plain["data"]["values"][:5]}})


# --- one curve ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 2000, 2001, 10_000])
@pytest.mark.parametrize("chart", _BOTH)
def test_a_curve_of_any_length_is_valid_and_bounded(steps: int, chart: Any) -> None:
    spec = chart(_frame(steps, validation_every=100), CurveView(), _WORDS)
    _valid(spec)
    drawn = len(_rows(spec, "raw"))
    assert drawn == len(_rows(spec, "smooth")) and min(steps, vega_lite.MAX_POINTS - 2) <= drawn <= vega_lite.MAX_POINTS
    assert len(_rows(spec, "valid")) == steps // 100


@pytest.mark.parametrize("axis", vega_lite.AXES)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("chart", _BOTH)
def test_every_way_to_look_at_a_curve_is_valid(chart: Any, axis: vega_lite.Axis, log: bool) -> None:
    marks = [CurveMark(10, "checkpoint at step 10"), CurveMark(20, "the second job", "part")]
    _valid(chart(_frame(50, 10), CurveView(axis, 0.5, log), _WORDS, marks))


@pytest.mark.parametrize(
    ("axis", "last"), [("step", 30.0), ("tokens", 15_000.0), ("epoch", 3.0), ("time", 3.0)]
)  # time: 180 s are 3 minutes
def test_a_curve_uses_the_chosen_x_axis(axis: vega_lite.Axis, last: float) -> None:
    spec = training_curve.loss_chart(_frame(30), CurveView(axis), _WORDS)
    assert _rows(spec, "raw")[-1]["x"] == pytest.approx(last)
    end = str(spec["params"][-1]["expr"])
    assert float(end.partition(" ")[0]) == pytest.approx(last) and "max(1.14, " in end


@pytest.mark.parametrize(("steps", "dots"), [(1, True), (12, True), (13, False)])
def test_a_short_curve_is_dots_too(steps: int, dots: bool) -> None:
    layers = training_curve.loss_chart(_frame(steps), CurveView(), _WORDS)["layer"]
    bold = next(layer["mark"] for layer in layers if layer["mark"].get("strokeWidth") == 2.5)
    assert bool(bold.get("point")) is dots


@pytest.mark.parametrize("chart", _BOTH)
def test_one_step_has_an_axis_that_people_can_read(chart: Any) -> None:
    spec = chart(_frame(1), CurveView(), _WORDS)
    value = _rows(spec, "raw")[0]["raw"]
    ends = [row["y"] for row in spec["data"]["values"] if row.get("end") == ""]
    reach = 0.05 * value if chart is training_curve.loss_chart else 0.05
    assert ends == [pytest.approx(value - reach), pytest.approx(value + reach)]
    assert not [row for row in chart(_frame(30), CurveView(), _WORDS)["data"]["values"] if row.get("end") == ""]


@pytest.mark.parametrize(
    ("values", "axis", "written"),
    [
        ([0.7, 9.8], "step", ["0", "2", "10"]),
        ([0.0, 19.9], "step", ["0", "5", "10", "20"]),
        ([0.7, 0.2], "time", ["0", "10"]),
        ([1e-7, 4e-7], "step", ["1e-7", "4e-7"]),
    ],
)
def test_round_numbers_on_an_axis_are_no_powers_of_ten(
    values: list[float], axis: vega_lite.Axis, written: list[str]
) -> None:
    vl_convert = pytest.importorskip("vl_convert")
    frame = _frame(2)
    frame["training_loss"], frame["seconds"] = values, [60.0, 600.0]
    svg = vl_convert.vegalite_to_svg(training_curve.loss_chart(frame, CurveView(axis, 0.0), _WORDS))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert set(written) <= set(texts)
    assert not [text for text in texts if "e+" in text]


def test_axes_of_a_frame() -> None:
    frame = _frame(3)
    assert vega_lite.axes(frame) == ("step", "tokens", "epoch", "time")
    frame["elapsed_tokens"], frame["epoch"] = pd.NA, np.nan
    assert vega_lite.axes(frame.drop(columns="seconds")) == ("step",)
    assert vega_lite.axes(_frame(0)) == ()


def test_a_curve_says_its_last_smoothed_value() -> None:
    frame = _frame(3, validation_every=3)
    loss = training_curve.loss_chart(frame, CurveView(smoothing=0), _WORDS)
    assert [(row["line"], row["end"]) for row in _rows(loss, "end")] == [("smooth", "1.732"), ("valid", "0.500")]
    accuracy = training_curve.accuracy_chart(frame, CurveView(smoothing=0), _WORDS)
    assert [row["end"] for row in _rows(accuracy, "end")] == ["71.1 %", "50.0 %"]


@pytest.mark.parametrize("chart", _BOTH)
@pytest.mark.parametrize(("steps", "weight"), [(5, 0.0), (19, 0.0), (20, 0.6), (499, 0.6), (500, 0.9), (2_500, 0.9)])
def test_the_number_at_the_end_of_the_bold_line_is_the_figure_of_the_run(chart: Any, steps: int, weight: float) -> None:
    frame = _frame(steps)
    percent = chart is training_curve.accuracy_chart
    column = "training_token_accuracy" if percent else "training_loss"
    found = results.figure(Results(frame, skipped=0), column)
    assert found is not None and results.smoothing_weight(steps) == weight
    for axis in vega_lite.axes(frame):
        for log in (False, True):
            (end,) = _rows(chart(frame, CurveView(axis, weight, log), _WORDS), "end")
            assert end["end"] == (message.percent(found.value) if percent else f"{found.value:.3f}")
    other = 0.3
    assert not _rows(chart(frame, CurveView(smoothing=other), _WORDS), "end")  # no label with other smoothing


def test_values_at_the_ends_of_two_lines_that_meet_can_both_be_read() -> None:
    frame = _frame(18, validation_every=6)
    frame["validation_loss"] = frame["validation_loss"].where(frame["validation_loss"].isna(), 0.72)  # 0.71 trains
    ends = {
        row["line"]: row["y"] for row in _rows(training_curve.loss_chart(frame, CurveView(smoothing=0), _WORDS), "end")
    }
    assert ends["valid"] - ends["smooth"] == pytest.approx(0.08 * (3 - 3 / 18**0.5))


def test_log_scales_leave_out_values_of_zero_or_less() -> None:
    frame = _frame(4)
    frame.loc[1, "training_loss"] = 0.0
    assert len(_rows(training_curve.loss_chart(frame, CurveView(log=True), _WORDS), "raw")) == 3
    assert len(_rows(training_curve.loss_chart(frame, CurveView(), _WORDS), "raw")) == 4
    frame["training_token_accuracy"] = 0.0
    assert len(_rows(training_curve.accuracy_chart(frame, CurveView(log=True), _WORDS), "raw")) == 4


def test_blank_cells_make_no_points() -> None:
    frame = _frame(5)
    frame.loc[[1, 3], "training_loss"] = np.nan
    assert [row["x"] for row in _rows(training_curve.loss_chart(frame, CurveView(), _WORDS), "raw")] == [1, 3, 5]
    frame["training_loss"] = np.nan
    assert training_curve.loss_chart(frame, CurveView(), _WORDS)["data"]["values"] == []


def test_marks_stand_where_their_step_is_and_those_to_come_are_left_out() -> None:
    marks = [CurveMark(3, "three"), CurveMark(5, "five", "part"), CurveMark(9, "not yet")]
    shown = _rows(training_curve.loss_chart(_frame(5), CurveView("tokens"), _WORDS, marks), "mark")
    assert [(row["x"], row["at"], row["kind"]) for row in shown] == [(1500, 3, "checkpoint"), (2500, 5, "part")]


def test_names_of_jobs_that_begin_close_together_stand_on_lines_of_their_own() -> None:
    marks = [CurveMark(step, f"job {step}", "part") for step in (1, 2, 3, 4)]
    shown = _rows(training_curve.loss_chart(_frame(5), CurveView(), _WORDS, marks), "mark")
    assert [row["row"] for row in shown] == [0, 1, 2, 0]


@pytest.mark.parametrize("chart", _BOTH)
def test_nothing_of_a_curve_is_in_vegas_own_black(chart: Any) -> None:
    spec = chart(_frame(10), CurveView(), _WORDS, [CurveMark(5, "five"), CurveMark(1, "first", "part")])
    assert all("color" in layer["encoding"] for layer in spec["layer"])


def test_each_job_of_a_chain_is_smoothed_separately() -> None:
    frame = pd.concat([_frame(5), _frame(5).assign(training_loss=9.0)], ignore_index=True)
    frame["step"], frame["part"] = range(1, 11), [0] * 5 + [1] * 5
    rows = _rows(training_curve.loss_chart(frame, CurveView(smoothing=0.9), _WORDS), "smooth")
    assert [row["smooth"] for row in rows][5:] == [9.0] * 5


def test_words_are_the_callers() -> None:
    words = training_curve.CurveLabels("步", "损失", "训练", "平滑", "验证", "步数", description="说明")
    text = json.dumps(training_curve.loss_chart(_frame(5, 1), CurveView("tokens"), words), ensure_ascii=False)
    assert all(word in text for word in ("步", "损失", "训练", "平滑", "验证", "步数"))
    assert "说明" not in text  # the page passes it as alt; Streamlit warns about two descriptions


def test_one_curve_does_not_leak_into_the_next() -> None:
    view = CurveView()
    long, short = (
        training_curve.loss_chart(_frame(50), view, _WORDS),
        training_curve.loss_chart(_frame(5), view, _WORDS),
    )
    assert (len(_rows(long, "raw")), len(_rows(short, "raw"))) == (50, 5)
    assert long["params"] != short["params"]
    assert [param["name"] for param in short["params"]].count("xEnd") == 1


def test_no_chart_paints_a_background_or_sets_a_font() -> None:
    frame = _frame(5, 1)
    for spec in (
        training_curve.loss_chart(frame, CurveView(), _WORDS, [CurveMark(2, "two")]),
        comparison.overlay([RunCurve("a", frame)], "training_loss", CurveView(), _OVERLAY),
        comparison.intervals([IntervalRow("a", 0.5, 0.4, 0.6)], IntervalLabels("Right", "Model", "95 %")),
    ):
        _valid(spec)
        assert {"background", "datasets", "description"}.isdisjoint(spec) and spec["config"] == CONFIG
        assert '"font"' not in json.dumps(spec)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2001, 6000), peak=st.integers(1, 999), pit=st.integers(1, 999))
def test_thinning_keeps_first_last_and_extremes(seed: int, size: int, peak: int, pit: int) -> None:
    values = np.random.default_rng(seed).normal(size=size)
    values[peak], values[size - 1 - pit] = 1e9, -1e9
    thinned = vega_lite.thin(pd.DataFrame({"x": np.arange(size), "y": values}), "x", "y")
    assert len(thinned) <= vega_lite.MAX_POINTS
    assert {0, size - 1, peak, size - 1 - pit} <= set(thinned["x"])
    assert thinned["x"].is_monotonic_increasing


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
    np.testing.assert_allclose(results.smooth(pd.Series(values, dtype=float), weight), expected)


@pytest.mark.parametrize("weight", [-0.1, 1.0, 2.0])
def test_a_smoothing_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="smoothing must be"):
        results.smooth(pd.Series([1.0]), weight)


# --- several jobs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 2, 8, 30])
@pytest.mark.parametrize("column", ["training_loss", "training_token_accuracy", "validation_loss"])
def test_an_overlay_of_many_jobs_is_valid_and_bounded(runs: int, column: comparison.Column) -> None:
    frame = _frame(5_000, validation_every=50)
    curves = [RunCurve(f"job {n}", frame) for n in range(runs)]
    spec = comparison.overlay(curves, column, CurveView("tokens", 0.6, log=True), _OVERLAY)
    _valid(spec)
    points = [row for row in spec["data"]["values"] if "end" not in row]
    assert len(points) <= max(4_000, 200 * runs) and {row["job"] for row in points} == {c.name for c in curves}
    assert [row["end"] for row in _rows(spec, "end")] == [curve.name for curve in curves]


def test_a_job_without_the_column_has_no_line_and_keeps_the_other_colours() -> None:
    runs = [RunCurve("none", _frame(3)), RunCurve("some", _frame(3, 1)), RunCurve("empty", _frame(0))]
    spec = comparison.overlay(runs, "validation_loss", CurveView(), _OVERLAY)
    assert {row["job"] for row in spec["data"]["values"]} == {"some"}
    assert '"domain": ["none", "some", "empty"]' in json.dumps(spec)


def test_an_overlay_of_nothing_is_valid() -> None:
    _valid(comparison.overlay([], "training_loss", CurveView(), _OVERLAY))


def test_intervals_keep_their_order_and_write_their_share() -> None:
    spans = [IntervalRow("tuned", 0.9, 0.83, 0.95), IntervalRow("base", 0.4, 0.31, 0.5)]
    spec = comparison.intervals(spans, IntervalLabels("Right", "Model", "95 %"))
    _valid(spec)
    rows = [(row["name"], row["written"], row["between"]) for row in spec["data"]["values"]]
    assert rows == [("tuned", "90.0 %", "83.0 % – 95.0 %"), ("base", "40.0 %", "31.0 % – 50.0 %")]


# --- a family -------------------------------------------------------------------------------------------------------

_KINDS = {"dataset": "Data set", "job": "Job", "model": "Model"}
_CHAIN = (("d", "j1"), ("j1", "m1"), ("m1", "j2"), ("e", "j2"), ("j2", "m2"))


@pytest.mark.parametrize(
    ("ids", "edges", "columns"),
    [
        ("", (), {}),
        ("a", (), {"a": 0}),
        ("ab", (("a", "b"),), {"a": 0, "b": 1}),
        ("abc", (("a", "b"), ("b", "c"), ("a", "c")), {"a": 0, "b": 1, "c": 2}),
        ("ab", (("a", "b"), ("b", "a")), {"a": 1, "b": 0}),  # cycles are cut
        ("ab", (("a", "a"), ("x", "b")), {"a": 0, "b": 0}),
    ],
)
def test_descendants_are_further_right(ids: str, edges: tuple[tuple[str, str], ...], columns: dict[str, int]) -> None:
    assert lineage.layers(list(ids), edges) == columns


def test_no_two_stand_in_one_place() -> None:
    ids = [f"{kind}{n}" for n in range(9) for kind in "djm"]
    edges = [(f"d{n % 3}", f"j{n}") for n in range(9)] + [(f"j{n}", f"m{n}") for n in range(9)]
    at = lineage.layout(ids, edges)
    assert len(set(at.values())) == len(ids) and all(row >= 0 for _, row in at.values())


def test_a_family_of_any_size_is_a_valid_picture() -> None:
    members = [Member(one, {"d": "dataset", "e": "dataset", "j": "job", "m": "model"}[one[0]], f"the {one}", "more")
               for one in ("d", "e", "j1", "m1", "j2", "m2")]  # fmt: skip
    for some in (members, members[:1], []):
        spec = lineage.family(some, _CHAIN, _KINDS)
        _valid(spec)
        assert sum("label" in row for row in spec["data"]["values"]) == len(some)
    spec = lineage.family(members, _CHAIN, _KINDS)
    assert sum("from" in row for row in spec["data"]["values"]) == len(_CHAIN)
    assert spec["width"] == 5 * lineage.family(members[:1], [], _KINDS)["width"]


# --- multiples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("multiple", "written"),
    [("6", "6 ×"), ("60", "60 ×"), ("1200", "1,200 ×"), ("7.5", "7.5 ×"), ("0.3", "0.30 ×"), ("133.33", "133 ×")],
)
def test_multiples_are_written_as_people_read_them(multiple: str, written: str) -> None:
    assert cost.format_multiple(Decimal(multiple)) == written


def test_an_unknown_multiple_is_not_written() -> None:
    assert cost.format_multiple(None) == ""


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("ends", [(1.0, 1.0, 1.0), (1.0, 1.01, 3.0), (2.0, 1.99, 2.01, 2.0)])
def test_names_at_the_ends_of_lines_stand_apart_in_the_order_of_the_lines(ends: tuple[float, ...], log: bool) -> None:
    runs = [
        RunCurve(f"job {i}", _frame(2).assign(training_loss=[5.0, end])) for i, end in enumerate(ends)
    ]  # fmt: skip
    spec = comparison.overlay(runs, "training_loss", CurveView("step", 0.0, log=log), _OVERLAY)
    names = [row for row in spec["data"]["values"] if "end" in row]
    places = sorted(math.log10(row["y"]) if log else row["y"] for row in names)
    reach = math.log10(5.0 / min(ends)) if log else 5.0 - min(ends)
    assert all(high - low >= 0.064 * reach for low, high in itertools.pairwise(places))
    by_place = [int(row["end"][4:]) for row in sorted(names, key=lambda row: row["y"])]
    assert [ends[i] for i in by_place] == sorted(ends)
    assert sum(places) == pytest.approx(sum(math.log10(end) if log else end for end in ends), rel=0.02, abs=0.02)
