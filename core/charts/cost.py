"""Bar chart of a price comparison, as a Vega-Lite spec.

Conventions of all charts: specs are plain dicts without backgrounds, fonts or series colours, which the page's theme
adds. All texts are passed in translated. The page provides the `alt` text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

import altair as alt

from core.charts.common import Spec, format_multiple, to_spec
from core.charts.spec_helpers import by_width, with_data
from core.pricing.comparison import PriceLine

_BAR_STEP = 24  # px per bar
_RETIRED_OPACITY = 0.45  # opacity of models that can no longer be used


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
    by_position = alt.EncodingSortField("place", op="min")  # without a field, Vega keeps the order of earlier bars
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
