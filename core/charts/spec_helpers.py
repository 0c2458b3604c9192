"""Helpers shared by the charts of the cost page."""

from __future__ import annotations

from typing import Any

import altair as alt

from core.charts.common import Spec

_NARROW_PX = 480  # width of a phone


def by_width(narrow: float, wide: float) -> alt.ExprRef:
    """A number that depends on the chart's width: `narrow` on phones, otherwise `wide`."""
    return alt.ExprRef(f"width < {_NARROW_PX} ? {narrow} : {wide}")


def with_data(spec: Spec, rows: list[dict[str, Any]]) -> Spec:
    """A copy of a cached spec with its data."""
    return {**spec, "data": {"values": rows}}
