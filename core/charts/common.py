"""Frames in, Vega-Lite out: plain dicts that `st.vega_lite_chart` shows and any Vega viewer opens.

No backgrounds, fonts or series colours are set: they come from the theme around the chart, so one chart is right in
light and in dark. Titles and labels come in already translated; the page gives the `alt` text. Curves of more than
2,000 points are thinned with MinMaxLTTB, which keeps the extremes of every stretch. This module draws the curve of a
job or of a chain of jobs; `core.charts.training` draws several jobs in one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from tsdownsample import MinMaxLTTBDownsampler

from core.training.figures import smooth, smoothing_weight

Spec = dict[str, Any]
"""A Vega-Lite specification with its data inside."""

Axis = Literal["step", "tokens", "epoch", "time"]
"""What a curve is drawn over."""

AXES: dict[Axis, str] = {"step": "step", "tokens": "elapsed_tokens", "epoch": "epoch", "time": "seconds"}
"""Each axis with the column of the frame that it needs (`core.training.curve_analysis.with_axes` has all four)."""

MOST_POINTS = 2_000  # more cannot be told apart on a screen, and cost transfer and drawing time
CHECKPOINT = "checkpoint"
"""Name of the selection that a click on a checkpoint's mark makes; its point has the field `at`, a step."""

_CURVE_HEIGHT = 300  # px
_X_END = "xEnd"  # a parameter, not a number in the spec, so that a growing curve needs no new spec
_LABEL_ROOM = 0.14  # share of the x axis kept free at the right for the value written at the end of a curve
_LABEL_PX = 58  # and what that value takes at least, on a narrow screen
_APART = 0.08  # of what a chart is high: a line of text
_LATE = 0.6  # of the axis: what begins behind it has its name on its left, where there is room
_LINES, _LINE = 3, 15  # names of neighbours stand on so many lines of so many px: jobs may begin close together
_MOST_ROOM = 0.7  # of the curve's own width: less would be left of it otherwise
_FEW_POINTS = 12  # up to here each is drawn as a dot: a line through one point cannot be seen
_FLAT = 0.01  # of its level: a curve that moves less would be given an axis of the eighth digit
_AROUND = 0.05  # of the level, or points of accuracy: how far such an axis reaches to both sides
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class CurveView:
    """How curves are looked at.

    Attributes:
        axis: over what; one of `axes(frame)`.
        smoothing: 0 (none) to below 1, the weight of the past, as in `core.training.figures.smooth`.
        log: loss on a logarithmic scale; values that are not above 0 have no place there and are left out.
    """

    axis: Axis = "step"
    smoothing: float = 0.6
    log: bool = False


