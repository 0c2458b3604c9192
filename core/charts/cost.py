"""Bars of prices: lines of a comparison in, Vega-Lite out, in the manner of `core.charts.common`.

Plain dicts, without backgrounds, fonts or series colours: those come from the theme. Titles, labels and numbers in
words come in already translated; the page gives the `alt` text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

import altair as alt

from core.charts.common import Spec, format_multiple, to_spec
from core.charts.spec_helpers import by_width, with_data
from core.cost.comparison import PriceLine

_BAR_STEP = 24  # px for each price bar
_DIM = 0.45  # opacity of what can no longer be used


@dataclass(frozen=True, slots=True)
class PriceLabels:
    """Words of the price bars: title of the price axis (with its unit), names in tooltips, what marks a bar."""

    price: str
    model: str
    multiple: str
    provider: str
    own: str
    machine: str
    retired: str
    past: str


def price_bars(lines: Sequence[PriceLine], labels: PriceLabels, side: str = "output") -> Spec:
    """Horizontal bars on a logarithmic scale, in the order of `lines`, the multiple written at each bar.

    Lines without a price on this side, free ones, and those in another currency than the first are left out: the
    table beside the chart has them. The same model at two providers gets two bars; retired ones are faint.
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
            "multiple": _times(line.multiple),
            "at_end": " ".join(_marks(line, labels)),
            "kind": "baseline" if line.is_baseline else "other",
            "ended": line.ended or line.past,
        }
        for place, (line, amount) in enumerate(priced)
        if amount and line.currency == currency
    ]
    spec = with_data(_price_spec(labels), rows)
    # On a logarithmic scale a bar has no zero to begin at: all begin at half the least price.
    start = min((float(amount) for line, amount in priced if amount and line.currency == currency), default=1.0) / 2
    spec["params"] = [{"name": "start", "value": start}]
    spec["data"] = {"values": [{**row, "start": start} for row in rows]}
    spec["height"] = {"step": _BAR_STEP}
    return spec


def _marks(line: PriceLine, labels: PriceLabels) -> list[str]:
    old = labels.retired if line.ended else labels.past if line.past else ""
    mine = labels.machine if line.price.local else labels.own
    return [mark for mark in (_times(line.multiple), mine if line.price.own else "", old) if mark]


def _times(multiple: Decimal | None) -> str:
    """As `format_multiple`, and what is less than a tenth with its first two digits: 0.005 × is not 0.00 ×."""
    small = multiple is not None and 0 < multiple < Decimal("0.1")
    return f"{float(multiple or 0):.2g} ×" if small else format_multiple(multiple)


@cache
def _price_spec(labels: PriceLabels) -> Spec:
    by_place = alt.EncodingSortField("place", op="min")  # without a field, bars that were there before stay on top
    y = alt.Y("bar:N", sort=by_place, title=None, axis=alt.Axis(labelLimit=by_width(110, 320), ticks=False))
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
    faint = alt.condition("datum.ended", alt.value(_DIM), alt.value(1))
    base = alt.Chart(alt.NamedData("rows"))
    chart = alt.layer(
        base.mark_bar(cornerRadiusEnd=3).encode(x=x, x2="start:Q", y=y, color=colour, tooltip=tooltip, opacity=faint),
        base.mark_text(align="left", dx=5, fontSize=12).encode(x=x, y=y, text="at_end:N", color=colour),
    )
    return to_spec(chart)
