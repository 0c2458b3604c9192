"""Bar chart of spending by day or month, as a Vega-Lite spec. Conventions as in `core.charts.cost`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache

import altair as alt

from core.charts.common import Spec, to_spec
from core.charts.spec_helpers import by_width, with_data
from core.pricing.spend_history import DayLine

_HEIGHT = 300  # px
_MAX_MODELS = 6  # with their own colour; all others share one


@dataclass(frozen=True, slots=True)
class DayLabels:
    """Translated texts: axis and tooltip titles, and `others` for the remaining models."""

    day: str
    spent: str
    model: str
    others: str


def days(lines: Sequence[DayLine], calendar: Sequence[date], labels: DayLabels, *, monthly: bool = False) -> Spec:
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
    return with_data(_day_spec(labels, tuple(domain), tuple(f"{day:{date_format}}" for day in calendar)), rows)


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
    ).properties(height=_HEIGHT)
    return to_spec(chart)
