"""The training curve of one job, or of a chain of jobs: its table and figures, and its charts.

`core.charts.comparison` draws several jobs in one chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from core import message
from core.charts import vega_lite
from core.charts.vega_lite import NUMBER, X_END, Axis, CurveView, Spec, axis_values, thin, to_spec, with_rows, x_axis
from core.finetuning.results import Figure, Results, figure, smooth, smoothing_weight

CHECKPOINT = "checkpoint"
"""Name of the selection made by a click on a checkpoint; its point has the field `at` (a step)."""

_CURVE_HEIGHT = 300  # px
_LABEL_DISTANCE = 0.08  # share of the chart's height: one line of text
_LATE_MARK_SHARE = 0.6  # marks beyond this share of the axis have their label on the left
_LABEL_ROWS, _LABEL_ROW_PX = 3, 15  # labels of neighbouring marks alternate between rows (height in px)
_MAX_DOTTED_POINTS = 12  # short curves also show dots, because a line through one point is not visible
_FLAT_SHARE = 0.01  # relative range below which the axis is widened
_FLAT_MARGIN = 0.05  # margin on both sides: share of the level, or points of accuracy


@dataclass(frozen=True, slots=True)
class CurveLabels:
    """Translated texts of a curve chart.

    Attributes:
        x, value: axis titles.
        training, smoothed, validation: tooltip titles of the three lines.
        step: tooltip title of the step, if the x axis is something else.
        description: text for screen readers, which the page passes as `alt`; not part of the spec.
    """

    x: str
    value: str
    training: str
    smoothed: str
    validation: str
    step: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class CurveMark:
    """A marked step: a checkpoint, or the start of the next job of a chain (`part`)."""

    step: int
    label: str
    kind: Literal["checkpoint", "part"] = "checkpoint"


def loss_chart(frame: pd.DataFrame, view: CurveView, labels: CurveLabels, marks: Sequence[CurveMark] = ()) -> Spec:
    """Training loss (raw thin, smoothed bold) and validation loss, if measured.

    Args:
        frame: `core.finetuning.results.Results.frame` with the column `AXES[view.axis]`; may be empty.
        view: display options.
        labels: translated texts.
        marks: steps to mark.
    """
    return _curve_chart(frame, ("training_loss", "validation_loss"), view, labels, marks, percent=False)


def accuracy_chart(frame: pd.DataFrame, view: CurveView, labels: CurveLabels, marks: Sequence[CurveMark] = ()) -> Spec:
    """Token accuracy in percent; like `loss_chart`, but never on a logarithmic scale."""
    columns = ("training_token_accuracy", "validation_token_accuracy")
    return _curve_chart(frame, columns, replace(view, log=False), labels, marks, percent=True)


def reward_accuracy_chart(
    frame: pd.DataFrame, view: CurveView, labels: CurveLabels, marks: Sequence[CurveMark] = ()
) -> Spec:
    """DPO: share of pairs in which the preferred answer has the higher reward."""
    columns = ("training_reward_accuracy", "validation_reward_accuracy")
    return _curve_chart(frame, columns, replace(view, log=False), labels, marks, percent=True)


def reward_margin_chart(
    frame: pd.DataFrame, view: CurveView, labels: CurveLabels, marks: Sequence[CurveMark] = ()
) -> Spec:
    """DPO: reward of the preferred answer minus that of the other one."""
    columns = ("training_reward_margin", "validation_reward_margin")
    return _curve_chart(frame, columns, replace(view, log=False), labels, marks, percent=False)


def _curve_chart(
    frame: pd.DataFrame,
    columns: tuple[str, str],
    view: CurveView,
    labels: CurveLabels,
    marks: Sequence[CurveMark],
    *,
    percent: bool,
) -> Spec:
    raw = frame[columns[0]].astype("float64")
    lines = pd.DataFrame(
        {
            "x": axis_values(frame, view.axis),
            "step": frame["step"].astype("float64"),
            "raw": raw,
            "smooth": _smoothed(frame, raw, view.smoothing),
            "valid": frame[columns[1]].astype("float64"),
        }
    )
    lines = lines[lines["x"].notna()]
    if view.log:
        values = ["raw", "smooth", "valid"]
        lines[values] = lines[values].where(lines[values] > 0)
    x_columns = ["x"] if view.axis == "step" else ["x", "step"]
    rows = [
        *_records(thin(lines, "x", "raw"), [*x_columns, "raw", "smooth"]),
        *_records(thin(lines, "x", "valid"), [*x_columns, "valid"]),
        *_end_labels(lines, percent, named=view.smoothing == smoothing_weight(len(frame))),
        *_flat_axis_rows(lines, percent),
        *_mark_rows(lines, marks),
    ]
    spec = _curve_spec(replace(labels, description=""), view.axis, view.log, percent, len(lines) <= _MAX_DOTTED_POINTS)
    return with_rows(spec, rows, float(lines["x"].max()) if len(lines) else 1.0)


def _records(frame: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """The data rows. Values are rounded to six significant digits, more than a screen shows."""
    lists = [frame[column].tolist() for column in columns]
    return [
        {name: value if name in _X_FIELDS else float(f"{value:.6g}") for name, value in zip(columns, row, strict=True)}
        for row in zip(*lists, strict=True)
    ]


_X_FIELDS = frozenset({"x", "step"})


def _smoothed(frame: pd.DataFrame, raw: pd.Series[float], weight: float) -> pd.Series[float]:
    """Smooth each job of a chain separately."""
    if "part" not in frame:
        return smooth(raw, weight)
    parts = [smooth(part, weight) for _, part in raw.groupby(frame["part"])]
    return pd.concat(parts) if parts else raw


def _end_labels(lines: pd.DataFrame, percent: bool, *, named: bool) -> list[dict[str, Any]]:
    """Labels with the last value of each bold line. Two labels that would overlap are moved apart.

    The end of the training line is the run's figure (`core.finetuning.results`) only with the default smoothing. With
    other smoothing it has no label (`named` is False).
    """
    labels: list[dict[str, Any]] = []
    for name in ("smooth", "valid") if named else ("valid",):
        known = lines[lines[name].notna()]
        if len(known):
            value = float(known[name].iloc[-1])
            text = message.percent(value) if percent else f"{value:.3f}"
            labels.append({"x": float(known["x"].iloc[-1]), "y": value, "end": text, "line": name})
    if len(labels) == 2:
        low, high = sorted(labels, key=lambda end: float(end["y"]))
        min_distance = _LABEL_DISTANCE * float(
            np.nanmax(lines[["smooth", "valid"]]) - np.nanmin(lines[["smooth", "valid"]])
        )
        overlap = min_distance - (high["y"] - low["y"])
        if overlap > 0:
            high["y"], low["y"] = high["y"] + overlap / 2, low["y"] - overlap / 2
    return labels


def _flat_axis_rows(lines: pd.DataFrame, percent: bool) -> list[dict[str, Any]]:
    """For flat curves or single points, two invisible rows that keep the y axis wide enough."""
    values = lines[["raw", "valid"]].to_numpy().ravel()
    values = values[~np.isnan(values)]
    if not len(values) or np.ptp(values) > _FLAT_SHARE * abs(values).max():
        return []
    level, x = float(values.mean()), float(lines["x"].iloc[-1])
    margin = _FLAT_MARGIN if percent or not level else _FLAT_MARGIN * abs(level)
    bounds = (max(0.0, level - margin), min(1.0, level + margin)) if percent else (level - margin, level + margin)
    return [{"x": x, "y": y, "end": "", "line": "smooth"} for y in bounds]


def _mark_rows(lines: pd.DataFrame, marks: Sequence[CurveMark]) -> list[dict[str, Any]]:
    """Data rows of the marks. Marks beyond the curve are left out."""
    if not len(lines):
        return []
    steps, x_values = lines["step"].to_numpy(), lines["x"].to_numpy()
    rows: list[dict[str, Any]] = []
    for mark in marks:
        index = int(np.searchsorted(steps, mark.step))
        if index < len(x_values):
            rows.append({"x": float(x_values[index]), "at": mark.step, "mark": mark.label, "kind": mark.kind})
    for number, part in enumerate(row for row in rows if row["kind"] == "part"):
        part["row"] = number % _LABEL_ROWS
    return rows


@cache
def _curve_spec(labels: CurveLabels, axis: Axis, log: bool, percent: bool, dots: bool) -> Spec:
    x = x_axis(axis, labels.x)
    number = ".1%" if percent else ".4f"
    step = [] if axis == "step" else [alt.Tooltip("step:Q", title=labels.step, format=",d")]
    x_tooltip = [alt.Tooltip("x:Q", title=labels.x, format=",d" if axis in ("step", "tokens") else ".2f"), *step]
    # A nominal colour without a range uses the theme's palette: first colour training, second validation.
    colour = alt.Color("tone:N", scale=alt.Scale(domain=["training", "validation"]), legend=None)
    base = alt.Chart(alt.NamedData("rows")).transform_calculate(tone=_TONE)
    raw, smoothed, validated, end = (
        {"x": x, "y": _y(field, labels.value, log, percent), "color": colour}
        for field in ("raw", "smooth", "valid", "y")
    )
    training_rows = base.transform_filter("isValid(datum.raw)")
    valid = base.transform_filter("isValid(datum.valid)").mark_line(strokeWidth=2, strokeDash=[5, 3], point=True)
    hover = alt.selection_point(name="hover", on="pointerover", nearest=True, encodings=["x"], empty=False)
    readout = training_rows.mark_rule(strokeWidth=1).encode(
        x=x,
        color=colour,
        opacity=alt.condition(hover, alt.value(0.45), alt.value(0)),
        tooltip=[
            *x_tooltip,
            alt.Tooltip("raw:Q", title=labels.training, format=number),
            alt.Tooltip("smooth:Q", title=labels.smoothed, format=number),
        ],
    )
    ends = base.transform_filter("isValid(datum.end)").mark_text(align="left", dx=6, fontSize=13, fontWeight="bold")
    chart = alt.layer(
        *_marks(base, x, colour),
        training_rows.mark_line(strokeWidth=1, opacity=0.3, clip=True).encode(**raw),
        training_rows.mark_line(strokeWidth=2.5, clip=True, point={"size": 40} if dots else False).encode(**smoothed),
        valid.encode(**validated, tooltip=[*x_tooltip, alt.Tooltip("valid:Q", title=labels.validation, format=number)]),
        readout.add_params(hover),
        ends.encode(**end, text="end:N"),
    ).properties(height=_CURVE_HEIGHT)
    return to_spec(chart)


_TONE = "isValid(datum.valid) || datum.line == 'valid' ? 'validation' : 'training'"


def _y(field: str, title: str, log: bool, percent: bool) -> alt.Y:
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    axis = alt.Axis(format=".0%" if percent else NUMBER, tickCount=5)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=axis)


def _marks(base: alt.Chart, x: alt.X, colour: alt.Color) -> list[alt.Chart]:
    """A thin rule per mark, a clickable triangle per checkpoint, and a label per part of a chain.

    All use a theme colour, because Vega's default black is not visible in dark mode.
    """
    selection = alt.selection_point(name=CHECKPOINT, on="click", fields=["at"], empty=False)
    tooltip = alt.Tooltip("mark:N", title=" ")
    mark_rows = base.transform_filter("isValid(datum.mark)")
    checkpoint, part = (mark_rows.transform_filter(f"datum.kind == '{kind}'") for kind in ("checkpoint", "part"))
    row_y = alt.value(alt.ExprRef(f"2 + {_LABEL_ROW_PX} * datum.row"))
    return [
        mark_rows.mark_rule(strokeDash=[2, 4], opacity=0.35).encode(x=x, color=colour),
        checkpoint.mark_point(shape="triangle-up", size=110, filled=True, cursor="pointer")
        .encode(
            x=x,
            y=alt.value(alt.ExprRef("height - 7")),  # the page can change the height
            color=colour,
            tooltip=tooltip,
            opacity=alt.condition(selection, alt.value(1.0), alt.value(0.55)),
        )
        .add_params(selection),
        *(
            part.transform_filter(f"{'!' if late else ''}(datum.x < {_LATE_MARK_SHARE} * {X_END})")
            .mark_text(align="right" if late else "left", dx=-4 if late else 4, fontSize=12, baseline="top")
            .encode(x=x, y=row_y, text="mark:N", tooltip=tooltip, color=colour)
            for late in (False, True)
        ),
    ]


@dataclass(frozen=True, slots=True)
class Figures:
    """A curve in numbers, as `core.finetuning.results` defines them. None means unknown."""

    steps: int
    tokens: int | None
    first_loss: float | None
    loss: Figure | None
    first_accuracy: float | None
    accuracy: Figure | None
    held_out_loss: Figure | None
    held_out_accuracy: Figure | None

    @classmethod
    def of(cls, read: Results) -> Figures:
        """The numbers of a curve."""
        return cls(
            steps=read.steps,
            tokens=read.trained_tokens,
            first_loss=read.first("training_loss"),
            loss=figure(read, "training_loss"),
            first_accuracy=read.first("training_token_accuracy"),
            accuracy=figure(read, "training_token_accuracy"),
            held_out_loss=figure(read, "validation_loss"),
            held_out_accuracy=figure(read, "validation_token_accuracy"),
        )


@dataclass(frozen=True, slots=True)
class CurveSource:
    """A curve and a key that changes with it, for charts that are drawn once and shown many times.

    Attributes:
        key: identifies the current state of this curve.
        results: the results behind the figures and observations.
        frame: the curve, with those columns of `core.charts.vega_lite.AXES` that are known.
        axes: available x axes.
        figures: first and last known values, so that long columns are not searched on every rerun.
        marks: steps to mark.
        examples: number of training examples; None if unknown.
    """

    key: str
    results: Results
    frame: pd.DataFrame
    axes: tuple[Axis, ...]
    figures: Figures
    marks: tuple[CurveMark, ...] = ()
    examples: int | None = None

    @classmethod
    def of(cls, key: str, read: Results, frame: pd.DataFrame, marks: tuple[CurveMark, ...] = ()) -> CurveSource:
        """Build the source of a curve."""
        return cls(key, read, frame, vega_lite.axes(frame), Figures.of(read), marks)

    def marked(self, marks: Sequence[CurveMark]) -> CurveSource:
        """The same curve with these steps marked."""
        return replace(self, marks=tuple(marks))
