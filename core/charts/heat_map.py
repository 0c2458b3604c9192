"""The map of a data set, `core.dataset.heatmap` in and Vega-Lite out, in the manner of `core.charts.common`.

The colours of states are the one thing that is set here and not by the theme: they mean something. All of them are
read on paper and on ink alike, stay apart for colour-blind eyes (blue against orange and grey), and failed and
left-out rows carry a sign besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from core.dataset.heatmap import HeatMap, Square

Spec = dict[str, Any]
"""A Vega-Lite specification with its data inside."""

SELECTION = "cell"  # name of the selection; its points have `place`
STATES = ("done", "sent", "failed", "excluded", "pending")
_COLOURS = {"done": "#3B82B8", "sent": "#E3A93B", "failed": "#CC5A3C", "excluded": "#8C877B", "pending": "#B9B4A644"}
_SIGNS = {"failed": "×", "excluded": "–"}
_STEP = 16  # px: small enough for forty lines on a screen, large enough for a finger and for a label
_SHARE_STEP = 20
_MOST_STEP = 56  # px: of the squares of a small map
_SMALL = 320  # px: the height that a map of few lines fills
_STRIP_ACROSS = 50  # squares in a line where there are no labels
_GAP = 0.12  # of a square, between it and the next
_LEAST = 0.1  # opacity of a square with nothing done: it can be seen, and seen to be empty
_IN_A_LINE = alt.ExprRef("width < 200 ? 1 : width < 480 ? 2 : 5")  # states in the legend; px of the squares
_LONGEST = 60  # characters of a name in a tooltip


@dataclass(frozen=True, slots=True)
class MapLabels:
    """Words of a map, in the visitor's language: names of the states by their key, titles in tooltips."""

    states: Mapping[str, str]
    state: str
    cell: str
    repeat: str
    done: str
    failed: str


def chart(map_: HeatMap, labels: MapLabels) -> Spec:
    """The map as a chart; a click selects `place` under the name `SELECTION`."""
    names = tuple(labels.states.get(state, state) for state in STATES)
    words = (labels.state, labels.cell, labels.repeat, labels.done, labels.failed)
    if map_.kind in ("pairs", "blocks"):
        spec = _share_spec(map_.kind, words)
        rows = [_share(square, i, map_.kind) for i, square in enumerate(map_.squares)]
    else:
        spec = _state_spec(map_.kind, names, words)
        rows = [_state(square, i, map_.kind, labels) for i, square in enumerate(map_.squares)]
    lines = len({row["down"] if "down" in row else row["y"] for row in rows})
    return {**spec, "data": {"values": rows}, "height": {"step": _step(lines, spec["height"]["step"])}}


