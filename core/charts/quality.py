"""Charts of the quality report, as Vega-Lite specs. Conventions as in `core.charts.vega_lite`.

The map sets its own colours, so that the numbers in it are readable. A click on a bar or cell is reported through the
selection parameter `picked`, so that the page can show its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.charts.vega_lite import CONFIG, Spec
from core.datasets.quality.texts import Bin

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
