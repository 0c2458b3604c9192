"""The training estimate of these rows with a model, and the button to the training page."""

from __future__ import annotations

import streamlit as st

from core import packaged_models
from core.datasets.datasets import DatasetSummary
from core.datasets.versions import Version
from core.errors import FabulaError
from core.providers import ModelInfo
from pages.ui import background, cache, estimates, state
from pages.ui.components import models, views
from pages.ui.components.fields import number_field
from pages.ui.dataset import training_file
from pages.ui.dataset.training_file import TrainingFormat
from pages.ui.i18n import _


def show(chosen: DatasetSummary, version: Version | None, marks: TrainingFormat) -> tuple[ModelInfo | None, int]:
    """Draw model, epochs, estimate and the button. Returns model and epochs; None if no model can be trained now."""
    st.markdown(_("**Train on this data set**"))
    model = models.picker(_("Model"), "dataset_train_model", prefer=packaged_models.BASE, among=cache.trainable())
    epochs = number_field(
        _("Epochs: how many times each row is used"),
        "dataset_train_epochs",
        1,
        50,
        estimates.USUAL_EPOCHS,
        persist_state="session",
    )
    if model is None:
        models.none_yet()
    else:
        _facts(chosen, version, marks, model, epochs)
    if st.button(
        _("Train on this"),
        icon=":material/model_training:",
        type="primary",
        width="stretch",
        key="dataset_train",
    ):
        _carry_over(chosen, version, model, epochs)
    return model, epochs


def _facts(
    chosen: DatasetSummary, version: Version | None, marks: TrainingFormat, model: ModelInfo, epochs: int
) -> None:
    rows, version_id = training_file.rows_of(chosen, version), version.id if version else None
    try:
        work = training_file.tokens_of(chosen.id, version_id, rows, marks, model)
        views.facts(estimates.training_facts(model, work.get(), epochs))
    except FabulaError:
        return  # the check says what is wrong
    background.wait_for_task(work)


def _carry_over(chosen: DatasetSummary, version: Version | None, model: ModelInfo | None, epochs: int) -> None:
    """Start the new job with the choices made here."""
    state.set_value("training_dataset", chosen.id)
    state.set_value(f"training_version_{chosen.id}", version.id if version is not None else "")
    state.set_value("training_part", "new")
    training_file.carry(chosen, version, "dataset", "training")
    if model is not None:
        state.set_value("training_base", f"{model.provider}/{model.id}")
    if epochs != estimates.USUAL_EPOCHS:
        state.set_value("training_epochs_auto", False)
        state.set_value("training_epochs", epochs)
    st.switch_page("training.py")
