"""What the charts of the cost page share: rows put into a spec that was made once, and numbers for a phone."""

from __future__ import annotations

from typing import Any

import altair as alt

from core.charts.common import Spec

_NARROW = 480  # px: a phone


def by_width(narrow: float, wide: float) -> alt.ExprRef:
    """A number for a phone, and one for anything wider."""
    return alt.ExprRef(f"width < {_NARROW} ? {narrow} : {wide}")


def with_data(spec: Spec, rows: list[dict[str, Any]]) -> Spec:
    """A copy of a spec that is shared, with its rows inside."""
    return {**spec, "data": {"values": rows}}
