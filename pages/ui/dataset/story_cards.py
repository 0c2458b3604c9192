"""Stories as cards of equal height, so that nothing moves when one arrives: the newest, or those of one cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import streamlit as st

from core.datasets import datasets, row_query
from core.datasets.row_query import RowFilter, RowView
from core.db.store import Store
from core.generation import concurrency
from pages.ui import cached, failure_labels, views
from pages.ui.dataset import row_actions
from pages.ui.lang import _, as_markdown, mark, plain

STATES = {
    "pending": mark("waiting"),
    "sent": mark("being written"),
    "done": mark("done"),
    "failed": mark("failed"),
    "excluded": mark("left out"),
}
_COLOURS: Mapping[str, Literal["gray", "orange", "blue", "red"]] = {
    "pending": "gray",
    "sent": "orange",
    "done": "blue",
    "failed": "red",
    "excluded": "gray",
}
_NEWEST = 3
_LOOKED_AT = 8 * concurrency.MAX_SHARED  # rows: the maximum of one cell that a single request can write
_MOST = 12  # per square; the table has all
_HEIGHT = 210  # px: the beginning of a story; the rest scrolls
_EMPTY = 60
_SHORT, _LONG = 120, 600  # characters that a card next to the map, or in a list, shows without scrolling


def newest(dataset_id: str, waiting: bool) -> None:
    """The newest stories first; during a run, with space for the next ones."""
    found = latest(cached.store(), dataset_id, more_to_come=waiting)
    if found or waiting:
        st.markdown(f"**{_('Newest texts')}**")
    for row in found:
        with st.container(border=True, height=_HEIGHT, key=f"dataset_card_{row.id}"):
            views.facts(plain(value) for value in row.values.values())
            st.text((row.text or "").strip())
    for _place in range(_NEWEST - len(found) if waiting else 0):
        with st.container(border=True, height=_HEIGHT):
            st.markdown(f":gray[:shimmer[{_('Waiting for a text')}]]")


def latest(store: Store, dataset_id: str, *, more_to_come: bool = False) -> list[RowView]:
    """The newest finished row of each of the most recent cells.

    If there are too few cells, more rows of each, unless there are `more_to_come`.
    """
    rows = datasets.rows(store, dataset_id, states=("done",), newest=True, limit=_LOOKED_AT)
    cells: dict[tuple[str, ...], RowView] = {}
    for row in rows:
        cells.setdefault(tuple(row.values.values()), row)
    first = list(cells.values())
    others = [] if more_to_come else [row for row in rows if row not in first]
    return [*first, *others][:_NEWEST]


def of_place(dataset_id: str, where: RowFilter) -> int:
    """Draw the rows of the clicked square in full; returns their number."""
    store = cached.store()
    found = row_query.page(store, dataset_id, where, limit=_MOST)
    if not found:
        st.caption(_("These rows do not exist yet; they appear as the run reaches them."))
    for row in found:
        card(row)
    return row_query.count(store, dataset_id, where)


def state_badge(row: RowView) -> None:
    """A badge with the row's state."""
    st.badge(_(STATES.get(row.state, row.state)), color=_COLOURS.get(row.state, "gray"))
    if row.edited:
        st.badge(_("edited"), color="violet", icon=":material/edit:")


def card(row: RowView, *, listed: bool = False) -> None:
    """One row in a card; in a list (`listed`) with its values, because neighbouring cards have different ones."""
    with st.container(border=True, key=f"dataset_listed_{row.id}" if listed else f"dataset_card_{row.id}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            state_badge(row)
            named = [plain(value) for value in row.values.values()] if listed else []
            views.facts([*named, _("repeat {n}").format(n=row.repeat + 1), *_reason(row)])
        if text := (row.text or "").strip():
            tall = len(text) > (_LONG if listed else _SHORT)
            with st.container(height=_HEIGHT - _EMPTY if tall else "content", border=False):
                st.text(text)
        _buttons(row, "listed_" if listed else "")


def _reason(row: RowView) -> Sequence[str]:
    return [as_markdown(reason)] if (reason := failure_labels.row_reason(row)) else []


def _set_left_out(row_id: int, left_out: bool) -> None:
    (row_actions.leave_out if left_out else row_actions.put_back)([row_id])


def _buttons(row: RowView, place: str) -> None:
    out = row.state == "excluded"
    with st.container(horizontal=True):
        pressed = st.button(
            _("Put back") if out else _("Leave out"),
            icon=":material/add_circle:" if out else ":material/remove_circle:",
            type="tertiary",
            key=f"dataset_{place}out_{row.id}",
            disabled=row.state == "sent",
            on_click=_set_left_out,
            args=(row.id, not out),
        )
        opened = st.button(
            _("Open"),
            icon=":material/open_in_full:",
            type="tertiary",
            key=f"dataset_{place}open_{row.id}",
            on_click=row_actions.open_row,
            args=(row.id,),
        )
    if pressed or opened:
        st.rerun()  # the action concerns the whole part, not only this card