def _step(lines: int, least: int) -> int:
    """The height of a line, px: a map of few lines has large squares, one of many the least that can be read."""
    return max(least, min(_MOST_STEP, _SMALL // max(1, lines)))


def _state(square: Square, index: int, kind: str, labels: MapLabels) -> dict[str, Any]:
    state = square.state or "pending"
    return {
        **_place(square, index, kind),
        "repeat": square.repeat + 1,
        "state": labels.states.get(state, state),
        "sign": _SIGNS.get(state, ""),
    }


def _share(square: Square, index: int, kind: str) -> dict[str, Any]:
    share = square.share or 0.0
    return {
        **_place(square, index, kind),
        "shade": _LEAST + (1 - _LEAST) * share,
        "written": f"{square.done:,} / {square.rows:,}",
        "failed": square.failed,
        "sign": "×" if square.failed else "",
    }


def _place(square: Square, index: int, kind: str) -> dict[str, Any]:
    name = square.name if len(square.name) <= _LONGEST else f"{square.name[: _LONGEST - 1]}…"
    if kind in ("strip", "blocks"):
        where: dict[str, Any] = {"x": index % _STRIP_ACROSS, "y": index // _STRIP_ACROSS}
    else:
        where = {"down": square.down, "across": square.across}
    return {"place": square.place, "name": name, **where}


@cache
def _state_spec(kind: str, names: Sequence[str], words: Sequence[str]) -> Spec:
    """Rows as squares: `names` of the states in the order of `STATES`."""
    state, cell, repeat, _done, _failed = words
    picked = alt.selection_point(name=SELECTION, fields=["place"], on="click", clear="dblclick")
    colour = alt.Color(
        "state:N",
        scale=alt.Scale(domain=list(names), range=[_COLOURS[s] for s in STATES]),
        legend=alt.Legend(orient="top", title=None, symbolType="square", columns=_IN_A_LINE, labelLimit=200),
    )
    tooltip = [
        alt.Tooltip("name:N", title=cell),
        alt.Tooltip("repeat:O", title=repeat),
        alt.Tooltip("state:N", title=state),
    ]
    place = _axes(kind, offset="repeat")
    base = alt.Chart(alt.NamedData("rows"))
    squares = base.mark_rect(cornerRadius=2, cursor="pointer").encode(
        color=colour, tooltip=tooltip, opacity=alt.condition(picked, alt.value(1), alt.value(0.35)), **place
    )
    return _plain(alt.layer(squares.add_params(picked), _signs(base, place)), _STEP)


@cache
def _share_spec(kind: str, words: Sequence[str]) -> Spec:
    """Many rows in a square: the fuller, the darker."""
    _state, cell, _repeat, done, failed = words
    picked = alt.selection_point(name=SELECTION, fields=["place"], on="click", clear="dblclick")
    tooltip = [
        alt.Tooltip("name:N", title=cell),
        alt.Tooltip("written:N", title=done),
        alt.Tooltip("failed:Q", title=failed, format=",d"),
    ]
    place = _axes(kind)
    base = alt.Chart(alt.NamedData("rows"))
    squares = base.mark_rect(cornerRadius=2, cursor="pointer", color=_COLOURS["done"]).encode(
        tooltip=tooltip,
        opacity=alt.Opacity("shade:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None),
        stroke=alt.condition(picked, alt.value(_COLOURS["sent"]), alt.value("transparent"), empty=False),
        strokeWidth=alt.value(3),
        **place,
    )
    return _plain(alt.layer(squares.add_params(picked), _signs(base, place)), _SHARE_STEP)


def _axes(kind: str, offset: str | None = None) -> dict[str, Any]:
    """Where a square stands: by its labels, or in lines of one length."""
    if kind in ("strip", "blocks"):
        gap = alt.Scale(paddingInner=_GAP, paddingOuter=0)
        return {"x": alt.X("x:O", axis=None, scale=gap), "y": alt.Y("y:O", axis=None, scale=gap)}
    top = alt.Axis(
        orient="top", labelAngle=0, title=None, labelLimit=220, ticks=False, domain=False, labelOverlap="greedy"
    )
    left = alt.Axis(
        title=None, labelLimit=220, labelFontSize=11, labelFlush=False, ticks=False, domain=False, labelOverlap=False
    )
    gap = alt.Scale(paddingInner=_GAP, paddingOuter=0)
    apart = alt.Scale(paddingInner=_GAP / 2, paddingOuter=0)
    by_place = alt.EncodingSortField("place", op="min")  # without a field, values that come later stand last
    found: dict[str, Any] = {
        "x": alt.X("across:N", sort=by_place, axis=top, scale=apart),
        "y": alt.Y("down:N", sort=by_place, axis=left, scale=gap),
    }
    if offset:
        found["xOffset"] = alt.XOffset(f"{offset}:O", scale=gap)
    return found


def _signs(base: alt.Chart, place: Mapping[str, Any]) -> alt.Chart:
    signed = base.transform_filter("datum.sign != ''")
    signs: alt.Chart = signed.mark_text(fontSize=10, fontWeight="bold", color="white", tooltip=None).encode(
        text="sign:N", **place
    )
    return signs


def _plain(layers: alt.LayerChart | alt.FacetChart, step: int) -> Spec:
    """The chart as a dict, without Altair's own look; its height grows with its lines."""
    spec: Spec = layers.to_dict()
    for key in ("config", "datasets"):
        spec.pop(key, None)
    spec["height"] = {"step": step}
    return spec
