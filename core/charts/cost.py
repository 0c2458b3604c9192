"""Charts for the cost page: prices, spending, break-even, and quality by price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any

import altair as alt

from core.charts.vega_lite import NUMBER, Spec, by_width, to_spec, with_data
from core.pricing.comparison import PriceLine
from core.pricing.quality import Quality
from core.pricing.spend_history import DayLine
from core.pricing.workload import BreakEven, Costs

_BAR_STEP = 24  # px per bar
_RETIRED_OPACITY = 0.45  # opacity of models that can no longer be used

_SPENDING_HEIGHT = 300  # px
_MAX_MODELS = 6  # with their own colour; all others share one

_BREAK_EVEN_HEIGHT = 340  # px
_CHAR_WIDTH = 7.5  # px per character of the line labels; CJK characters count twice

_QUALITY_HEIGHT = 320  # px


def format_multiple(multiple: Decimal | None) -> str:
    """Format a multiple: 6 ×, 0.3 ×, 1,200 ×; "" if unknown."""
    if multiple is None:
        return ""
    digits = 0 if multiple >= 100 or multiple == multiple.to_integral_value() else 1 if multiple >= 1 else 2
    return f"{multiple:,.{digits}f} ×"


@dataclass(frozen=True, slots=True)
class PriceLabels:
    """Translated texts: title of the price axis (with unit), tooltip titles, and marks at the bars."""

    price: str
    model: str
    multiple: str
    provider: str
    own: str
    machine: str
    retired: str
    price_expired: str


def price_bars(lines: Sequence[PriceLine], labels: PriceLabels, side: str = "output") -> Spec:
    """Horizontal bars on a logarithmic scale, in the order of `lines`, with the multiple at each bar.

    Lines without a price for `side`, free ones, and those in a different currency than the first are left out (they
    are in the table). A model at two providers has two bars. Retired models are faint.
    """
    priced = [(line, getattr(line, side)) for line in lines]
    currency = next((line.currency for line, amount in priced if amount), "USD")
    rows = [
        {
            "place": place,
            "bar": f"{line.model} · {line.provider}",
            "model": line.model,
            "provider": line.provider,
            "price": float(amount),
            "multiple": _format_multiple(line.multiple),
            "at_end": " ".join(_bar_texts(line, labels)),
            "kind": "baseline" if line.is_baseline else "other",
            "ended": line.ended or line.price_expired,
        }
        for place, (line, amount) in enumerate(priced)
        if amount and line.currency == currency
    ]
    spec = with_data(_price_spec(labels), rows)
    # A logarithmic scale has no zero, so all bars start at half the lowest price.
    bar_start = min((float(amount) for line, amount in priced if amount and line.currency == currency), default=1.0) / 2
    spec["params"] = [{"name": "start", "value": bar_start}]
    spec["data"] = {"values": [{**row, "start": bar_start} for row in rows]}
    spec["height"] = {"step": _BAR_STEP}
    return spec


def _bar_texts(line: PriceLine, labels: PriceLabels) -> list[str]:
    status = labels.retired if line.ended else labels.price_expired if line.price_expired else ""
    origin = labels.machine if line.price.local else labels.own
    return [mark for mark in (_format_multiple(line.multiple), origin if line.price.own else "", status) if mark]


def _format_multiple(multiple: Decimal | None) -> str:
    """Like `format_multiple`, but with two significant digits below 0.1, so that 0.005 × is not shown as 0.00 ×."""
    small = multiple is not None and 0 < multiple < Decimal("0.1")
    return f"{float(multiple or 0):.2g} ×" if small else format_multiple(multiple)


@cache
def _price_spec(labels: PriceLabels) -> Spec:
    # without a sort field, Vega would keep the order of the bars that were drawn before
    by_position = alt.EncodingSortField("place", op="min")
    y = alt.Y("bar:N", sort=by_position, title=None, axis=alt.Axis(labelLimit=by_width(110, 320), ticks=False))
    x = alt.X(
        "price:Q",
        title=labels.price,
        axis=alt.Axis(
            format="~g", tickCount=by_width(3, 5), grid=False, titleAnchor="end", titleFontSize=by_width(11, 13)
        ),
        scale=alt.Scale(type="log", domainMin=alt.ExprRef("start"), nice=False),
    )
    tooltip = [
        alt.Tooltip("model:N", title=labels.model),
        alt.Tooltip("provider:N", title=labels.provider),
        alt.Tooltip("price:Q", title=labels.price, format="~g"),
        alt.Tooltip("multiple:N", title=labels.multiple),
    ]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=["other", "baseline"]), legend=None)
    faint = alt.condition("datum.ended", alt.value(_RETIRED_OPACITY), alt.value(1))
    base = alt.Chart(alt.NamedData("rows"))
    chart = alt.layer(
        base.mark_bar(cornerRadiusEnd=3).encode(x=x, x2="start:Q", y=y, color=colour, tooltip=tooltip, opacity=faint),
        base.mark_text(align="left", dx=5, fontSize=12).encode(x=x, y=y, text="at_end:N", color=colour),
    )
    return to_spec(chart)


@dataclass(frozen=True, slots=True)
class SpendingLabels:
    """Translated texts: axis and tooltip titles, and `others` for the remaining models."""

    day: str
    spent: str
    model: str
    others: str


def spending_bars(
    lines: Sequence[DayLine], calendar: Sequence[date], labels: SpendingLabels, *, monthly: bool = False
) -> Spec:
    """US dollars by day or month (UTC), stacked by model. The most expensive models are named, the others grouped.

    Args:
        calendar: the days (or first days of months) on the x axis, in order, including days without spending.
    """
    date_format = "%Y-%m" if monthly else "%m-%d"
    totals: dict[str, Decimal] = {}
    for line in lines:
        totals[line.model] = totals.get(line.model, Decimal(0)) + line.cost_usd
    top_models = sorted(totals, key=lambda model: (-totals[model], model))[:_MAX_MODELS]
    amounts: dict[tuple[str, str], Decimal] = {}
    for line in lines:
        key = (f"{line.day:{date_format}}", line.model if line.model in top_models else labels.others)
        amounts[key] = amounts.get(key, Decimal(0)) + line.cost_usd
    rows = [{"day": day, "model": model, "spent": float(amount)} for (day, model), amount in amounts.items()]
    domain = [*top_models, *([labels.others] if len(totals) > len(top_models) else [])]
    return with_data(_spending_spec(labels, tuple(domain), tuple(f"{day:{date_format}}" for day in calendar)), rows)


@cache
def _spending_spec(labels: SpendingLabels, models: tuple[str, ...], calendar: tuple[str, ...]) -> Spec:
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
            y=alt.Y("spent:Q", stack=True, title=labels.spent, axis=alt.Axis(format=NUMBER, tickCount=4)),
            color=alt.Color(
                "model:N",
                scale=alt.Scale(domain=list(models)),
                legend=alt.Legend(title=None, orient="top", columns=by_width(2, 5), labelLimit=by_width(120, 160)),
            ),
            tooltip=[
                alt.Tooltip("day:O", title=labels.day),
                alt.Tooltip("model:N", title=labels.model),
                alt.Tooltip("spent:Q", title=labels.spent, format=",.4f"),
            ],
        )
    ).properties(height=_SPENDING_HEIGHT)
    return to_spec(chart)


@dataclass(frozen=True, slots=True)
class BreakEvenLabels:
    """Translated texts: axis titles (with currency), the tooltip title of an option, and a label per crossing."""

    requests: str
    total: str
    way: str
    crossings: tuple[str, ...]


def break_even(
    options: Sequence[Costs], crossings: Sequence[BreakEven], max_requests: int, labels: BreakEvenLabels
) -> Spec:
    """Total cost by number of requests: one labelled line per option, with crossings marked.

    Args:
        options: costs of the options; options with unknown cost have no line.
        crossings: in the order of `labels.crossings`; those without a number of requests are left out.
        max_requests: the end of the x axis.
    """
    rows: list[dict[str, Any]] = []
    names = tuple(cost.candidate.name for cost in options)
    for cost in options:
        for requests in (0, max_requests):
            total = cost.total(requests)
            if total is not None:
                rows.append(
                    {"requests": requests, "total": float(total), "way": cost.candidate.name, "end": requests > 0}
                )
    for crossing, label in zip(crossings, labels.crossings, strict=True):
        total = options[0].total(crossing.requests) if options and crossing.requests is not None else None
        if crossing.requests is not None and crossing.requests <= max_requests and total is not None:
            rows.append({"requests": crossing.requests, "total": float(total), "crossing": label, "of": names[0]})
    spec = with_data(_break_even_spec(labels, names), rows)
    label_px = 12 + max((_text_width(name) for name in names), default=0) * _CHAR_WIDTH
    spec["params"] = [{"name": "xEnd", "expr": f"{max_requests} * width / max(width - {label_px:g} - 40, width * 0.3)"}]
    return spec


def _text_width(text: str) -> int:
    return sum(2 if character > "\u2e7f" else 1 for character in text)


def _axis_number(usual: str) -> str:
    """A Vega expression that formats axis numbers as `usual`, or as 20M and 5B from a million on."""
    return f"datum.value < 1e6 ? format(datum.value, '{usual}') : replace(format(datum.value, '~s'), 'G', 'B')"


@cache
def _break_even_spec(labels: BreakEvenLabels, names: tuple[str, ...]) -> Spec:
    x = alt.X(
        "requests:Q",
        title=labels.requests,
        scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef("xEnd"), nice=False),
        axis=alt.Axis(labelExpr=_axis_number(",d"), tickCount=6, grid=False),
    )
    y = alt.Y(
        "total:Q",
        title=labels.total,
        axis=alt.Axis(labelExpr=_axis_number(",~g"), tickCount=5),
        scale=alt.Scale(zero=True),
    )
    colour = alt.Color("way:N", scale=alt.Scale(domain=list(names)), legend=None)
    crossing_colour = alt.Color("of:N", scale=alt.Scale(domain=list(names)), legend=None)
    tooltip = [
        alt.Tooltip("way:N", title=labels.way),
        alt.Tooltip("requests:Q", title=labels.requests, format=",d"),
        alt.Tooltip("total:Q", title=labels.total, format=",.2f"),
    ]
    base = alt.Chart(alt.NamedData("rows"))
    lines = base.transform_filter("isValid(datum.way)")
    crossings = base.transform_filter("isValid(datum.crossing)")
    chart = alt.layer(
        lines.mark_line(strokeWidth=2.5).encode(x=x, y=y, color=colour, tooltip=tooltip),
        lines.transform_filter("datum.end")
        .mark_text(align="left", dx=6, fontSize=12, fontWeight="bold", limit=220)
        .encode(x=x, y=y, color=colour, text="way:N"),
        crossings.mark_rule(strokeDash=[4, 3], opacity=0.6).encode(x=x, color=crossing_colour),
        crossings.mark_point(size=90, filled=True, opacity=1).encode(x=x, y=y, color=crossing_colour),
        crossings.mark_text(align="left", dx=8, dy=16, fontSize=13).encode(
            x=x, y=y, text="crossing:N", color=crossing_colour
        ),
    ).properties(height=_BREAK_EVEN_HEIGHT)
    return to_spec(chart)


@dataclass(frozen=True, slots=True)
class QualityLabels:
    """Translated texts: axis and tooltip titles, `kinds` (votes, evaluations), `free` for models without a cost,
    and the `comma` between models at one point.
    """

    cost: str
    quality: str
    model: str
    count: str
    kinds: tuple[str, str]
    free: str
    comma: str = ", "


def quality_scatter(qualities: Sequence[Quality], labels: QualityLabels) -> Spec:
    """Quality (0 to 1, with its interval) by cost per story, with the model's name at each point.

    Models with unknown cost are left out. Free models are at the left edge and labelled as free, because a logarithmic
    axis has no zero.
    """
    known = [quality for quality in qualities if quality.cost_usd is not None]
    lowest_usd = min((float(quality.cost_usd) for quality in known if quality.cost_usd), default=0.001)
    rows = [
        {
            "model": quality.model,
            "cost": float(quality.cost_usd or 0) or lowest_usd / 3,
            "paid": float(quality.cost_usd or 0),
            "share": quality.share,
            "low": quality.low,
            "high": quality.high,
            "n": quality.n,
            "kind": labels.kinds[0] if quality.kind == "votes" else labels.kinds[1],
        }
        for quality in known
    ]
    names: dict[tuple[object, ...], list[str]] = {}  # points in the same place share one label
    for row in rows:
        names.setdefault((row["cost"], row["share"]), []).append(str(row["model"]))
    for row in rows:
        sharing = names.pop((row["cost"], row["share"]), [])
        row["name"] = labels.comma.join(sharing) + (f" · {labels.free}" if sharing and not row["paid"] else "")
    return with_data(_scatter_spec(labels), rows)


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
        base.mark_text(align="left", dx=9, fontSize=12, limit=220).encode(x=x, y=y, text="name:N", color=colour),
    ).properties(height=_QUALITY_HEIGHT)
    spec = to_spec(chart)
    spec["layer"][1]["encoding"]["shape"]["legend"] = None
    return spec
