"""Comparison charts: the curves of several training jobs, and evaluation results with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import altair as alt
import pandas as pd

from core import message
from core.charts.vega_lite import NUMBER, Axis, CurveView, Spec, axis_values, thin, to_spec, with_rows, x_axis
from core.finetuning.results import smooth

Column = Literal["training_loss", "validation_loss", "training_token_accuracy", "validation_token_accuracy"]

_OVERLAY_POINTS = 4_000  # maximum over all lines
_MIN_POINTS = 200  # per line
_OVERLAY_HEIGHT = 320  # px
_NAME_SHARE = 0.28  # share of the x axis reserved for names at the ends of lines
_NAME_PX = 140  # maximum for a name
_NAME_DISTANCE = 0.065  # minimum distance between names, as a share of the value range: one line of text
_INTERVAL_STEP = 46  # px per model


@dataclass(frozen=True, slots=True)
class OverlayLabels:
    """Translated texts: axis titles, and the tooltip title of a line."""

    x: str
    value: str
    job: str


@dataclass(frozen=True, slots=True)
class RunCurve:
    """The curve of one job: a unique name, and a frame as for `core.charts.training_curve.loss_chart`."""

    name: str
    frame: pd.DataFrame


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """A share (0 to 1) with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class IntervalLabels:
    """Translated texts: title of the axis, and tooltip titles."""

    value: str
    name: str
    interval: str


