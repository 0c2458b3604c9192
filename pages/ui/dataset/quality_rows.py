"""The rows behind a figure: read, select, leave out, restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.datasets.quality import quality_store
from core.datasets.quality.quality_store import RowText
from core.datasets.quality.report import REASONS
from pages.ui import cache, state
from pages.ui.components import views
from pages.ui.dataset import row_cards
from pages.ui.i18n import _, localized, n_, plain

_A_PAGE = 50  # rows of one page of the table
_FEW = 10
_OURS = ("mark", "text", "reason")  # columns of the table; a data set column with the same name is shown in addition


def show(
    key: str,
    row_ids: Sequence[int],
    kind: str = "",
    *,
    every: bool = True,
    marks: Mapping[int, str] | None = None,
    also: Sequence[int] = (),
) -> None:
    """Render the rows as a table in which one click leaves rows out.

    Args:
        key: prefix of widget keys, unique on the page.
        row_ids: the rows to leave out.
        kind: the kind of finding, which is the reason.
        every: whether to offer leaving out all of them.
        marks: a label for some rows, in a separate column.
        also: rows shown instead of `row_ids` (for duplicates, including those that are kept).
    """
    ids = list(also or row_ids)
    if not ids:
        return
    page = _page(key, len(ids))
    found = quality_store.row_texts(cache.store(), ids[page * _A_PAGE : (page + 1) * _A_PAGE])
    chosen = _table(key, found, marks or {})
    with st.container(horizontal=True, vertical_alignment="center"):
        if every and row_ids and not chosen:
            label = n_("Leave out this {n} row", "Leave out these {n} rows", len(row_ids))
            _button(f"{key}_all", label, list(row_ids), kind)
        if chosen:
            label = n_("Leave out the chosen row", "Leave out the {n} chosen rows", len(chosen))
            _button(f"{key}_chosen", label, [row.id for row in chosen], kind)
        elif not every:
            st.caption(_("Choose rows in the table to leave them out."))
    if len(chosen) == 1:
        with st.container(border=True):
            views.facts(plain(value) for value in chosen[0].values.values())
            views.story_text(chosen[0].text)


def _page(key: str, rows: int) -> int:
    pages = -(-rows // _A_PAGE)
    if pages < 2:
        return 0
    name = f"dataset_quality_{key}_page"
    if int(state.get(name) or 1) > pages:
        state.set_value(name, pages)
    return st.pagination(pages, key=name) - 1


def _table(key: str, found: Sequence[RowText], marks: Mapping[int, str]) -> list[RowText]:
    """Render the table; returns the selected rows."""
    frame = pd.DataFrame([_record(row, marks) for row in found])
    if not marks:
        frame = frame.drop(columns="mark", errors="ignore")
    if all(row.state == "done" for row in found):
        frame = frame.drop(columns="reason", errors="ignore")
    event: Any = st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(found) <= _FEW else 400,
        on_select="rerun",
        selection_mode="multi-row",
        column_order=_text_first(frame) if views.is_phone() else None,
        column_config={
            "mark": st.column_config.TextColumn(_("Group"), width="small"),
            "text": st.column_config.TextColumn(_("Text"), width="large"),
            "reason": st.column_config.TextColumn(_("Reason")),
        },
        key=f"dataset_quality_{key}_rows_{state.studio().table}",
        alt=_("Rows for this figure"),
    )
    picked = getattr(getattr(event, "selection", None), "rows", None) or []
    return [found[place] for place in picked if place < len(found)]


def _text_first(frame: pd.DataFrame) -> list[str]:
    """The text first: a phone shows only the first columns; a selected row shows its values."""
    return sorted(map(str, frame.columns), key=lambda name: {"mark": 0, "text": 1}.get(name, 2))


def _record(row: RowText, marks: Mapping[int, str]) -> dict[str, str]:
    return {
        "mark": marks.get(row.id, ""),
        **{f"{name} " if name in _OURS else name: value for name, value in row.values.items()},
        "text": row.text.strip(),
        "reason": localized(row.reason) if row.reason else "",
    }


def _button(key: str, label: str, row_ids: list[int], kind: str) -> None:
    pressed = st.button(
        label,
        icon=":material/remove_circle:",
        type="primary",
        key=f"dataset_quality_{key}",
        on_click=_leave_out,
        args=(row_ids, kind),
    )
    if pressed:
        st.rerun()  # rerun the whole page: the notice is above this part


def _leave_out(row_ids: Sequence[int], kind: str) -> None:
    """Leave rows out of training and export, and store the reason with each."""
    changed = row_cards.leave_out(row_ids, REASONS.get(kind, REASONS[""]))
    if state.studio().problem is None:
        state.studio().table += 1
        if not changed:
            state.notify(":material/info:", _("These rows are already left out."))
