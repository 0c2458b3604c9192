"""Heat map of a data set (`core.datasets.heatmap`), as a Vega-Lite spec. Conventions as in `core.charts.vega_lite`.

The colours of the states are set here instead of by the theme, because they have a meaning. They are readable in light
and dark mode and with colour blindness; failed and excluded rows also have a sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from core.charts.vega_lite import Spec
from core.datasets.heatmap import HeatMap, Square

SELECTION = "cell"  # name of the selection; its points have the field `place`
STATES = ("done", "sent", "failed", "excluded", "pending")
_COLOURS = {"done": "#3B82B8", "sent": "#E3A93B", "failed": "#CC5A3C", "excluded": "#8C877B", "pending": "#B9B4A644"}
_SIGNS = {"failed": "×", "excluded": "–"}
_MIN_ROW_PX = 16  # forty rows fit on a screen, and squares can be tapped
_MIN_SHARE_ROW_PX = 20
_MAX_ROW_PX = 56  # squares of a small map
_TARGET_HEIGHT = 320  # px: height of a map with few rows
_STRIP_COLUMNS = 50  # squares per row in maps without labels
_GAP = 0.12  # gap between squares, as a share of a square
_MIN_OPACITY = 0.1  # opacity of a square without finished rows
_LEGEND_COLUMNS = alt.ExprRef("width < 200 ? 1 : width < 480 ? 2 : 5")  # columns of the legend by width (px)
_MAX_NAME_LENGTH = 60  # characters of a name in a tooltip


@dataclass(frozen=True, slots=True)
class MapLabels:
    """Translated texts: names of the states by key, and tooltip titles."""

    states: Mapping[str, str]
    state: str
    cell: str
    repeat: str
    done: str
    failed: str


def chart(map_: HeatMap, labels: MapLabels) -> Spec:
    """The heat map. A click selects `place` in the selection `SELECTION`."""
    names = tuple(labels.states.get(state, state) for state in STATES)
    words = (labels.state, labels.cell, labels.repeat, labels.done, labels.failed)
    if map_.kind in ("pairs", "blocks"):
        spec = _share_spec(map_.kind, words)
        rows = [_share_row(square, i, map_.kind) for i, square in enumerate(map_.squares)]
    else:
        spec = _state_spec(map_.kind, names, words)
        rows = [_state_row(square, i, map_.kind, labels) for i, square in enumerate(map_.squares)]
    lines = len({row["down"] if "down" in row else row["y"] for row in rows})
    return {**spec, "data": {"values": rows}, "height": {"step": _row_height(lines, spec["height"]["step"])}}


def _row_height(lines: int, min_px: int) -> int:
    """The row height in px: larger squares if there are few rows, at least `min_px`."""
    return max(min_px, min(_MAX_ROW_PX, _TARGET_HEIGHT // max(1, lines)))


def _state_row(square: Square, index: int, kind: str, labels: MapLabels) -> dict[str, Any]:
    state = square.state or "pending"
    return {
        **_position_fields(square, index, kind),
        "repeat": square.repeat + 1,
        "state": labels.states.get(state, state),
        "sign": _SIGNS.get(state, ""),
    }


def _share_row(square: Square, index: int, kind: str) -> dict[str, Any]:
    share = square.share or 0.0
    return {
        **_position_fields(square, index, kind),
        "shade": _MIN_OPACITY + (1 - _MIN_OPACITY) * share,
        "written": f"{square.done:,} / {square.rows:,}",
        "failed": square.failed,
        "sign": "×" if square.failed else "",
    }


def _position_fields(square: Square, index: int, kind: str) -> dict[str, Any]:
    name = square.name if len(square.name) <= _MAX_NAME_LENGTH else f"{square.name[: _MAX_NAME_LENGTH - 1]}…"
    if kind in ("strip", "blocks"):
        position: dict[str, Any] = {"x": index % _STRIP_COLUMNS, "y": index // _STRIP_COLUMNS}
    else:
        position = {"down": square.down, "across": square.across}
    return {"place": square.place, "name": name, **position}


@cache
def _state_spec(kind: str, names: Sequence[str], words: Sequence[str]) -> Spec:
    """One square per row. `names`: translated states in the order of `STATES`."""
    state, cell, repeat, _done, _failed = words
    selection = alt.selection_point(name=SELECTION, fields=["place"], on="click", clear="dblclick")
    colour = alt.Color(
        "state:N",
        scale=alt.Scale(domain=list(names), range=[_COLOURS[s] for s in STATES]),
        legend=alt.Legend(orient="top", title=None, symbolType="square", columns=_LEGEND_COLUMNS, labelLimit=200),
    )
    tooltip = [
        alt.Tooltip("name:N", title=cell),
        alt.Tooltip("repeat:O", title=repeat),
        alt.Tooltip("state:N", title=state),
    ]
    position = _axes(kind, offset="repeat")
    base = alt.Chart(alt.NamedData("rows"))
    squares = base.mark_rect(cornerRadius=2, cursor="pointer").encode(
        color=colour, tooltip=tooltip, opacity=alt.condition(selection, alt.value(1), alt.value(0.35)), **position
    )
    return _to_spec(alt.layer(squares.add_params(selection), _sign_layer(base, position)), _MIN_ROW_PX)


@cache
def _share_spec(kind: str, words: Sequence[str]) -> Spec:
    """Many rows per square: the higher the finished share, the darker."""
    _state, cell, _repeat, done, failed = words
    selection = alt.selection_point(name=SELECTION, fields=["place"], on="click", clear="dblclick")
    tooltip = [
        alt.Tooltip("name:N", title=cell),
        alt.Tooltip("written:N", title=done),
        alt.Tooltip("failed:Q", title=failed, format=",d"),
    ]
    position = _axes(kind)
    base = alt.Chart(alt.NamedData("rows"))
    squares = base.mark_rect(cornerRadius=2, cursor="pointer", color=_COLOURS["done"]).encode(
        tooltip=tooltip,
        opacity=alt.Opacity("shade:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None),
        stroke=alt.condition(selection, alt.value(_COLOURS["sent"]), alt.value("transparent"), empty=False),
        strokeWidth=alt.value(3),
        **position,
    )
    return _to_spec(alt.layer(squares.add_params(selection), _sign_layer(base, position)), _MIN_SHARE_ROW_PX)


def _axes(kind: str, offset: str | None = None) -> dict[str, Any]:
    """The position of squares: by labels, or in rows of `_STRIP_COLUMNS`."""
    if kind in ("strip", "blocks"):
        gap_scale = alt.Scale(paddingInner=_GAP, paddingOuter=0)
        return {"x": alt.X("x:O", axis=None, scale=gap_scale), "y": alt.Y("y:O", axis=None, scale=gap_scale)}
    top = alt.Axis(
        orient="top", labelAngle=0, title=None, labelLimit=220, ticks=False, domain=False, labelOverlap="greedy"
    )
    left = alt.Axis(
        title=None, labelLimit=220, labelFontSize=11, labelFlush=False, ticks=False, domain=False, labelOverlap=False
    )
    gap_scale = alt.Scale(paddingInner=_GAP, paddingOuter=0)
    column_scale = alt.Scale(paddingInner=_GAP / 2, paddingOuter=0)
    by_position = alt.EncodingSortField("place", op="min")  # without a field, later values would be last
    axes: dict[str, Any] = {
        "x": alt.X("across:N", sort=by_position, axis=top, scale=column_scale),
        "y": alt.Y("down:N", sort=by_position, axis=left, scale=gap_scale),
    }
    if offset:
        axes["xOffset"] = alt.XOffset(f"{offset}:O", scale=gap_scale)
    return axes


def _sign_layer(base: alt.Chart, position: Mapping[str, Any]) -> alt.Chart:
    with_sign = base.transform_filter("datum.sign != ''")
    signs: alt.Chart = with_sign.mark_text(fontSize=10, fontWeight="bold", color="white", tooltip=None).encode(
        text="sign:N", **position
    )
    return signs


def _to_spec(layers: alt.LayerChart | alt.FacetChart, step: int) -> Spec:
    """The chart as a dict without Altair's default theme. Its height depends on the number of rows."""
    spec: Spec = layers.to_dict()
    for key in ("config", "datasets"):
        spec.pop(key, None)
    spec["height"] = {"step": step}
    return spec