@dataclass(frozen=True, slots=True)
class CurveLabels:
    """Words of a curve chart, in the visitor's language.

    Attributes:
        x, value: titles of the axes.
        training, smoothed, validation: names of the three lines, shown in tooltips.
        step: name of a step, in tooltips of curves over something else.
        description: what a screen reader says; the page passes it on as `alt`, the chart itself does not hold it.
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
    """A step that is marked on the curve: a checkpoint, or where the next job of a chain begins."""

    step: int
    label: str
    kind: Literal["checkpoint", "part"] = "checkpoint"


def axes(frame: pd.DataFrame) -> tuple[Axis, ...]:
    """What this frame can be drawn over: step, and whatever else it has values for."""
    return tuple(name for name, column in AXES.items() if column in frame and bool(frame[column].notna().any()))


def loss_chart(frame: pd.DataFrame, view: CurveView, labels: CurveLabels, marks: Sequence[CurveMark] = ()) -> Spec:
    """Training loss (raw faint, smoothed bold) and validation loss where there is any.

    Args:
        frame: `core.training.results.Results.frame`, with `AXES[view.axis]` among its columns; it may be empty.
        view: how to look at it.
        labels: words.
        marks: steps to point out.
    """
    return _curve(frame, ("training_loss", "validation_loss"), view, labels, marks, percent=False)


def accuracy_chart(frame: pd.DataFrame, view: CurveView, labels: CurveLabels, marks: Sequence[CurveMark] = ()) -> Spec:
    """Token accuracy as percent, in the same manner as `loss_chart`; never on a logarithmic scale."""
    columns = ("training_token_accuracy", "validation_token_accuracy")
    return _curve(frame, columns, replace(view, log=False), labels, marks, percent=True)


def thin(frame: pd.DataFrame, x: str, y: str, most: int = MOST_POINTS) -> pd.DataFrame:
    """At most `most` of the rows with a value in `y`: first, last, least, largest, and the shape (MinMaxLTTB)."""
    known = frame[frame[y].notna()]
    if len(known) <= most:
        return known
    places, values = known[x].to_numpy(dtype="float64"), known[y].to_numpy(dtype="float64")
    downsample = MinMaxLTTBDownsampler().downsample  # type: ignore[no-untyped-call]  # py.typed, but its class is not
    kept = downsample(places, values, n_out=most - 2)
    return known.iloc[np.unique([*kept, values.argmin(), values.argmax()])]


def axis_values(frame: pd.DataFrame, axis: Axis) -> pd.Series[float]:
    """Where each row stands on the axis; time in minutes."""
    values = frame[AXES[axis]].astype("Float64").astype("float64")
    return values / _MINUTE_S if axis == "time" else values


def x_axis(axis: Axis, title: str) -> alt.X:
    """The axis across, ending where the parameter of `x_end` says."""
    whole = axis == "step"
    return alt.X(
        "x:Q",
        title=title,
        scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef(_X_END), nice=False),
        axis=alt.Axis(
            grid=False, tickMinStep=1 if whole else alt.Undefined, format={"step": ",d", "tokens": "~s"}.get(axis, "~g")
        ),
    )


def x_end(last: float, room: float = _LABEL_ROOM, px: int = _LABEL_PX) -> dict[str, Any]:
    """The parameter that ends the axis across: behind it `room` (a share), and `px` where the chart is narrow."""
    narrow = f"min({1 + _MOST_ROOM}, width / max(1, width - {px}))"
    return {"name": _X_END, "expr": f"{float(f'{last or 1.0:.6g}')} * max({1 + room:g}, {narrow})"}


def format_multiple(multiple: Decimal | None) -> str:
    """A multiple as people write it: 6 ×, 0.3 ×, 1,200 ×; "" when it is unknown."""
    if multiple is None:
        return ""
    digits = 0 if multiple >= 100 or multiple == multiple.to_integral_value() else 1 if multiple >= 1 else 2
    return f"{multiple:,.{digits}f} ×"


def to_spec(chart: alt.LayerChart | alt.FacetChart) -> Spec:
    """The chart as a dict, without Altair's own default look (the page's theme gives that)."""
    spec: Spec = chart.to_dict()
    for key in ("config", "datasets"):
        spec.pop(key, None)
    return spec


def with_rows(
    spec: Spec, rows: list[dict[str, Any]], last: float, room: float = _LABEL_ROOM, px: int = _LABEL_PX
) -> Spec:
    """A copy of a cached spec with its rows inside, and the end of its axis across."""
    return {**spec, "data": {"values": rows}, "params": [*spec.get("params", ()), x_end(last, room, px)]}


# --- one curve ------------------------------------------------------------------------------------------------------


def _curve(
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
    shown = ["x"] if view.axis == "step" else ["x", "step"]
    rows = [
        *_records(thin(lines, "x", "raw"), [*shown, "raw", "smooth"]),
        *_records(thin(lines, "x", "valid"), [*shown, "valid"]),
        *_ends(lines, percent, named=view.smoothing == smoothing_weight(len(frame))),
        *_around(lines, percent),
        *_marked(lines, marks),
    ]
    spec = _curve_spec(replace(labels, description=""), view.axis, view.log, percent, len(lines) <= _FEW_POINTS)
    return with_rows(spec, rows, float(lines["x"].max()) if len(lines) else 1.0)


def _records(frame: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Rows as they are sent. Six digits of a value are more than a screen shows."""
    lists = [frame[column].tolist() for column in columns]
    return [
        {name: value if name in _PLACES else float(f"{value:.6g}") for name, value in zip(columns, row, strict=True)}
        for row in zip(*lists, strict=True)
    ]


_PLACES = frozenset({"x", "step"})


def _smoothed(frame: pd.DataFrame, raw: pd.Series[float], weight: float) -> pd.Series[float]:
    """Each job of a chain by itself."""
    if "part" not in frame:
        return smooth(raw, weight)
    parts = [smooth(one, weight) for _, one in raw.groupby(frame["part"])]
    return pd.concat(parts) if parts else raw


def _ends(lines: pd.DataFrame, percent: bool, *, named: bool) -> list[dict[str, Any]]:
    """The last value of each bold line, written at its end; two that are near stand above and below each other.

    The end of the training line is the run's figure (`core.training.figures`) only with the weight that defines it:
    under another smoothing no number is written there (`named` is false).
    """
    found: list[dict[str, Any]] = []
    for name in ("smooth", "valid") if named else ("valid",):
        known = lines[lines[name].notna()]
        if len(known):
            value = float(known[name].iloc[-1])
            written = f"{value:.1%}" if percent else f"{value:.3f}"
            found.append({"x": float(known["x"].iloc[-1]), "y": value, "end": written, "line": name})
    if len(found) == 2:
        low, high = sorted(found, key=lambda end: float(end["y"]))
        apart = _APART * float(np.nanmax(lines[["smooth", "valid"]]) - np.nanmin(lines[["smooth", "valid"]]))
        missing = apart - (high["y"] - low["y"])
        if missing > 0:
            high["y"], low["y"] = high["y"] + missing / 2, low["y"] - missing / 2
    return found


def _around(lines: pd.DataFrame, percent: bool) -> list[dict[str, Any]]:
    """What keeps the axis up wide enough for people where the curve is flat, or but a point: two ends without words."""
    values = lines[["raw", "valid"]].to_numpy().ravel()
    values = values[~np.isnan(values)]
    if not len(values) or np.ptp(values) > _FLAT * abs(values).max():
        return []
    level, x = float(values.mean()), float(lines["x"].iloc[-1])
    reach = _AROUND if percent or not level else _AROUND * abs(level)
    ends = (max(0.0, level - reach), min(1.0, level + reach)) if percent else (level - reach, level + reach)
    return [{"x": x, "y": y, "end": "", "line": "smooth"} for y in ends]


