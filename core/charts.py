"""Frames and price lines in, Vega-Lite out: plain dicts that `st.vega_lite_chart` shows and any Vega viewer opens.

No backgrounds, fonts or series colours are set: they come from the theme around the chart, so one chart is right in
light and in dark. Titles and labels come in already translated; the page gives the `alt` text. Curves of more than
2,000 points are thinned with MinMaxLTTB, which keeps the extremes of every stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from tsdownsample import MinMaxLTTBDownsampler

from core.cost.book import PriceLine

Spec = dict[str, Any]
"""A Vega-Lite specification with its data inside."""

MOST_POINTS = 2_000  # more cannot be told apart on a screen, and cost transfer and drawing time
_CURVE_HEIGHT = 300  # px
_BAR_STEP = 26  # px for each price bar
_X_END = "xEnd"  # a parameter, not a number in the spec, so that a growing curve needs no new spec
_LABEL_ROOM = 0.14  # share of the x axis kept free at the right for the value written at the end of a curve


@dataclass(frozen=True, slots=True)
class CurveLabels:
    """Words of a curve chart, in the visitor's language.

    Attributes:
        step, value: titles of the axes.
        training, validation: names of the two series, shown in tooltips.
        description: what a screen reader says; the page passes it on as `alt`, the chart itself does not hold it.
    """

    step: str
    value: str
    training: str
    validation: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class PriceLabels:
    """Words of the price chart: title of the price axis (with its unit), names in tooltips; `description` as above."""

    price: str
    model: str
    multiple: str
    provider: str
    description: str = ""


def loss_chart(frame: pd.DataFrame, smoothing: float, labels: CurveLabels) -> Spec:
    """Training loss by step (raw faint, smoothed bold) and validation loss where there is any.

    Args:
        frame: `core.training.results.Results.frame`; it may be empty.
        smoothing: 0 (none) to below 1, the weight of the past, as in `smooth`.
    """
    return _curve(frame, "training_loss", "validation_loss", smoothing, labels, percent=False)


def accuracy_chart(frame: pd.DataFrame, smoothing: float, labels: CurveLabels) -> Spec:
    """Token accuracy by step, as percent, in the same manner as `loss_chart`."""
    return _curve(frame, "training_token_accuracy", "validation_token_accuracy", smoothing, labels, percent=True)


def price_bars(lines: Sequence[PriceLine], labels: PriceLabels, side: str = "output") -> Spec:
    """Horizontal bars, cheapest first as `compare` sorted them, the multiple written at each bar.

    Lines without a price on this side are left out; the table beside the chart shows them as unknown. The same
    model at two providers gets two bars.
    """
    prices = [(line, getattr(line, side)) for line in lines]
    rows = [
        {
            "bar": f"{line.model} · {line.provider}",
            "model": line.model,
            "provider": line.provider,
            "price": float(amount),
            "multiple": times(line.multiple),
            "kind": "baseline" if line.is_baseline else "other",
        }
        for line, amount in prices
        if amount is not None
    ]
    spec = _with_data(_price_spec(replace(labels, description="")), rows)
    spec["height"] = {"step": _BAR_STEP}
    return spec


def smooth(values: pd.Series[float], smoothing: float) -> pd.Series[float]:
    """Exponential moving average without the bias of its start; gaps stay gaps.

    `s_t = Σ wᵗ⁻ⁱ·xᵢ / Σ wᵗ⁻ⁱ` with w = smoothing (0 gives the values back): what TensorBoard's slider does.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be from 0 to below 1, not {smoothing}")
    averaged = values.ewm(alpha=1 - smoothing, adjust=True, ignore_na=True).mean()
    return averaged.where(values.notna())


def thin(frame: pd.DataFrame, x: str, y: str, most: int = MOST_POINTS) -> pd.DataFrame:
    """At most `most` of the rows with a value in `y`, first, last and extremes kept (MinMaxLTTB)."""
    known = frame[frame[y].notna()]
    if len(known) <= most:
        return known
    kept = MinMaxLTTBDownsampler().downsample(  # type: ignore[no-untyped-call]  # py.typed, but its class is not
        known[x].to_numpy(dtype="float64"), known[y].to_numpy(dtype="float64"), n_out=most
    )
    return known.iloc[np.unique(kept)]


def times(multiple: Decimal | None) -> str:
    """A multiple as people write it: 6 ×, 0.3 ×, 1,200 ×; "" when it is unknown."""
    if multiple is None:
        return ""
    digits = 0 if multiple >= 100 or multiple == multiple.to_integral_value() else 1 if multiple >= 1 else 2
    return f"{multiple:,.{digits}f} ×"


# --- curves ---------------------------------------------------------------------------------------------------------


