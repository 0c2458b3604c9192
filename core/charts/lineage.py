"""Lineage graph of models, from left to right, as a Vega-Lite spec. Follows the conventions of `core.charts.vega_lite`.

Nodes are layered by their longest path from a root and placed near their parents. This suits graphs of a few dozen
nodes; crossings are not minimised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean

import altair as alt

from core.charts.vega_lite import Spec, to_spec

OPENED = "member"
"""Name of the selection made by a click on a node; its point has the field `id`."""

_ROW_PX = 58  # px per row
_COLUMN_PX = 180  # px per column: about seven fit on a laptop; wider graphs scroll
_BOX_WIDTH = 0.84  # share of a column; the rest is for the edges
_TEXT_PX = _BOX_WIDTH * _COLUMN_PX - 10  # px for the text in a box
_HALF_BOX_HEIGHT = 0.36  # share of a row
_MAX_LINE_CHARS = 34  # per line of a box


@dataclass(frozen=True, slots=True)
class Member:
    """One box of the graph: its id, its kind (decides the colour, shown in the tooltip), and two lines of text."""

    id: str
    kind: str
    label: str
    detail: str = ""
    marked: bool = False


def layers(ids: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The column of each node, from 0: one more than the highest column of its parents. Cycles are cut."""
    parents: dict[str, list[str]] = {node: [] for node in ids}
    for node, child in edges:
        if node in parents and child in parents:
            parents[child].append(node)
    column_of: dict[str, int] = {}

    def depth(node: str, above: frozenset[str]) -> int:
        if node not in column_of:
            parent_columns = [
                depth(parent, above | {node}) for parent in parents[node] if parent not in above and parent != node
            ]
            column_of[node] = max(parent_columns, default=-1) + 1
        return column_of[node]

    for node in ids:
        depth(node, frozenset())
    return column_of


def layout(ids: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, tuple[int, float]]:
    """Column and row of each node. Rows are unique in a column."""
    column_of = layers(ids, edges)
    rows: dict[str, float] = {}
    for level in range(max(column_of.values(), default=-1) + 1):
        in_column = [node for node in ids if column_of[node] == level]
        preferred_row = {node: mean(_parents(node, edges, rows) or [0.0]) for node in in_column}
        row = -1.0
        for node in sorted(in_column, key=lambda node: (preferred_row[node], ids.index(node))):
            row = max(row + 1, round(preferred_row[node]))
            rows[node] = row
    return {node: (column_of[node], rows[node]) for node in ids}


def family(members: Sequence[Member], edges: Sequence[tuple[str, str]], kinds: Mapping[str, str]) -> Spec:
    """The graph. `kinds`: translated name of each kind, in the order of their colours."""
    ids = [member.id for member in members]
    kind_names = {member.id: kinds.get(member.kind, member.kind) for member in members}
    positions = layout(ids, edges)
    boxes = [
        {
            "id": member.id,
            "kind": kind_names[member.id],
            "label": member.label[:_MAX_LINE_CHARS],
            "detail": member.detail[:_MAX_LINE_CHARS],
            "whole": member.label,
            "marked": member.marked,
            "x": positions[member.id][0],
            "x2": positions[member.id][0] + _BOX_WIDTH,
            "y": positions[member.id][1] - _HALF_BOX_HEIGHT,
            "y2": positions[member.id][1] + _HALF_BOX_HEIGHT,
        }
        for member in members
    ]
    lines = [
        {
            "from": source,
            "kind": kind_names[source],
            "x": positions[source][0] + _BOX_WIDTH,
            "y": positions[source][1],
            "x2": positions[target][0],
            "y2": positions[target][1],
        }
        for source, target in edges
        if source in positions and target in positions
    ]
    columns = 1 + max((column for column, _ in positions.values()), default=0)
    rows = 1 + max((row for _, row in positions.values()), default=0)
    spec = _family_spec(columns, int(rows), tuple(kinds.values()))
    return {**spec, "data": {"values": [*boxes, *lines]}, "height": int(rows) * _ROW_PX, "width": columns * _COLUMN_PX}


def _parents(node: str, edges: Sequence[tuple[str, str]], rows: Mapping[str, float]) -> list[float]:
    return [rows[parent] for parent, child in edges if child == node and parent in rows]


@cache
def _family_spec(columns: int, rows: int, kinds: tuple[str, ...]) -> Spec:
    x_scale = alt.Scale(domain=[0, columns - 1 + _BOX_WIDTH], nice=False)
    y_scale = alt.Scale(domain=[rows - 0.5, -0.5], nice=False)
    colours = alt.Scale(domain=list(kinds))
    ends = {
        "x": alt.X("x:Q", scale=x_scale, axis=None), "x2": alt.X2("x2:Q"),
        "y": alt.Y("y:Q", scale=y_scale, axis=None), "y2": alt.Y2("y2:Q"),
    }  # fmt: skip
    colour = alt.Color("kind:N", scale=colours, legend=None)
    selection = alt.selection_point(name=OPENED, on="click", fields=["id"], empty=False)
    base = alt.Chart(alt.NamedData("rows"))
    box = base.transform_filter("isValid(datum.id)").transform_calculate(
        left="datum.x + 0.03", upper="datum.y + 0.24", lower="datum.y + 0.5"
    )
    tooltip_fields = ("kind", "whole", "detail")
    tooltip = [alt.Tooltip(f"{name}:N", title=" " * width) for width, name in enumerate(tooltip_fields, 1)]
    line = base.transform_filter("isValid(datum.from)").mark_rule(strokeWidth=1.5, opacity=0.4)

    def text(field: str, row: str, size: int, opacity: float) -> alt.Chart:
        marked = box.mark_text(align="left", baseline="middle", fontSize=size, opacity=opacity, limit=_TEXT_PX)
        left, upper = alt.X("left:Q", scale=x_scale, axis=None), alt.Y(f"{row}:Q", scale=y_scale, axis=None)
        encoded: alt.Chart = marked.encode(x=left, y=upper, text=f"{field}:N")
        return encoded

    return to_spec(
        alt.layer(
            line.encode(**ends, color=colour),
            box.mark_rect(cornerRadius=6, fillOpacity=0.18, cursor="pointer")
            .encode(
                **ends,
                fill=alt.Fill("kind:N", scale=colours, legend=None),
                stroke=alt.Stroke("kind:N", scale=colours, legend=None),
                strokeWidth=alt.condition("datum.marked", alt.value(3), alt.value(1)),
                tooltip=tooltip,
            )
            .add_params(selection),
            text("label", "upper", 13, 1.0).encode(color=colour),
            text("detail", "lower", 11, 0.8).encode(color=colour),
        )
    )