def _marked(lines: pd.DataFrame, marks: Sequence[CurveMark]) -> list[dict[str, Any]]:
    """Marks where their step is on the axis; those beyond the curve are left out."""
    if not len(lines):
        return []
    steps, at = lines["step"].to_numpy(), lines["x"].to_numpy()
    found: list[dict[str, Any]] = []
    for mark in marks:
        place = int(np.searchsorted(steps, mark.step))
        if place < len(at):
            found.append({"x": float(at[place]), "at": mark.step, "mark": mark.label, "kind": mark.kind})
    for number, part in enumerate(one for one in found if one["kind"] == "part"):
        part["row"] = number % _LINES
    return found


@cache
def _curve_spec(labels: CurveLabels, axis: Axis, log: bool, percent: bool, dots: bool) -> Spec:
    x = x_axis(axis, labels.x)
    number = ".2%" if percent else ".4f"
    step = [] if axis == "step" else [alt.Tooltip("step:Q", title=labels.step, format=",d")]
    here = [alt.Tooltip("x:Q", title=labels.x, format=",d" if axis in ("step", "tokens") else ".2f"), *step]
    # A nominal colour without a range takes the theme's own palette: the first colour trains, the second validates.
    colour = alt.Color("tone:N", scale=alt.Scale(domain=["training", "validation"]), legend=None)
    base = alt.Chart(alt.NamedData("rows")).transform_calculate(tone=_TONE)
    raw, smoothed, checked, end = (
        {"x": x, "y": _y(field, labels.value, log, percent), "color": colour}
        for field in ("raw", "smooth", "valid", "y")
    )
    trained = base.transform_filter("isValid(datum.raw)")
    valid = base.transform_filter("isValid(datum.valid)").mark_line(strokeWidth=2, strokeDash=[5, 3], point=True)
    hover = alt.selection_point(name="hover", on="pointerover", nearest=True, encodings=["x"], empty=False)
    readout = trained.mark_rule(strokeWidth=1).encode(
        x=x,
        color=colour,
        opacity=alt.condition(hover, alt.value(0.45), alt.value(0)),
        tooltip=[
            *here,
            alt.Tooltip("raw:Q", title=labels.training, format=number),
            alt.Tooltip("smooth:Q", title=labels.smoothed, format=number),
        ],
    )
    ends = base.transform_filter("isValid(datum.end)").mark_text(align="left", dx=6, fontSize=13, fontWeight="bold")
    chart = alt.layer(
        *_marks(base, x, colour),
        trained.mark_line(strokeWidth=1, opacity=0.3, clip=True).encode(**raw),
        trained.mark_line(strokeWidth=2.5, clip=True, point={"size": 40} if dots else False).encode(**smoothed),
        valid.encode(**checked, tooltip=[*here, alt.Tooltip("valid:Q", title=labels.validation, format=number)]),
        readout.add_params(hover),
        ends.encode(**end, text="end:N"),
    ).properties(height=_CURVE_HEIGHT)
    return to_spec(chart)


_TONE = "isValid(datum.valid) || datum.line == 'valid' ? 'validation' : 'training'"


def _y(field: str, title: str, log: bool, percent: bool) -> alt.Y:
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format=".0%" if percent else "~g", tickCount=5))


def _marks(base: alt.Chart, x: alt.X, colour: alt.Color) -> list[alt.Chart]:
    """A thin rule for each mark; a triangle that can be clicked for a checkpoint, its name for a part of a chain.

    All of it in a colour of the theme: Vega's own black is not seen on a dark page.
    """
    clicked = alt.selection_point(name=CHECKPOINT, on="click", fields=["at"], empty=False)
    tooltip = alt.Tooltip("mark:N", title=" ")
    marked = base.transform_filter("isValid(datum.mark)")
    checkpoint, part = (marked.transform_filter(f"datum.kind == '{kind}'") for kind in ("checkpoint", "part"))
    high = alt.value(alt.ExprRef(f"2 + {_LINE} * datum.row"))
    return [
        marked.mark_rule(strokeDash=[2, 4], opacity=0.35).encode(x=x, color=colour),
        checkpoint.mark_point(shape="triangle-up", size=110, filled=True, cursor="pointer")
        .encode(
            x=x,
            y=alt.value(alt.ExprRef("height - 7")),  # the page may make it less high
            color=colour,
            tooltip=tooltip,
            opacity=alt.condition(clicked, alt.value(1.0), alt.value(0.55)),
        )
        .add_params(clicked),
        *(
            part.transform_filter(f"{'!' if late else ''}(datum.x < {_LATE} * {_X_END})")
            .mark_text(align="right" if late else "left", dx=-4 if late else 4, fontSize=12, baseline="top")
            .encode(x=x, y=high, text="mark:N", tooltip=tooltip, color=colour)
            for late in (False, True)
        ),
    ]