def _curve(
    frame: pd.DataFrame, training: str, validation: str, smoothing: float, labels: CurveLabels, *, percent: bool
) -> Spec:
    known = frame[frame[training].notna()]
    line = pd.DataFrame({"step": known["step"], "value": known[training].astype("float64")})
    bold = line.assign(value=smooth(line["value"], smoothing)) if len(line) else line
    points = frame[frame[validation].notna()]
    valid = pd.DataFrame({"step": points["step"], "value": points[validation].astype("float64")})
    rows = [
        *_records(line, "raw", labels.training),
        *_records(bold, "smooth", labels.training),
        *_records(valid, "validation", labels.validation),
    ]
    for kind, whole in (("smooth", bold), ("validation", valid)):
        if len(whole):
            rows.append({**_records(whole.tail(1), kind, "")[0], "end": _written(whole["value"].iloc[-1], percent)})
    last = int(frame["step"].max()) if len(frame) else 1
    spec = _with_data(_curve_spec(replace(labels, description=""), percent), rows)
    spec["params"] = [{"name": _X_END, "value": round(last * (1 + _LABEL_ROOM), 2)}]
    return spec


def _records(frame: pd.DataFrame, kind: str, series: str) -> list[dict[str, Any]]:
    shown = thin(frame, "step", "value")
    return [
        {"step": int(step), "value": float(value), "kind": kind, "series": series}
        for step, value in zip(shown["step"], shown["value"], strict=True)
    ]


def _written(value: float, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.2f}"


@cache
def _curve_spec(labels: CurveLabels, percent: bool) -> Spec:
    x = alt.X(
        "step:Q",
        title=labels.step,
        scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef(_X_END), nice=False),
        axis=alt.Axis(grid=False, tickMinStep=1, format=",d"),
    )
    y = alt.Y(
        "value:Q",
        title=labels.value,
        scale=alt.Scale(zero=False),
        axis=alt.Axis(format=".0%" if percent else "~g", tickCount=5),
    )
    # A nominal colour without a range takes the theme's own palette: the first colour trains, the second validates.
    colour = alt.Color("tone:N", scale=alt.Scale(domain=["training", "validation"]), legend=None)
    tooltip = [
        alt.Tooltip("series:N", title=" "),
        alt.Tooltip("step:Q", title=labels.step, format=",d"),
        alt.Tooltip("value:Q", title=labels.value, format=".2%" if percent else ".4f"),
    ]
    base = alt.Chart(alt.NamedData("rows")).transform_calculate(
        tone="datum.kind == 'validation' ? 'validation' : 'training'"
    )
    curve = base.transform_filter("!isValid(datum.end)")
    layers = [
        curve.transform_filter("datum.kind == 'raw'").mark_line(strokeWidth=1, opacity=0.3, clip=True),
        curve.transform_filter("datum.kind == 'smooth'").mark_line(strokeWidth=2.5, clip=True),
        curve.transform_filter("datum.kind == 'validation'").mark_line(strokeWidth=2, strokeDash=[5, 3], point=True),
    ]
    ends = base.transform_filter("isValid(datum.end)").mark_text(align="left", dx=6, fontSize=13, fontWeight="bold")
    chart = alt.layer(
        *(layer.encode(x=x, y=y, color=colour, tooltip=tooltip) for layer in layers),
        ends.encode(x=x, y=y, color=colour, text="end:N"),
    ).properties(height=_CURVE_HEIGHT)
    return _plain(chart)


# --- bars -----------------------------------------------------------------------------------------------------------


@cache
def _price_spec(labels: PriceLabels) -> Spec:
    y = alt.Y(
        "bar:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelLimit=300, ticks=False),
    )
    x = alt.X("price:Q", title=labels.price, axis=alt.Axis(format="$.3~r", tickCount=5), scale=alt.Scale(zero=True))
    tooltip = [
        alt.Tooltip("model:N", title=labels.model),
        alt.Tooltip("provider:N", title=labels.provider),
        alt.Tooltip("price:Q", title=labels.price, format="$.3~r"),
        alt.Tooltip("multiple:N", title=labels.multiple),
    ]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=["other", "baseline"]), legend=None)
    base = alt.Chart(alt.NamedData("rows"))
    chart = alt.layer(
        base.mark_bar(cornerRadiusEnd=3).encode(x=x, y=y, color=colour, tooltip=tooltip),
        base.mark_text(align="left", dx=5, fontSize=12).encode(x=x, y=y, text="multiple:N", color=colour),
    )
    return _plain(chart)


# --- shared ---------------------------------------------------------------------------------------------------------


def _plain(chart: alt.LayerChart | alt.FacetChart) -> Spec:
    """The chart as a dict, without Altair's own default look (the page's theme gives that)."""
    spec: Spec = chart.to_dict()
    for key in ("config", "datasets"):
        spec.pop(key, None)
    return spec


def _with_data(spec: Spec, rows: list[dict[str, Any]]) -> Spec:
    """A copy of a cached spec with its rows inside."""
    return {**spec, "data": {"values": rows}}
