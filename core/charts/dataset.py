"""Charts for a data set: the heat map of its rows (`core.datasets.heatmap`), and the charts of the quality report.

Follows the conventions of `core.charts.vega_lite`, except for colours: state colours carry meaning, and the colours of
the number map keep its numbers legible. They are set here, and work in light mode, in dark mode and for colour-blind
readers. A click on a square, bar or cell is reported through a selection parameter, so that the page can show its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from core.charts.vega_lite import CONFIG, Spec
from core.datasets.heatmap import HeatMap, Square
from core.datasets.quality.texts import Bin

HEAT_MAP_SELECTION = "cell"  # name of the selection; its points have the field `place`
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
PICKED = "picked"
"""Name of the selection with the fields of the clicked mark."""

_HISTOGRAM_HEIGHT = 220  # px
_BAR_STEP = 28  # px per horizontal bar
_CELL_STEP = 34  # px per row of the map
_CELL_COLOURS = ("#4A7FAE", "#163A5C")  # few to many rows; white numbers are readable on both, in every theme
_EMPTY_CELL_COLOUR = "#A85A18"  # a cell without rows; distinguishable with colour blindness
_CLICKABLE_LAYER = "marks"  # name of the clickable layer
_UNSELECTED_OPACITY = 0.45  # opacity of other marks while one is selected


@dataclass(frozen=True, slots=True)
class MapLabels:
    """Translated texts: names of the states by key, and tooltip titles."""

    states: Mapping[str, str]
    state: str
    cell: str
    repeat: str
    done: str
    failed: str


def heat_map(map_: HeatMap, labels: MapLabels) -> Spec:
    """The heat map. A click selects `place` in the selection `HEAT_MAP_SELECTION`."""
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
    selection = alt.selection_point(name=HEAT_MAP_SELECTION, fields=["place"], on="click", clear="dblclick")
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
    """Each square stands for many rows: the higher the finished share, the darker the square."""
    _state, cell, _repeat, done, failed = words
    selection = alt.selection_point(name=HEAT_MAP_SELECTION, fields=["place"], on="click", clear="dblclick")
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
    # without a sort field, values that first occur in later rows would be placed last
    by_position = alt.EncodingSortField("place", op="min")
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


@dataclass(frozen=True, slots=True)
class BarLabels:
    """Translated axis titles of a bar chart. `name` may be ""."""

    name: str
    value: str


def histogram(bins: Sequence[Bin], title: str, rows: str) -> Spec:
    """Histogram of rows by length. A click selects `low` and `high` of the bar.

    Args:
        title: title of the x axis with its unit; rows: title of the y axis.
    """
    x: Spec = {"field": "low", "type": "quantitative", "title": title, "scale": {"zero": False, "nice": False}}
    x["axis"] = {"grid": False, "format": ",d", "tickCount": 8}
    return {
        **_clickable(["low", "high"]),
        "height": _HISTOGRAM_HEIGHT,
        "data": {"values": [{"low": b.low, "high": b.high, "rows": b.count} for b in bins]},
        "mark": {"type": "rect", "cursor": "pointer", "cornerRadius": 2, "xOffset": 0.5, "x2Offset": -0.5},
        "encoding": {
            "x": x,
            "x2": {"field": "high"},
            "y": {"field": "rows", "type": "quantitative", "title": rows, "axis": {"format": ",d", "tickMinStep": 1}},
            "y2": {"datum": 0},
            "opacity": _OPACITY,
            "tooltip": [
                {"field": "low", "type": "quantitative", "title": title, "format": ",d"},
                {"field": "rows", "type": "quantitative", "title": rows, "format": ",d"},
            ],
        },
    }


def bars(values: Sequence[tuple[str, float]], labels: BarLabels, *, percent: bool = False) -> Spec:
    """Horizontal bars in the given order, with their numbers. A click selects the bar's `name`.

    Args:
        values: (name, number); with `percent`, numbers are shares from 0 to 1.
    """
    number_format = ".0%" if percent else ",d"
    scale = {"domain": [0, 1]} if percent else {"zero": True}
    y = {"field": "name", "type": "nominal", "sort": None, "title": labels.name or None}
    x = {"field": "value", "type": "quantitative", "title": labels.value, "scale": scale}
    encoding: Spec = {
        "y": {**y, "axis": {"labelLimit": 220, "ticks": False}},
        "x": {**x, "axis": {"format": number_format, "tickCount": 5, "grid": False}},
    }
    tooltip = [
        {"field": "name", "type": "nominal", "title": labels.name or " "},
        {"field": "value", "type": "quantitative", "title": labels.value, "format": ".1%" if percent else ",d"},
    ]
    bar_layer = {"name": _CLICKABLE_LAYER, "mark": {"type": "bar", "cursor": "pointer", "cornerRadiusEnd": 3}}
    text_layer = {"mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 12}}
    text_encoding: Spec = {
        "text": {"field": "value", "type": "quantitative", "format": number_format},
        "color": _THEME_COLOUR,
    }
    return {
        **_clickable(["name"], _CLICKABLE_LAYER),
        "config": CONFIG,
        "height": {"step": _BAR_STEP},
        "data": {"values": [{"name": name, "value": value, "tone": "rows"} for name, value in values]},
        "encoding": encoding,
        "layer": [
            {**bar_layer, "encoding": {"opacity": _OPACITY, "tooltip": tooltip}},
            {**text_layer, "encoding": text_encoding},
        ],
    }


def cell_map(cells: Sequence[tuple[str, str, int]], across: str, down: str, rows: str) -> Spec:
    """Heat map with the number of rows for each pair of values. A click selects `across` and `down` of the cell.

    Args:
        cells: (value across, value down, rows), in display order.
        across, down: names of the two columns; rows: tooltip title of the number.
    """
    max_rows = max((count for _, _, count in cells), default=0)
    tooltip: list[Any] = [
        {"field": "across", "type": "nominal", "title": across},
        {"field": "down", "type": "nominal", "title": down},
        {"field": "rows", "type": "quantitative", "title": rows, "format": ",d"},
    ]
    scale = {"domain": [0, max(max_rows, 1)], "range": list(_CELL_COLOURS)}
    colour: Spec = {"field": "rows", "type": "quantitative", "legend": None, "scale": scale}
    colour["condition"] = {"test": "datum.rows == 0", "value": _EMPTY_CELL_COLOUR}
    rect_layer = {"name": _CLICKABLE_LAYER, "mark": {"type": "rect", "cursor": "pointer", "cornerRadius": 3}}
    text_layer = {"mark": {"type": "text", "fontSize": 12, "fontWeight": "bold", "color": "white", "tooltip": None}}
    text_encoding: Spec = {"text": {"field": "rows", "type": "quantitative", "format": ",d"}}
    return {
        **_clickable(["across", "down"], _CLICKABLE_LAYER),
        "height": {"step": _CELL_STEP},
        "data": {"values": [{"across": a, "down": d, "rows": count} for a, d, count in cells]},
        "encoding": {
            "x": {**_cell_axis("across", across), "axis": {**_ACROSS_AXIS, "ticks": False, "domain": False}},
            "y": {**_cell_axis("down", down), "axis": {"labelLimit": 160, "ticks": False, "domain": False}},
        },
        "layer": [
            {**rect_layer, "encoding": {"color": colour, "opacity": _OPACITY, "tooltip": tooltip}},
            {**text_layer, "encoding": text_encoding},
        ],
    }


# A nominal field uses the theme's palette, in light and dark mode. Without it, marks would be black.
_THEME_COLOUR: Spec = {"field": "tone", "type": "nominal", "legend": None}
_CELL_PADDING: Spec = {"paddingInner": 0.06}
_ACROSS_AXIS: Spec = {"labelAngle": 0, "labelLimit": 120, "orient": "top"}
_OPACITY: Spec = {"condition": {"param": PICKED, "value": 1}, "value": _UNSELECTED_OPACITY}


def _cell_axis(field: str, title: str) -> Spec:
    return {"field": field, "type": "nominal", "sort": None, "scale": _CELL_PADDING, "title": title}


def _clickable(fields: Sequence[str], layer: str | None = None) -> Spec:
    """The click selection. `layer`: in layered charts, the name of the clickable layer."""
    param: Spec = {"name": PICKED, "select": {"type": "point", "fields": list(fields)}}
    return {"params": [param if layer is None else {**param, "views": [layer]}]}
