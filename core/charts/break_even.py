"""When one way to do a workload has paid back: costs and crossings in, Vega-Lite out, as in `core.charts.cost`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from core.charts.common import Spec, to_spec
from core.charts.spec_helpers import with_data
from core.cost.workload import BreakEven, Costs

_HEIGHT = 340  # px
_LETTER = 7.5  # px of a letter of the names at the ends of lines; a Chinese one takes two


@dataclass(frozen=True, slots=True)
class BreakEvenLabels:
    """Words of the break-even chart: axes (with currency), the name of a line in tooltips, and of each crossing."""

    requests: str
    total: str
    way: str
    crossings: tuple[str, ...]


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
    spec = with_data(_break_even_spec(labels, names), rows)
    room = 12 + max((_letters(name) for name in names), default=0) * _LETTER  # right of the ends, for the names
    spec["params"] = [{"name": "xEnd", "expr": f"{most} * width / max(width - {room:g} - 40, width * 0.3)"}]
    return spec


def _letters(text: str) -> int:
    return sum(2 if character > "\u2e7f" else 1 for character in text)


def _large(usual: str) -> str:
    """How an axis writes its numbers: as `usual`, from a million on as 20M or 5B."""
    return f"datum.value < 1e6 ? format(datum.value, '{usual}') : replace(format(datum.value, '~s'), 'G', 'B')"


@cache
def _break_even_spec(labels: BreakEvenLabels, ways: tuple[str, ...]) -> Spec:
    x = alt.X(
        "requests:Q",
        title=labels.requests,
        scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef("xEnd"), nice=False),
        axis=alt.Axis(labelExpr=_large(",d"), tickCount=6, grid=False),
    )
    y = alt.Y(
        "total:Q",
        title=labels.total,
        axis=alt.Axis(labelExpr=_large(",~g"), tickCount=5),
        scale=alt.Scale(zero=True),
    )
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
    ).properties(height=_HEIGHT)
    return to_spec(chart)
