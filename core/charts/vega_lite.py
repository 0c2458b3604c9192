"""What charts share: the Vega-Lite spec, its data as it is sent to the browser, and the axes of training curves.

Specs are plain dicts for `st.vega_lite_chart` or any Vega viewer. They contain no backgrounds, fonts or series colours:
the theme adds these for light and dark mode. All text is passed in already translated; the page provides the `alt`
text. Curves with more than 2,000 points are downsampled with MinMaxLTTB, which keeps extremes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
from tsdownsample import MinMaxLTTBDownsampler

Spec = dict[str, Any]
"""A Vega-Lite specification with its data inside."""

Axis = Literal["step", "tokens", "epoch", "time"]
"""The x axis of a curve."""

AXES: dict[Axis, str] = {"step": "step", "tokens": "elapsed_tokens", "epoch": "epoch", "time": "seconds"}
"""The column of each axis (`core.finetuning.curve_analysis.with_axes` adds all of them)."""

_NUMBERS = {"decimal": ".", "thousands": ",", "grouping": [3], "currency": ["$", ""], "percent": " %"}
CONFIG: Spec = {"locale": {"number": _NUMBERS}}
"""The specs' `config`: numbers as on the pages, with a space before the percent sign (`core.message.percent`)."""

MAX_POINTS = 2_000  # more are not visible on a screen and take longer to send and draw
NUMBER = ".6~g"
"""Format of numbers on axes. With "~g" alone, Vega would derive the digits from the ticks and write 10 as 1e+1."""
X_END = "xEnd"  # a parameter, so that a growing curve can use the same cached spec
_LABEL_SHARE = 0.14  # share of the x axis reserved for the value at the end of a curve
_LABEL_PX = 58  # minimum for that value on narrow screens
_MAX_LABEL_SHARE = 0.7  # maximum share for labels, relative to the curve
_MINUTE_S = 60

_NARROW_PX = 480  # width of a phone

Sendable: TypeAlias = pa.Table
"""A table in the form that goes to the browser."""


@dataclass(frozen=True, slots=True)
class CurveView:
    """Display options of curves.

    Attributes:
        axis: x axis; one of `axes(frame)`.
        smoothing: weight from 0 (none) to below 1; see `core.finetuning.results.smooth`.
        log: logarithmic scale for the loss; values of 0 or less are left out.
    """

    axis: Axis = "step"
    smoothing: float = 0.6
    log: bool = False


def axes(frame: pd.DataFrame) -> tuple[Axis, ...]:
    """The x axes for which the frame has values."""
    return tuple(name for name, column in AXES.items() if column in frame and bool(frame[column].notna().any()))


def thin(frame: pd.DataFrame, x: str, y: str, max_points: int = MAX_POINTS) -> pd.DataFrame:
    """Downsample to `max_points` rows with a value in `y` (MinMaxLTTB), keeping first, last, minimum and maximum."""
    rows = frame[frame[y].notna()]
    if len(rows) <= max_points:
        return rows
    x_values, values = rows[x].to_numpy(dtype="float64"), rows[y].to_numpy(dtype="float64")
    downsample = MinMaxLTTBDownsampler().downsample  # type: ignore[no-untyped-call]  # untyped class, typed package
    indices = downsample(x_values, values, n_out=max_points - 2)
    return rows.iloc[np.unique([*indices, values.argmin(), values.argmax()])]


def axis_values(frame: pd.DataFrame, axis: Axis) -> pd.Series[float]:
    """The x values of the rows; time in minutes."""
    values = frame[AXES[axis]].astype("Float64").astype("float64")
    return values / _MINUTE_S if axis == "time" else values


def x_axis(axis: Axis, title: str) -> alt.X:
    """The x axis. Its end is the parameter from `x_end`."""
    integer = axis == "step"
    return alt.X(
        "x:Q",
        title=title,
        scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef(X_END), nice=False),
        axis=alt.Axis(
            grid=False,
            tickMinStep=1 if integer else alt.Undefined,
            format={"step": ",d", "tokens": "~s"}.get(axis, NUMBER),
        ),
    )


def x_end(last: float, label_share: float = _LABEL_SHARE, label_px: int = _LABEL_PX) -> dict[str, Any]:
    """The parameter for the end of the x axis: `last` plus a share for labels, at least `label_px` px."""
    narrow_factor = f"min({1 + _MAX_LABEL_SHARE}, width / max(1, width - {label_px}))"
    return {"name": X_END, "expr": f"{float(f'{last or 1.0:.6g}')} * max({1 + label_share:g}, {narrow_factor})"}


def to_spec(chart: alt.LayerChart | alt.FacetChart) -> Spec:
    """The chart as a dict without Altair's default theme."""
    spec: Spec = chart.to_dict()
    spec.pop("datasets", None)
    return {**spec, "config": CONFIG}


def with_rows(
    spec: Spec, rows: list[dict[str, Any]], last: float, label_share: float = _LABEL_SHARE, label_px: int = _LABEL_PX
) -> Spec:
    """A copy of a cached spec with its data and the end of its x axis."""
    return {**spec, "data": {"values": rows}, "params": [*spec.get("params", ()), x_end(last, label_share, label_px)]}


def by_width(narrow: float, wide: float) -> alt.ExprRef:
    """A number that depends on the chart's width: `narrow` on phones, otherwise `wide`."""
    return alt.ExprRef(f"width < {_NARROW_PX} ? {narrow} : {wide}")


def with_data(spec: Spec, rows: list[dict[str, Any]]) -> Spec:
    """A copy of a cached spec with its data."""
    return {**spec, "data": {"values": rows}}


def sendable(frame: pd.DataFrame) -> Sendable:
    """A table in the format sent to the browser.

    Converted in one thread: Streamlit would start several on every rerun.
    """
    return pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)


@dataclass(frozen=True, slots=True)
class RenderedChart:
    """A chart ready to display: its specification and, separately, its rows, as Streamlit sends them."""

    spec: Spec
    rows: Sendable

    @classmethod
    def of(cls, spec: Spec) -> RenderedChart:
        """Extract the rows from a specification once, so that reruns do not have to convert them."""
        rows = sendable(pd.DataFrame(spec["data"]["values"]))
        return cls({name: value for name, value in spec.items() if name != "data"}, rows)

    def whole(self) -> Spec:
        """The specification including its rows, for a file."""
        return {**self.spec, "data": {"values": self.rows.to_pylist()}}
