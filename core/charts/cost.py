"""Charts of the cost page: price lines, costs and days in, Vega-Lite out, in the manner of `core.charts.common`.

Plain dicts, without backgrounds, fonts or series colours: those come from the theme. Titles, labels and numbers in
words come in already translated; the page gives the `alt` text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any

import altair as alt

from core.charts.common import times
from core.cost.comparison import PriceLine
from core.cost.history import DayLine
from core.cost.quality import Quality
from core.cost.workload import BreakEven, Costs

Spec = dict[str, Any]
"""A Vega-Lite specification with its data inside."""

_BAR_STEP = 24  # px for each price bar
_LINE_HEIGHT = 340  # px
_DAY_HEIGHT = 240
_SCATTER_HEIGHT = 320
_NAME_ROOM = 1.25  # of the x axis, so that the names at the ends of the lines have room
_DIM = 0.45  # opacity of what can no longer be used
_MOST_MODELS = 6  # told apart by colour in the days; the others together are one more


@dataclass(frozen=True, slots=True)
class PriceLabels:
    """Words of the price bars: title of the price axis (with its unit), names in tooltips, what marks a bar."""

    price: str
    model: str
    multiple: str
    provider: str
    own: str
    retired: str


@dataclass(frozen=True, slots=True)
class BreakEvenLabels:
    """Words of the break-even chart: axes (with currency), the name of a line in tooltips, and of each crossing."""

    requests: str
    total: str
    way: str
    crossings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DayLabels:
    """Words of the days: axes, names in tooltips, and of the models beyond the dearest few."""

    day: str
    spent: str
    model: str
    others: str


@dataclass(frozen=True, slots=True)
class QualityLabels:
    """Words of the scatter: axes and names in tooltips; `kinds` names votes and evaluations."""

    cost: str
    quality: str
    model: str
    count: str
    kinds: tuple[str, str]


def price_bars(lines: Sequence[PriceLine], labels: PriceLabels, side: str = "output") -> Spec:
    """Horizontal bars on a logarithmic scale, in the order of `lines`, the multiple written at each bar.

    Lines without a price on this side, free ones, and those in another currency than the first are left out: the
    table beside the chart has them. The same model at two providers gets two bars; retired ones are faint.
    """
    priced = [(line, getattr(line, side)) for line in lines]
    currency = next((line.currency for line, amount in priced if amount), "USD")
    rows = [
        {
            "bar": f"{line.model} · {line.provider}",
            "model": line.model,
            "provider": line.provider,
            "price": float(amount),
            "multiple": times(line.multiple),
            "at_end": " ".join(_marks(line, labels)),
            "kind": "baseline" if line.is_baseline else "other",
            "ended": line.ended,
        }
        for line, amount in priced
        if amount and line.currency == currency
    ]
    spec = _with_data(_price_spec(labels), rows)
    # On a logarithmic scale a bar has no zero to begin at: all begin at half the least price.
    start = min((float(amount) for line, amount in priced if amount and line.currency == currency), default=1.0) / 2
    spec["params"] = [{"name": "start", "value": start}]
    spec["data"] = {"values": [{**row, "start": start} for row in rows]}
    spec["height"] = {"step": _BAR_STEP}
    return spec


def break_even(found: Sequence[Costs], crossings: Sequence[BreakEven], most: int, labels: BreakEvenLabels) -> Spec:
    """Total cost against the number of requests, a line for each way, its name at its end, each crossing marked.

    Args:
        found: the ways; one whose cost is unknown has no line.
        crossings: as in `labels.crossings`; those that are not at a number of requests are left out.
        most: the right end of the chart.
    """
    rows: list[dict[str, Any]] = []
    names = tuple(cost.candidate.name for cost in found)
    for cost in found:
        for requests in (0, most):
            total = cost.total(requests)
            if total is not None:
                rows.append(
                    {"requests": requests, "total": float(total), "way": cost.candidate.name, "end": requests > 0}
                )
    for crossing, words in zip(crossings, labels.crossings, strict=True):
        total = found[0].total(crossing.requests) if found and crossing.requests is not None else None
        if crossing.requests is not None and crossing.requests <= most and total is not None:
            rows.append({"requests": crossing.requests, "total": float(total), "crossing": words, "of": names[0]})
    spec = _with_data(_break_even_spec(labels, names), rows)
    spec["params"] = [{"name": "most", "value": most}, {"name": "xEnd", "value": round(most * _NAME_ROOM, 2)}]
    return spec


def days(lines: Sequence[DayLine], calendar: Sequence[date], labels: DayLabels) -> Spec:
    """US dollars by day (UTC), stacked by model: the dearest few by name, the others together.

    Args:
        calendar: the days of the axis, in order; days without a line are empty.
    """
    totals: dict[str, Decimal] = {}
    for line in lines:
        totals[line.model] = totals.get(line.model, Decimal(0)) + line.cost_usd
    named = sorted(totals, key=lambda model: (-totals[model], model))[:_MOST_MODELS]
    grouped: dict[tuple[str, str], Decimal] = {}
    for line in lines:
        key = (_day(line.day), line.model if line.model in named else labels.others)
        grouped[key] = grouped.get(key, Decimal(0)) + line.cost_usd
    rows = [{"day": day, "model": model, "spent": float(amount)} for (day, model), amount in grouped.items()]
    domain = [*named, *([labels.others] if len(totals) > len(named) else [])]
    return _with_data(_day_spec(labels, tuple(domain), tuple(_day(day) for day in calendar)), rows)


def quality_scatter(found: Sequence[Quality], labels: QualityLabels) -> Spec:
    """Quality (0 to 1, with its interval) against what a story costs, each point with its model's name.

    Models whose cost is unknown are left out, and free ones stand at the left edge: a logarithm has no zero.
    """
    known = [one for one in found if one.cost_usd is not None]
    least = min((float(one.cost_usd) for one in known if one.cost_usd), default=0.001)
    rows = [
        {
            "model": one.model,
            "cost": float(one.cost_usd or 0) or least / 3,
            "paid": float(one.cost_usd or 0),
            "share": one.share,
            "low": one.low,
            "high": one.high,
            "n": one.n,
            "kind": labels.kinds[0] if one.kind == "votes" else labels.kinds[1],
        }
        for one in known
    ]
    return _with_data(_scatter_spec(labels), rows)


def _day(day: date) -> str:
    return f"{day:%m-%d}"


def _marks(line: PriceLine, labels: PriceLabels) -> list[str]:
    marks = [times(line.multiple), labels.own if line.price.own else "", labels.retired if line.ended else ""]
    return [mark for mark in marks if mark]


# --- specs: made once for each set of words -------------------------------------------------------------------------


@cache
def _price_spec(labels: PriceLabels) -> Spec:
    y = alt.Y("bar:N", sort=None, title=None, axis=alt.Axis(labelLimit=320, ticks=False))
    x = alt.X(
        "price:Q",
        title=labels.price,
        axis=alt.Axis(format="~g", tickCount=5, grid=False),
        scale=alt.Scale(type="log", domainMin=alt.ExprRef("start"), nice=False),
    )
    tooltip = [
        alt.Tooltip("model:N", title=labels.model),
        alt.Tooltip("provider:N", title=labels.provider),
        alt.Tooltip("price:Q", title=labels.price, format="~g"),
        alt.Tooltip("multiple:N", title=labels.multiple),
    ]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=["other", "baseline"]), legend=None)
    faint = alt.condition("datum.ended", alt.value(_DIM), alt.value(1))
    base = alt.Chart(alt.NamedData("rows"))
    chart = alt.layer(
        base.mark_bar(cornerRadiusEnd=3).encode(x=x, x2="start:Q", y=y, color=colour, tooltip=tooltip, opacity=faint),
        base.mark_text(align="left", dx=5, fontSize=12).encode(x=x, y=y, text="at_end:N", color=colour),
    )
    return _plain(chart)


@cache
def _break_even_spec(labels: BreakEvenLabels, ways: tuple[str, ...]) -> Spec:
    x = alt.X(
        "requests:Q",
        title=labels.requests,
        scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef("xEnd"), nice=False),
        axis=alt.Axis(format=",d", tickCount=6, grid=False),
    )
    y = alt.Y("total:Q", title=labels.total, axis=alt.Axis(format="~g", tickCount=5), scale=alt.Scale(zero=True))
    colour = alt.Color("way:N", scale=alt.Scale(domain=list(ways)), legend=None)
    of = alt.Color("of:N", scale=alt.Scale(domain=list(ways)), legend=None)  # a crossing has the colour of its line
    tooltip = [
        alt.Tooltip("way:N", title=labels.way),
        alt.Tooltip("requests:Q", title=labels.requests, format=",d"),
        alt.Tooltip("total:Q", title=labels.total, format=",.2f"),
    ]
    base = alt.Chart(alt.NamedData("rows"))
    lines = base.transform_filter("isValid(datum.way)")
    marks = base.transform_filter("isValid(datum.crossing)")
    chart = alt.layer(
        lines.mark_line(strokeWidth=2.5).encode(x=x, y=y, color=colour, tooltip=tooltip),
        lines.transform_filter("datum.end")
        .mark_text(align="left", dx=6, fontSize=12, fontWeight="bold", limit=220)
        .encode(x=x, y=y, color=colour, text="way:N"),
        marks.mark_rule(strokeDash=[4, 3], opacity=0.6).encode(x=x, color=of),
        marks.mark_point(size=90, filled=True, opacity=1).encode(x=x, y=y, color=of),
        marks.mark_text(align="left", dx=8, dy=16, fontSize=13).encode(x=x, y=y, text="crossing:N", color=of),
    ).properties(height=_LINE_HEIGHT)
    return _plain(chart)


@cache
def _day_spec(labels: DayLabels, models: tuple[str, ...], calendar: tuple[str, ...]) -> Spec:
    x = alt.X(
        "day:O",
        title=labels.day,
        scale=alt.Scale(domain=list(calendar)),
        axis=alt.Axis(grid=False, labelOverlap=True, labelAngle=0),
    )
    chart = alt.layer(
        alt.Chart(alt.NamedData("rows"))
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=x,
            y=alt.Y("spent:Q", stack=True, title=labels.spent, axis=alt.Axis(format="~g", tickCount=4)),
            color=alt.Color(
                "model:N", scale=alt.Scale(domain=list(models)), legend=alt.Legend(title=None, orient="top", columns=3)
            ),
            tooltip=[
                alt.Tooltip("day:O", title=labels.day),
                alt.Tooltip("model:N", title=labels.model),
                alt.Tooltip("spent:Q", title=labels.spent, format=",.4f"),
            ],
        )
    ).properties(height=_DAY_HEIGHT)
    return _plain(chart)


@cache
def _scatter_spec(labels: QualityLabels) -> Spec:
    x = alt.X(
        "cost:Q",
        title=labels.cost,
        scale=alt.Scale(type="log", padding=30),
        axis=alt.Axis(format="~g", tickCount=5, grid=False),
    )
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format=".0%", tickCount=5)
    colour = alt.Color(
        "kind:N", scale=alt.Scale(domain=list(labels.kinds)), legend=alt.Legend(title=None, orient="top")
    )
    tooltip = [
        alt.Tooltip("model:N", title=labels.model),
        alt.Tooltip("paid:Q", title=labels.cost, format="~g"),
        alt.Tooltip("share:Q", title=labels.quality, format=".1%"),
        alt.Tooltip("n:Q", title=labels.count, format=",d"),
    ]
    base = alt.Chart(alt.NamedData("rows"))
    y = alt.Y("share:Q", title=labels.quality, scale=scale, axis=axis)
    chart = alt.layer(
        base.mark_rule(opacity=0.4, strokeWidth=2).encode(
            x=x, y=alt.Y("low:Q", title=labels.quality, scale=scale, axis=axis), y2="high:Q", color=colour
        ),
        base.mark_point(size=110, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape="kind:N", tooltip=tooltip
        ),
        base.mark_text(align="left", dx=9, fontSize=12, limit=220).encode(x=x, y=y, text="model:N", color=colour),
    ).properties(height=_SCATTER_HEIGHT)
    spec = _plain(chart)
    spec["layer"][1]["encoding"]["shape"]["legend"] = None
    return spec


def _plain(chart: alt.LayerChart | alt.FacetChart) -> Spec:
    """The chart as a dict, without Altair's own default look (the page's theme gives that)."""
    spec: Spec = chart.to_dict()
    for key in ("config", "datasets"):
        spec.pop(key, None)
    return spec


def _with_data(spec: Spec, rows: list[dict[str, Any]]) -> Spec:
    """A copy of a cached spec with its rows inside."""
    return {**spec, "data": {"values": rows}}
