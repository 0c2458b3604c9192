"""A family tree as a picture: who came from whom, from left to right; in the manner of `core.charts.common`.

Layers by the longest way from a beginning; in a layer, each stands beside what it came from. Enough for trees of
some dozen members; it does not look for the fewest crossings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean

import altair as alt

from core.charts.common import Spec, to_spec

OPENED = "member"
"""Name of the selection that a click on a member makes; its point has the field `id`."""

_STEP = 58  # px for each row of members
_COLUMN = 180  # px: seven of them on a laptop's page; the page scrolls what is wider
_WIDTH = 0.84  # of a column; the rest is for the lines
_LIMIT = _WIDTH * _COLUMN - 10  # px for the text in a box
_HALF = 0.36  # of a row
_LETTERS = 34  # at the most in a line of a box


@dataclass(frozen=True, slots=True)
class Member:
    """One box: its id, what sort of thing it is (decides the colour; a word for the tooltip), and two lines of text."""

    id: str
    kind: str
    label: str
    detail: str = ""
    marked: bool = False


def layers(ids: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The column of each, from 0: one more than that of the furthest it came from. Circles are cut where they close."""
    before: dict[str, list[str]] = {one: [] for one in ids}
    for one, other in edges:
        if one in before and other in before:
            before[other].append(one)
    found: dict[str, int] = {}

    def depth(one: str, above: frozenset[str]) -> int:
        if one not in found:
            known = [depth(parent, above | {one}) for parent in before[one] if parent not in above and parent != one]
            found[one] = max(known, default=-1) + 1
        return found[one]

    for one in ids:
        depth(one, frozenset())
    return found


def layout(ids: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, tuple[int, float]]:
    """Column and row of each; in a column no two share a row."""
    column = layers(ids, edges)
    rows: dict[str, float] = {}
    for level in range(max(column.values(), default=-1) + 1):
        here = [one for one in ids if column[one] == level]
        wanted = {one: mean(_parents(one, edges, rows) or [0.0]) for one in here}
        row = -1.0
        for one in sorted(here, key=lambda one: (wanted[one], ids.index(one))):
            row = max(row + 1, round(wanted[one]))
            rows[one] = row
    return {one: (column[one], rows[one]) for one in ids}


def family(members: Sequence[Member], edges: Sequence[tuple[str, str]], kinds: Mapping[str, str]) -> Spec:
    """The picture. `kinds` names every sort of thing in the visitor's language, in the order of their colours."""
    ids = [one.id for one in members]
    sort = {one.id: kinds.get(one.kind, one.kind) for one in members}
    at = layout(ids, edges)
    boxes = [
        {
            "id": one.id, "kind": sort[one.id], "label": one.label[:_LETTERS],
            "detail": one.detail[:_LETTERS], "whole": one.label, "marked": one.marked,
            "x": at[one.id][0], "x2": at[one.id][0] + _WIDTH, "y": at[one.id][1] - _HALF, "y2": at[one.id][1] + _HALF,
        }
        for one in members
    ]  # fmt: skip
    lines = [
        {
            "from": one,
            "kind": sort[one],
            "x": at[one][0] + _WIDTH,
            "y": at[one][1],
            "x2": at[other][0],
            "y2": at[other][1],
        }
        for one, other in edges
        if one in at and other in at
    ]
    columns, rows = 1 + max((x for x, _ in at.values()), default=0), 1 + max((y for _, y in at.values()), default=0)
    spec = _family_spec(columns, int(rows), tuple(kinds.values()))
    return {**spec, "data": {"values": [*boxes, *lines]}, "height": int(rows) * _STEP, "width": columns * _COLUMN}


def _parents(one: str, edges: Sequence[tuple[str, str]], rows: Mapping[str, float]) -> list[float]:
    return [rows[parent] for parent, child in edges if child == one and parent in rows]


@cache
def _family_spec(columns: int, rows: int, kinds: tuple[str, ...]) -> Spec:
    across = alt.Scale(domain=[0, columns - 1 + _WIDTH], nice=False)
    down = alt.Scale(domain=[rows - 0.5, -0.5], nice=False)
    x, x2 = alt.X("x:Q", scale=across, axis=None), alt.X2("x2:Q")
    y, y2 = alt.Y("y:Q", scale=down, axis=None), alt.Y2("y2:Q")
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(kinds)), legend=None)
    clicked = alt.selection_point(name=OPENED, on="click", fields=["id"], empty=False)
    base = alt.Chart(alt.NamedData("rows"))
    box = base.transform_filter("isValid(datum.id)").transform_calculate(
        left="datum.x + 0.03", upper="datum.y + 0.24", lower="datum.y + 0.5"
    )
    told = ("kind", "whole", "detail")
    tooltip = [alt.Tooltip(f"{name}:N", title=" " * place) for place, name in enumerate(told, 1)]
    line = base.transform_filter("isValid(datum.from)").mark_rule(strokeWidth=1.5, opacity=0.4)
    tones = alt.Scale(domain=list(kinds))

    def text(field: str, row: str, size: int, opacity: float) -> alt.Chart:
        words: alt.Chart = box.mark_text(align="left", baseline="middle", fontSize=size, opacity=opacity, limit=_LIMIT)
        placed: alt.Chart = words.encode(
            x=alt.X("left:Q", scale=across, axis=None), y=alt.Y(f"{row}:Q", scale=down, axis=None), text=f"{field}:N"
        )
        return placed

    return to_spec(
        alt.layer(
            line.encode(x=x, x2=x2, y=y, y2=y2, color=colour),
            box.mark_rect(cornerRadius=6, fillOpacity=0.18, cursor="pointer")
            .encode(
                x=x,
                x2=x2,
                y=y,
                y2=y2,
                fill=alt.Fill("kind:N", scale=tones, legend=None),
                stroke=alt.Stroke("kind:N", scale=tones, legend=None),
                strokeWidth=alt.condition("datum.marked", alt.value(3), alt.value(1)),
                tooltip=tooltip,
            )
            .add_params(clicked),
            text("label", "upper", 13, 1.0).encode(color=colour),
            text("detail", "lower", 11, 0.8).encode(color=colour),
        )
    )
