"""Scatter chart of quality by price, as a Vega-Lite spec. Conventions as in `core.charts.cost`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import altair as alt

from core.charts.common import Spec, to_spec
from core.charts.spec_helpers import with_data
from core.pricing.quality import Quality

_HEIGHT = 320  # px


@dataclass(frozen=True, slots=True)
class QualityLabels:
    """Translated texts: axis and tooltip titles, `kinds` (votes, evaluations), and `free` for models without a cost."""

    cost: str
    quality: str
    model: str
    count: str
    kinds: tuple[str, str]
    free: str


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
        row["name"] = ", ".join(sharing) + (f" · {labels.free}" if sharing and not row["paid"] else "")
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
    ).properties(height=_HEIGHT)
    spec = to_spec(chart)
    spec["layer"][1]["encoding"]["shape"]["legend"] = None
    return spec
