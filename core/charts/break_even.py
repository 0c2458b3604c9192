"""Break-even chart of a workload's options, as a Vega-Lite spec. See `core.charts.cost` for the conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from core.charts.common import Spec, to_spec
from core.charts.spec_helpers import with_data
from core.pricing.workload import BreakEven, Costs

_HEIGHT = 340  # px
_CHAR_WIDTH = 7.5  # px per character of the line labels; CJK characters count twice


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
    ).properties(height=_HEIGHT)
    return to_spec(chart)
