"""Which model to train on: candidates for any data set side by side, reached from the dialog for a new job."""

from __future__ import annotations

import streamlit as st

from core.finetuning.candidates import TrainingData
from core.finetuning.job_form import default_validation_share
from pages.ui import visible
from pages.ui.components import cards
from pages.ui.dataset import dataset_picker, training_file
from pages.ui.i18n import _
from pages.ui.training import candidate_table, job_form

PART = "candidates"
"""The value of `training_part` for this section."""


def show() -> None:
    """Render the choice of the rows, and the candidates for them."""
    st.markdown(
        _("See every model that can be trained on these rows, with price, time and cost of calls, before you pay.")
    )
    ready = [one for one in visible.dataset_list() if one.done]
    with st.container(width=560):
        chosen = job_form.pick_rows(ready)
        version = dataset_picker.pick_version("training", chosen) if chosen is not None else None
    if chosen is None:
        return
    if version is not None:
        data = TrainingData(chosen.id, version.id, chosen.name)
    else:
        share = None
        if not training_file.parts(chosen.id).get("validation"):
            share = default_validation_share(training_file.rows_of(chosen, None)) or None
        data = TrainingData(chosen.id, None, chosen.name, validation_share=share)
    with cards.show_errors():
        candidate_table.show(data)
