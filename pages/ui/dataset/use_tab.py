"""Use: rows and versions, checks and changes, split, price, export, train."""

from __future__ import annotations

import streamlit as st

from core.datasets.datasets import DatasetSummary
from pages.ui import background, cache, state
from pages.ui.components import cards
from pages.ui.dataset import dataset_picker, training_file, use_files, use_mix, use_price
from pages.ui.dataset.training_file import TrainingFormat
from pages.ui.i18n import _


def show() -> None:
    """Draw the whole part."""
    use_mix.open_made()
    chosen = dataset_picker.pick()
    if chosen is None:
        return
    if not chosen.done:
        _nothing_yet()
        return
    left, right = st.columns([3, 2], gap="medium")
    with left:
        with st.container(border=True):
            st.markdown(_("**Rows**"))
            version = dataset_picker.pick_version("dataset", chosen)
            dataset_picker.version_form(chosen)
        with st.container(border=True):
            st.markdown(_("**Checks and changes**"))
            marks = TrainingFormat()
            with cards.show_errors():
                marks = training_file.marks("dataset", chosen, version)
                rows = training_file.rows_of(chosen, version)
                version_id = None if version is None else version.id
                preview = background.wait_for_task(training_file.written(chosen.id, version_id, rows, marks))
                if preview is not None:
                    training_file.report(preview)
    with right:
        with st.container(border=True):
            model, epochs = use_price.show(chosen, version, marks)
        with st.container(border=True):
            use_files.show(chosen, version, marks, model, epochs)
        _mix(chosen)


def _mix(chosen: DatasetSummary) -> None:
    others = [one for one in cache.dataset_list() if one.done and one.id != chosen.id]
    if others:
        with st.expander(_("Mix with other data sets"), icon=":material/join:"):
            use_mix.show(chosen, others)


def _nothing_yet() -> None:
    sentence = _("This data set has no finished rows yet. Generate them first; then you can train on them.")
    with cards.empty(sentence, icon=":material/edit_note:"):
        st.button(
            _("Go to the run"),
            type="primary",
            icon=":material/play_arrow:",
            key="dataset_to_run",
            on_click=state.set_value,
            args=("dataset_part", "rows"),
        )
