"""Charts of the quality report: numbers in, plain Vega-Lite dicts out, labels passed in already translated.

As in `core.charts.common`, no backgrounds, fonts or series colours are set: they come from the theme around the chart.
(The map sets its own, for the numbers in it.) A bar or cell that is clicked is handed back through the selection
parameter `picked`, so that it can lead to its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.charts.common import Spec
from core.dataset.quality.lengths import Bin

PICKED = "picked"
"""Name of the selection; a page reads the fields of the clicked mark under it."""

_HISTOGRAM_HEIGHT = 220  # px
_BAR_STEP = 28  # px for each horizontal bar
_CELL_STEP = 34  # px for each line of the map
_FEW_TO_MANY = ("#4A7FAE", "#163A5C")  # white numbers can be read on all of it, whatever the theme
_NONE = "#A85A18"  # a cell without a row, unlike all others also for the colour-blind
_MARKS = "marks"  # name of the layer that can be clicked
_FADED = 0.45  # opacity of what is not clicked while something is


@dataclass(frozen=True, slots=True)
class BarLabels:
    """Words of a bar chart: the axis of the names (may be ""), the axis of the numbers."""

    name: str
    value: str


def histogram(bins: Sequence[Bin], title: str, rows: str) -> Spec:
    """Rows by length. A clicked bar gives its `low` and `high`.

    Args:
        title: of the axis, with its unit; rows: title of the other axis.
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
    """Horizontal bars in the order given, the number written at each. A clicked bar gives its `name`.

    Args:
        values: name and number; with `percent`, numbers are shares from 0 to 1.
    """
    form = ".0%" if percent else ",d"
    scale = {"domain": [0, 1]} if percent else {"zero": True}
    y = {"field": "name", "type": "nominal", "sort": None, "title": labels.name or None}
    x = {"field": "value", "type": "quantitative", "title": labels.value, "scale": scale}
    encoding: Spec = {
        "y": {**y, "axis": {"labelLimit": 220, "ticks": False}},
        "x": {**x, "axis": {"format": form, "tickCount": 5, "grid": False}},
    }
    tooltip = [
        {"field": "name", "type": "nominal", "title": labels.name or " "},
        {"field": "value", "type": "quantitative", "title": labels.value, "format": ".1%" if percent else ",d"},
    ]
    bar = {"name": _MARKS, "mark": {"type": "bar", "cursor": "pointer", "cornerRadiusEnd": 3}}
    written = {"mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 12}}
    number: Spec = {"text": {"field": "value", "type": "quantitative", "format": form}, "color": _THEMES_FIRST}
    return {
        **_clickable(["name"], _MARKS),
        "height": {"step": _BAR_STEP},
        "data": {"values": [{"name": name, "value": value, "tone": "rows"} for name, value in values]},
        "encoding": encoding,
        "layer": [{**bar, "encoding": {"opacity": _OPACITY, "tooltip": tooltip}}, {**written, "encoding": number}],
    }


def cell_map(cells: Sequence[tuple[str, str, int]], across: str, down: str, rows: str) -> Spec:
    """Rows for each pair of values as a map of colours with numbers. A clicked cell gives its `across` and `down`.

    Args:
        cells: value across, value down, rows; in the order in which values are to be shown.
        across, down: names of the two columns; rows: what the number counts.
    """
    most = max((count for _, _, count in cells), default=0)
    tooltip: list[Any] = [
        {"field": "across", "type": "nominal", "title": across},
        {"field": "down", "type": "nominal", "title": down},
        {"field": "rows", "type": "quantitative", "title": rows, "format": ",d"},
    ]
    scale = {"domain": [0, max(most, 1)], "range": list(_FEW_TO_MANY)}
    colour: Spec = {"field": "rows", "type": "quantitative", "legend": None, "scale": scale}
    colour["condition"] = {"test": "datum.rows == 0", "value": _NONE}
    rect = {"name": _MARKS, "mark": {"type": "rect", "cursor": "pointer", "cornerRadius": 3}}
    numbers = {"mark": {"type": "text", "fontSize": 12, "fontWeight": "bold", "color": "white", "tooltip": None}}
    text: Spec = {"text": {"field": "rows", "type": "quantitative", "format": ",d"}}
    return {
        **_clickable(["across", "down"], _MARKS),
        "height": {"step": _CELL_STEP},
        "data": {"values": [{"across": a, "down": d, "rows": count} for a, d, count in cells]},
        "encoding": {
            "x": {
                "field": "across",
                "type": "nominal",
                "sort": None,
                "scale": _APART,
                "title": across,
                "axis": {"labelAngle": 0, "labelLimit": 120, "orient": "top", "ticks": False, "domain": False},
            },
            "y": {
                "field": "down",
                "type": "nominal",
                "sort": None,
                "scale": _APART,
                "title": down,
                "axis": {"labelLimit": 160, "ticks": False, "domain": False},
            },
        },
        "layer": [
            {**rect, "encoding": {"color": colour, "opacity": _OPACITY, "tooltip": tooltip}},
            {**numbers, "encoding": text},
        ],
    }


# A name in place of a colour takes the theme's own palette, in light and in dark; a mark without it would be black.
_THEMES_FIRST: Spec = {"field": "tone", "type": "nominal", "legend": None}
_APART: Spec = {"paddingInner": 0.06}
_OPACITY: Spec = {"condition": {"param": PICKED, "value": 1}, "value": _FADED}


def _clickable(fields: Sequence[str], layer: str | None = None) -> Spec:
    """The selection; in a chart of layers, the one whose marks can be clicked."""
    param: Spec = {"name": PICKED, "select": {"type": "point", "fields": list(fields)}}
    return {"params": [param if layer is None else {**param, "views": [layer]}]}
