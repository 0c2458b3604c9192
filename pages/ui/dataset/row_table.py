"""All rows of a data set: an editable table (texts in place, a checkbox to leave a row out), or cards on a phone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.datasets import dataset_rows
from core.datasets.dataset_rows import RowFilter, RowView
from core.datasets.datasets import DatasetSummary
from pages.ui import cache, state
from pages.ui.components import cards, failure_labels, views
from pages.ui.dataset import row_cards
from pages.ui.dataset.row_cards import STATES
from pages.ui.i18n import _, column_title, mark, n_, number, plain

_PAGE_ROWS = 50  # a screen and a half; more would be sent to the browser unread
_PAGE_CARDS = 15
_FEW_ROWS = 12
_COUNTED_ROWS = 20_000  # above this, counting the edited rows, for which there is no index, takes too long
_LONGEST_TABLE = 520  # px
_FILTERS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "all": (mark("All"), None),
    "done": (mark("Done"), ("done",)),
    "failed": (mark("Failed"), ("failed",)),
    "waiting": (mark("Waiting"), ("pending", "sent")),
    "excluded": (mark("Left out"), ("excluded",)),
    "edited": (mark("Edited"), None),
}


def show(summary: DatasetSummary) -> None:
    """Render the table with its filters, and the dialog of the open row."""
    where = _filters(summary)
    cards = state.get("dataset_view") == "cards"
    size = _PAGE_CARDS if cards else _PAGE_ROWS
    count = dataset_rows.count(cache.store(), summary.id, where)
    pages = max(1, -(-count // size))
    key = f"dataset_page_{zlib.crc32(repr((summary.id, where, pages)).encode())}"  # another filter begins on page 1
    first = (int(state.get(key) or 1) - 1) * size
    found = dataset_rows.page(cache.store(), summary.id, where, limit=size, offset=first)
    if found and cards:
        for row in found:
            row_cards.card(row, listed=True)
    elif found:
        _editor(summary, found)
    else:
        st.caption(_nothing(summary, where))
    if pages > 1:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.pagination(pages, key=key)
            st.caption(n_("{n} row", "{n} rows", count))
    row_cards.dialog(summary.id)


def _filters(summary: DatasetSummary) -> RowFilter:
    """The filters: state, words, and the square selected in the map."""
    counts = _counts(summary)
    state.set_default("dataset_filter", "all")
    chosen = state.get("dataset_filter")
    shown = [key for key, n in counts.items() if key == "all" or n != 0 or key == chosen]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.pills(
            _("Rows"),
            shown,
            format_func=lambda key: _label(key, counts[key]),
            required=True,
            wrap=True,
            key="dataset_filter",
            label_visibility="collapsed",
            persist_state="session",
        )
        words = st.text_input(
            _("Search"),
            type="search",
            placeholder=_("Search in the texts"),
            label_visibility="collapsed",
            key="dataset_words",
            width=240,
        )
        _view()
        cards.undo_button()  # in this row, because a new row would move the table under the next click
    narrowed = _narrowed(summary.id)
    key = str(state.get("dataset_filter", "all"))
    states = _FILTERS[key][1] if key in _FILTERS else None
    base = narrowed or RowFilter()
    return RowFilter(
        states,
        base.ids,
        base.start,
        base.end,
        base.value_filters,
        edited=key == "edited",
        words=str(words or "").strip(),
    )


def _counts(summary: DatasetSummary) -> dict[str, int | None]:
    """Number of rows by filter; None if there are too many rows to count."""
    few = summary.total <= _COUNTED_ROWS
    return {
        "all": summary.total,
        "done": summary.done,
        "failed": summary.failed,
        "waiting": summary.pending,
        "excluded": summary.excluded,
        "edited": dataset_rows.edited(cache.store(), summary.id) if few else None,
    }


def _view() -> None:
    """Render the switch between table and cards; cards are the default on phones, which a table does not fit."""
    state.set_default("dataset_view", "cards" if views.is_phone() else "table")
    names = {"table": _("Table"), "cards": _("Cards")}
    icons = {"table": ":material/table_rows:", "cards": ":material/view_agenda:"}
    st.segmented_control(
        _("View"),
        list(names),
        format_func=lambda key: f"{icons[key]} {names[key]}",
        required=True,
        key="dataset_view",
        label_visibility="collapsed",
        persist_state="session",
    )


def _label(key: str, rows: int | None) -> str:
    name = _(_FILTERS[key][0])
    return name if rows is None else f"{name} {number(rows)}"


def _narrowed(dataset_id: str) -> RowFilter | None:
    """The square that filters the table, and a button to clear the filter."""
    narrowed: tuple[str, str, RowFilter] | None = state.studio().rows_of
    if narrowed is None or narrowed[0] != dataset_id:
        return None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(_("Only **{cell}**").format(cell=plain(narrowed[1])))
        st.button(_("All rows"), icon=":material/close:", type="tertiary", key="dataset_widen", on_click=_clear_square)
    return narrowed[2]


def _editor(summary: DatasetSummary, rows: Sequence[RowView]) -> None:
    columns = list(summary.columns)
    frame = pd.DataFrame([_record(row, columns) for row in rows], index=[row.id for row in rows])
    plain_text = st.column_config.TextColumn
    key = f"dataset_rows_{state.studio().table}"
    st.data_editor(
        frame,
        key=key,
        hide_index=True,
        height="auto" if len(frame) < _FEW_ROWS else _LONGEST_TABLE,
        disabled=[name for name in frame.columns if name not in ("out", "text")],
        column_config={
            "out": st.column_config.CheckboxColumn(
                _("Left out"), help=_("Left out of training and export; the text is kept."), width="small"
            ),
            **{f"value_{i}": plain_text(column_title(name)) for i, name in enumerate(columns)},
            "text": plain_text(_("Text"), width="large", help=_("Double-click to edit. The original is kept.")),
            "state": plain_text(_("State"), width="small"),
            # always present: adding a column later would shift the ticks
            "reason": plain_text(_("Reason"), width="medium"),
            "open": st.column_config.ButtonColumn(
                "", key=f"{key}_open", on_click=_open, args=(f"{key}_open", rows), width=70, type="tertiary"
            ),
        },
        alt=_("Rows of the data set"),
    )
    _keep(key, rows)


def _record(row: RowView, columns: Sequence[str]) -> dict[str, Any]:
    state_label = _(STATES.get(row.state, row.state))
    return {
        "out": row.state == "excluded",
        **{f"value_{i}": row.values.get(name, "") for i, name in enumerate(columns)},
        "text": (row.text or "").strip(),
        "state": _(", ").join((state_label, _("edited"))) if row.edited else state_label,
        "reason": failure_labels.row_reason(row),
        "open": _("Open"),
    }


def _keep(key: str, rows: Sequence[RowView]) -> None:
    """Save edits and ticks to the ledger immediately. The editor drops an edit when it is saved."""
    edits: Mapping[int, Mapping[str, Any]] = (state.get(key) or {}).get("edited_rows", {})
    saved = []
    for place, changed in edits.items():
        row = rows[int(place)]
        if "out" in changed and bool(changed["out"]) != (row.state == "excluded"):
            saved.append((row_cards.leave_out if changed["out"] else row_cards.put_back)([row.id]))
        if "text" in changed and str(changed["text"] or "").strip() != (row.text or "").strip():
            saved.append(row_cards.edit(row, str(changed["text"] or "")))
    if not all(saved):
        state.studio().table += 1  # a failed edit is not shown as saved
    if saved:
        st.rerun()


def _open(key: str, rows: Sequence[RowView]) -> None:
    click = state.get(key)
    if click is not None and 0 <= int(click["row"]) < len(rows):
        row_cards.open_row(rows[int(click["row"])].id)


def _nothing(summary: DatasetSummary, where: RowFilter) -> str:
    if where == RowFilter() and summary.total:
        return _("No rows yet; they appear as the run reaches them.")
    return _("No rows match.")


def _clear_square() -> None:
    state.studio().rows_of = None
