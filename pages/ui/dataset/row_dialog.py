"""The dialog of one row: its story to read and edit, the prompt, the facts, and the actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import streamlit as st

from core.datasets import curation, row_query
from core.datasets.row_query import RowFilter, RowView
from pages.ui import cached, failure_labels, state, views
from pages.ui.dataset import row_actions, story_cards
from pages.ui.lang import _, as_markdown, n_, plain
from pages.ui.limited_fields import fits

_HEIGHT = 320  # px: a story of 300 characters without scrolling


def show(dataset_id: str) -> None:
    """The dialog of the open row, if any."""
    row_id = state.studio().row_open
    if row_id is None:
        return
    found = row_query.page(cached.store(), dataset_id, RowFilter(ids=(row_id,)), limit=1)
    if not found:
        row_actions.open_row(None)
        return
    title = _("Row {row}").format(row=found[0].position + 1)
    st.dialog(title, width="medium", on_dismiss=_close)(_row)(dataset_id, found[0])


def _close() -> None:
    row_actions.open_row(None)


def _row(dataset_id: str, row: RowView) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        story_cards.state_badge(row)
        views.facts(
            [
                *(plain(value) for value in row.values.values()),
                _("repeat {n}").format(n=row.repeat + 1),
                n_("{n} token", "{n} tokens", row.completion_tokens) if row.completion_tokens else "",
            ]
        )
    if reason := failure_labels.row_reason(row):
        st.warning(as_markdown(reason), icon=":material/info:")
    writable = row.state in ("done", "failed", "excluded")
    state.set_default(f"dataset_text_{row.id}", (row.text or "").strip())
    text = st.text_area(_("Text"), height=_HEIGHT, key=f"dataset_text_{row.id}", disabled=not writable)
    fitting = fits(text, curation.MAX_CHARACTERS)
    if row.original is not None:
        with st.expander(_("Original text"), icon=":material/history:"):
            st.text(row.original.strip())
    with st.container(horizontal=True):
        if writable and fitting:
            _button(_("Save the text"), "save", ":material/save:", _save, (row,), primary=True)
        if row.original is not None:
            _button(_("Original text"), "revert", ":material/history:", _act_and_close, (row_actions.as_written, row))
        if row.state == "excluded":
            _button(_("Put back"), "back", ":material/add_circle:", _act_and_close, (row_actions.put_back, [row.id]))
        elif row.state != "sent":
            _button(
                _("Leave out"), "out", ":material/remove_circle:", _act_and_close, (row_actions.leave_out, [row.id])
            )
        if row.state == "failed":
            again = (row_actions.write_again, dataset_id, [row.id])
            _button(_("Write it again"), "again", ":material/replay:", _act_and_close, again)


def _button(
    label: str, key: str, icon: str, act: Callable[..., None], args: tuple[object, ...], primary: bool = False
) -> None:
    kind: Literal["primary", "secondary"] = "primary" if primary else "secondary"
    if st.button(label, icon=icon, type=kind, key=f"dataset_row_{key}", on_click=act, args=args):
        st.rerun()


def _save(row: RowView) -> None:
    text = str(state.get(f"dataset_text_{row.id}", row.text or ""))
    if text.strip() != (row.text or "").strip():
        row_actions.edit(row, text)
        state.studio().table += 1
    _close()


def _act_and_close(act: Callable[..., object], *args: object) -> None:
    act(*args)
    _close()
