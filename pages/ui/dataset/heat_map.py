"""The grid as a map of states, next to the stories of the clicked square or the newest ones."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core.charts.dataset import HEAT_MAP_SELECTION, MapLabels, heat_map
from core.datasets.datasets import DatasetSummary
from core.datasets.heatmap import HeatMap
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.dataset import row_cards
from pages.ui.i18n import _, column_title, n_, number, percent, plain

_POLL_S = 2.0  # slower than the panel, which updates every second, to reduce flicker
_TALL = 1_020  # px: height for the preset's grid; a map with more lines scrolls
_LINES = 58  # lines that fit into that height
_SHORT_LINES = 48  # lines of squares with shares, which are larger


def show(summary: DatasetSummary, active: bool) -> None:
    """Render the map and its stories; during a run every two seconds."""
    st.fragment(run_every=_POLL_S if active else None)(_watch)(summary.id, summary.total, active)


def _watch(dataset_id: str, total: int, active: bool) -> None:
    with cards.show_errors():
        left, right = st.columns([3, 2], gap="medium")
        with left:
            map_ = cache.heat_map(dataset_id, total, _pair(dataset_id))
            _choose_pair(dataset_id, map_)
            place = _chart(dataset_id, map_)
        with right:
            _stories(dataset_id, map_, place, active)


def _chart(dataset_id: str, map_: HeatMap) -> int | None:
    """Render the chart; returns the square that was clicked."""
    shares = map_.kind in ("pairs", "blocks")
    lines = len({s.down for s in map_.squares}) if map_.kind in ("cells", "pairs") else len(map_.squares) // 50
    scrolls = lines > (_SHORT_LINES if shares else _LINES)
    with st.container(height=_TALL if scrolls else "content", border=False):
        event: Any = st.vega_lite_chart(
            heat_map(map_, _labels()),
            alt=_alt_text(map_),
            key=f"dataset_map_{dataset_id}",
            on_select="rerun",
            selection_mode=HEAT_MAP_SELECTION,
        )
    if scrolls:
        st.caption(
            n_(
                "{n} line: scroll in the map to see the others.",
                "{n} lines: scroll in the map to see the others.",
                lines,
            )
        )
    if map_.kind == "blocks":
        n = map_.per_square
        st.caption(
            n_("Each square is {n} row.", "Each square is {n} rows; the stronger its colour, the more are finished.", n)
        )
    elif map_.kind == "pairs":
        st.caption(
            _("Each square is a pair of values with {n} rows; the stronger its colour, the more are finished.").format(
                n=number(map_.per_square)
            )
        )
    if map_.outside:
        st.caption(n_("{n} row is outside the grid now.", "{n} rows are outside the grid now.", map_.outside))
    return _picked(event)


def _picked(event: Any) -> int | None:
    selection = event.get("selection") if isinstance(event, dict) else getattr(event, "selection", None)
    points = (selection or {}).get(HEAT_MAP_SELECTION) or []
    place = points[0].get("place") if points and isinstance(points[0], dict) else None
    return int(place) if isinstance(place, int | float) else None


def _stories(dataset_id: str, map_: HeatMap, place: int | None, active: bool) -> None:
    name = map_.name(place) if place is not None else ""
    if place is None or not name:
        row_cards.newest(dataset_id, waiting=active)
        st.caption(_("Click a square of the map to see its rows."))
        return
    where = map_.where(place)
    st.markdown(f"**{plain(name)}**")
    count = row_cards.of_place(dataset_id, where)
    if count:
        pressed = st.button(
            n_("{n} row in the table", "{n} rows in the table", count),
            icon=":material/table_rows:",
            key="dataset_narrow",
            on_click=_narrow,
            args=(dataset_id, name, where),
        )
        if pressed:
            st.rerun()


def _narrow(dataset_id: str, name: str, where: object) -> None:
    state.studio().rows_of = (dataset_id, name, where)


def _pair(dataset_id: str) -> tuple[int, int] | None:
    across, down = (state.get(f"dataset_{axis}_{dataset_id}") for axis in ("across", "down"))
    return None if across is None or down is None else (int(across), int(down))


def _choose_pair(dataset_id: str, map_: HeatMap) -> None:
    """Choose the two columns that a large grid is shown by."""
    if map_.pair is None or len(map_.choices) < 3:
        return
    with st.container(horizontal=True):
        for axis, label, chosen in (("across", _("X axis"), map_.pair[0]), ("down", _("Y axis"), map_.pair[1])):
            key = f"dataset_{axis}_{dataset_id}"
            if state.get(key) != chosen:
                state.set_value(key, chosen)
            st.selectbox(label, map_.choices, format_func=lambda i: column_title(map_.columns[i]), key=key, width=220)


def _labels() -> MapLabels:
    return MapLabels(
        states={key: _(name) for key, name in row_cards.STATES.items()},
        state=_("State"),
        cell=_("Cell"),
        repeat=_("Repeat"),
        done=_("Done"),
        failed=_("Failed"),
    )


def _alt_text(map_: HeatMap) -> str:
    """The alt text of the map."""
    if map_.kind in ("pairs", "blocks"):
        rows = sum(s.rows for s in map_.squares)
        share = sum(s.done for s in map_.squares) / rows if rows else None
        return _("Map of the grid: {share} of {n} rows are done").format(share=percent(share), n=number(rows))
    done = sum(s.state == "done" for s in map_.squares)
    return _("Map of the grid: {done} of {n} rows are done").format(done=number(done), n=number(len(map_.squares)))
