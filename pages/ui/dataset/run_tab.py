"""Run: one run's progress, the grid as a map of states, and its rows to read, edit and leave out."""

from __future__ import annotations

import streamlit as st

from core.datasets.datasets import DatasetSummary
from pages.ui import cached, cards, state, undo
from pages.ui.dataset import dataset_picker, heat_map, row_actions, row_dialog, row_table, run_controls, run_panel
from pages.ui.lang import _

_CALM_S = 5.0  # while nothing is written: the run may be resumed in another tab


def show() -> None:
    """Draw the whole part."""
    chosen = dataset_picker.pick()
    if chosen is None:
        return
    _another_one(chosen.id)
    summary, progress = cached.run_of(chosen.id)
    active = run_controls.is_active(progress)
    pause_s = cached.POLL_S if active else _CALM_S if progress is not None else None
    st.fragment(run_every=pause_s)(_watch)(chosen.id, active)
    heat_map.show(summary, active)
    _rows(summary, active)


def _rows(summary: DatasetSummary, active: bool) -> None:
    """The table. During a run it is collapsed, because it shows a snapshot while rows are still arriving."""
    if not active:
        row_table.show(summary)
        return
    table = st.expander(_("All rows"), icon=":material/table_rows:", key="dataset_table", on_change="rerun")
    if table.open:
        with table:
            st.button(_("Refresh"), icon=":material/refresh:", type="tertiary", key="dataset_refresh")
            row_table.show(summary)
    else:
        undo.way_back()
        row_dialog.show(summary.id)


def _watch(dataset_id: str, was_active: bool) -> None:
    """The live part of the page. Reruns the whole page when a run starts or ends."""
    with cards.show_errors():
        summary, progress = cached.run_of(dataset_id)
        if was_active != run_controls.is_active(progress):
            st.rerun()
        run_panel.show(summary, progress)


def _another_one(dataset_id: str) -> None:
    """Close dialogs and filters of another data set."""
    if state.get("dataset_rows_shown") != dataset_id:
        state.set_value("dataset_rows_shown", dataset_id)
        state.set_value("dataset_filter", "all")
        state.set_value("dataset_words", "")
        row_actions.open_row(None)
        undo.forget()