def overlay(runs: Sequence[RunCurve], column: Column, view: CurveView, labels: OverlayLabels) -> Spec:
    """One smoothed line per job with this column, in the order of `runs`, labelled with its name."""
    percent = column.endswith("accuracy")
    max_points = max(_MIN_POINTS, _OVERLAY_POINTS // max(1, len(runs)))
    rows: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    for run in runs:
        line = _line(run.frame, column, view, positive=view.log and not percent)
        if not len(line):
            continue
        thinned = thin(line, "x", "y", max_points)
        rows += [
            {"x": x, "y": float(f"{y:.6g}"), "job": run.name}
            for x, y in zip(thinned["x"].tolist(), thinned["y"].tolist(), strict=True)
        ]
        ends.append({**rows[-1], "end": run.name})
    _separate_labels(ends, [row["y"] for row in rows], log=view.log and not percent)
    last = max((row["x"] for row in rows), default=1.0)
    spec = _overlay_spec(labels, view.axis, view.log and not percent, percent, tuple(run.name for run in runs))
    return with_rows(spec, [*rows, *ends], last, _NAME_SHARE, _NAME_PX)


def intervals(spans: Sequence[IntervalRow], labels: IntervalLabels) -> Spec:
    """One point with its interval for each model, in the order of `spans`, with the share above it."""
    rows = [
        {
            "name": span.name,
            "value": round(span.value, 4),
            "low": round(span.low, 4),
            "high": round(span.high, 4),
            "written": message.percent(span.value),
            "between": f"{message.percent(span.low)} – {message.percent(span.high)}",
        }
        for span in spans
    ]
    return {
        **_interval_spec(labels),
        "data": {"values": rows},
        "height": {"step": _INTERVAL_STEP},
    }


def _line(frame: pd.DataFrame, column: str, view: CurveView, *, positive: bool) -> pd.DataFrame:
    """The known values of a column, smoothed. Validation is not smoothed, because it has few values."""
    if column not in frame or not len(frame):
        return pd.DataFrame({"x": [], "y": []}, dtype="float64")
    line = pd.DataFrame({"x": axis_values(frame, view.axis), "y": frame[column].astype("float64")}).dropna()
    if positive:
        line = line[line["y"] > 0]
    if len(line) and column.startswith("training"):
        line = line.assign(y=smooth(line["y"], view.smoothing))
    return line


def _separate_labels(ends: list[dict[str, Any]], values: Sequence[float], *, log: bool) -> None:
    """Move the labels at the ends of lines up or down, as little as possible, until they do not overlap.

    Args:
        values: values of all lines; their range defines the height of a line of text.
    """
    if len(ends) < 2:
        return
    scale, inverse = (math.log10, lambda y: 10**y) if log else (float, float)
    value_range = (scale(max(values)) - scale(min(values))) or 1.0
    # so that many labels do not extend beyond the chart
    min_distance = value_range * min(_NAME_DISTANCE, 1 / len(ends))
    groups: list[tuple[float, list[dict[str, Any]]]] = []  # (middle, labels) of groups of adjacent labels
    for end in sorted(ends, key=lambda label: label["y"]):
        middle, names = scale(end["y"]), [end]
        while groups and middle - groups[-1][0] < min_distance * (len(names) + len(groups[-1][1])) / 2:
            lower_middle, lower_names = groups.pop()
            middle = (middle * len(names) + lower_middle * len(lower_names)) / (len(names) + len(lower_names))
            names = [*lower_names, *names]
        groups.append((middle, names))
    for middle, names in groups:
        for index, end in enumerate(names):
            end["y"] = inverse(middle + (index - (len(names) - 1) / 2) * min_distance)


@cache
def _overlay_spec(labels: OverlayLabels, axis: Axis, log: bool, percent: bool, names: tuple[str, ...]) -> Spec:
    x = x_axis(axis, labels.x)
    y = alt.Y(
        "y:Q",
        title=labels.value,
        scale=alt.Scale(type="log") if log else alt.Scale(zero=False),
        axis=alt.Axis(format=".0%" if percent else NUMBER, tickCount=5),
    )
    colour = alt.Color("job:N", scale=alt.Scale(domain=list(names)), legend=None)
    base = alt.Chart(alt.NamedData("rows"))
    line = base.transform_filter("!isValid(datum.end)")
    tooltip = [
        alt.Tooltip("job:N", title=labels.job),
        alt.Tooltip("x:Q", title=labels.x, format=",d" if axis in ("step", "tokens") else ".2f"),
        alt.Tooltip("y:Q", title=labels.value, format=".1%" if percent else ".4f"),
    ]
    hover = alt.selection_point(name="hover", on="pointerover", nearest=True, empty=False)
    chart = alt.layer(
        line.mark_line(strokeWidth=2.2, clip=True).encode(x=x, y=y, color=colour),
        line.mark_point(size=70, filled=True)
        .encode(x=x, y=y, color=colour, tooltip=tooltip, opacity=alt.condition(hover, alt.value(1), alt.value(0)))
        .add_params(hover),
        base.transform_filter("isValid(datum.end)")
        .mark_text(align="left", dx=6, fontSize=12, fontWeight="bold", limit=_NAME_PX)
        .encode(x=x, y=y, color=colour, text="end:N"),
    ).properties(height=_OVERLAY_HEIGHT)
    return to_spec(chart)


@cache
def _interval_spec(labels: IntervalLabels) -> Spec:
    name = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=320, ticks=False))
    share = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format=".0%", tickCount=5)
    tooltip = [
        alt.Tooltip("name:N", title=labels.name),
        alt.Tooltip("value:Q", title=labels.value, format=".1%"),
        alt.Tooltip("between:N", title=labels.interval),
    ]
    colour = alt.Color("name:N", sort=None, legend=None)
    base = alt.Chart(alt.NamedData("rows"))
    chart = alt.layer(
        base.mark_rule(strokeWidth=3, opacity=0.5).encode(
            x=alt.X("low:Q", title=labels.value, scale=share, axis=axis),
            x2="high:Q",
            y=name,
            color=colour,
            tooltip=tooltip,
        ),
        base.mark_point(size=140, filled=True, opacity=1).encode(
            x=alt.X("value:Q", scale=share), y=name, color=colour, tooltip=tooltip
        ),
        base.mark_text(dy=-14, fontSize=13, fontWeight="bold").encode(
            x=alt.X("value:Q", scale=share), y=name, color=colour, text="written:N"
        ),
    )
    return to_spec(chart)
