"""The form of a new job, preserved between steps: rows, start model and hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import streamlit as st

from core import packaged_models
from core.datasets import versions
from core.datasets.datasets import DatasetSummary
from core.datasets.versions import Version
from core.errors import FabulaError, NotFound
from core.finetuning.job_form import DEFAULT_PROJECT, LEARNING_RATE_MULTIPLIER, TRACKERS, JobForm
from core.message import msg
from core.providers import ModelInfo
from pages.ui import cache, state, visible
from pages.ui.components import fields, models
from pages.ui.dataset import dataset_picker, training_file
from pages.ui.dataset.training_file import TrainingFormat
from pages.ui.i18n import _
from pages.ui.sign_in import current_actor
from pages.ui.training import auto_fields, job_options, preference_form

DATASET = "training_dataset"
BASE = "training_base"
PROJECT_KEY = "training_tracker_project"
_MARKS = "training_marks"  # as set in step one
_WANTED = "training_base_wanted"  # a model that is not in the list, such as a checkpoint
_PROBLEM = "training_problem"
_RATE, _BETA = "training_rate", "training_beta"
SUFFIX = "training_suffix"
RATES = (Decimal(str(LEARNING_RATE_MULTIPLIER[0])), Decimal(str(LEARNING_RATE_MULTIPLIER[1])))
"""The learning rate multipliers that can be typed."""
_DECIMALS = {_RATE: RATES, _BETA: preference_form.BETAS}
_NUMBERS = {  # without those of `job_options`
    "training_epochs": "n_epochs",
    "training_batch": "batch_size",
    _RATE: "learning_rate_multiplier",
    "training_seed": "seed",
    _BETA: "beta",
}


@dataclass(frozen=True, slots=True)
class JobDraft:
    """What was chosen in the first step.

    Attributes:
        rows: number of training rows.
        share: share of rows kept for validation (0 to 1); None if there is none, or if the version defines it.
        file_rows: number of rows before this share is removed.
    """

    chosen: DatasetSummary
    version: Version | None
    marks: TrainingFormat
    base: ModelInfo
    rows: int
    share: float | None
    file_rows: int

    @property
    def has_validation(self) -> bool:
        """Whether some rows are kept for validation."""
        return bool(self.version.n_validation) if self.version is not None else bool(self.share)


def pick_rows(ready: list[DatasetSummary]) -> DatasetSummary | None:
    """The picker of data sets to train on."""
    by_id = {one.id: one for one in ready}
    if not by_id:
        st.caption(_("No data set has rows yet. Upload a file here, or create a data set first."))
        return None
    if state.get(DATASET) not in by_id:
        state.set_value(DATASET, ready[0].id)
    key = st.selectbox(
        _("Data set"),
        list(by_id),
        format_func={key: dataset_picker.label(one) for key, one in by_id.items()}.__getitem__,
        key=DATASET,
        persist_state="session",
    )
    return by_id[str(key)]


def pick_base() -> ModelInfo | None:
    """The picker of models to start from."""
    return models.picker(
        _("Model to start from"),
        BASE,
        prefer=packaged_models.BASE,
        among=_bases(),
        help=_("A base model, or one that you fine-tuned earlier."),
    )


def share_key(dataset_id: str) -> str:
    """Key of the slider with the share kept for validation, in percent: each data set has its own default."""
    return f"training_share_{dataset_id}"


def keep(marks: TrainingFormat) -> None:
    """Keep the result of the first step for the following steps."""
    state.set_value(_MARKS, marks)


def draft() -> JobDraft:
    """What was chosen in the first step.

    Raises:
        NotFound: part of it no longer exists.
    """
    chosen = next((one for one in visible.dataset_list() if one.id == state.get(DATASET)), None)
    base = next((one for one in _bases() if f"{one.provider}/{one.id}" == state.get(BASE)), None)
    if chosen is None:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    if base is None:
        raise NotFound(msg("This model is no longer available."), msg("Choose another one."))
    version = _version(chosen)
    percent = int(state.get(share_key(chosen.id)) or 0)
    share = None if version is not None or not percent else percent / 100
    rows = training_file.rows_of(chosen, version)
    return JobDraft(
        chosen, version, state.get(_MARKS, TrainingFormat()), base, rows - round(rows * (share or 0)), share, rows
    )


def keep_rows() -> tuple[str, str | None] | None:
    """The chosen data set, and the version with the rows that the job would keep from training: a model trained later
    can then be compared on them. Saves that version if a share was chosen; None without a data set.

    Raises:
        FabulaError: the version could not be saved.
    """
    chosen = next((one for one in visible.dataset_list() if one.id == state.get(DATASET)), None)
    if chosen is None:
        return None
    version = _version(chosen)
    if version is not None:
        return chosen.id, version.id
    percent = int(state.get(share_key(chosen.id)) or 0)
    if not percent:
        return chosen.id, None
    return chosen.id, versions.freeze(cache.store(), current_actor(), chosen.id, validation_share=percent / 100)


def preserve_inputs() -> None:
    """Keep the input of the first step while its fields are not rendered."""
    chosen = next((one for one in visible.dataset_list() if one.id == state.get(DATASET)), None)
    if chosen is not None:
        training_file.carry(chosen, _version(chosen), "training", "training")


def _version(chosen: DatasetSummary) -> Version | None:
    version_id = state.get(f"training_version_{chosen.id}")
    return next((one for one in training_file.version_list(chosen.id) if one.id == version_id), None)


def form(draft: JobDraft) -> JobForm:
    """The current job form; the second step adds its numbers."""
    suffix = typed_suffix()
    numbers = {name: _number(key) for key, name in _NUMBERS.items()}
    return JobForm(
        dataset_id=draft.chosen.id,
        name=suffix or draft.chosen.name,
        provider=draft.base.provider,
        base_model=draft.base.id,
        suffix=suffix,
        n_epochs=_as_int(numbers["n_epochs"]),
        batch_size=_as_int(numbers["batch_size"]),
        learning_rate_multiplier=numbers["learning_rate_multiplier"],
        seed=_as_int(numbers["seed"]),
        method=draft.marks.method,
        beta=numbers["beta"] if draft.marks.method == "dpo" else None,
        file_format=draft.marks.file_format,
        separator=draft.marks.separator,
        stop=draft.marks.stop,
        version_id=draft.version.id if draft.version is not None else None,
        validation_share=draft.share,
        trackers=tuple(name for name in TRACKERS if state.get(f"training_tracker_{name}")),
        project=str(state.get(PROJECT_KEY) or DEFAULT_PROJECT).strip() or DEFAULT_PROJECT,
        **job_options.chosen(draft.base, has_validation=draft.has_validation),
    )


def typed_suffix() -> str | None:
    """The suffix in its field; None if it is empty."""
    return str(state.get(SUFFIX) or "").strip() or None


def fill(form: JobForm) -> None:
    """Put a job's settings into the fields. Call only before they are rendered, or from a callback."""
    state.set_value(DATASET, form.dataset_id)
    state.set_value(f"training_version_{form.dataset_id}", form.version_id or "")
    chosen = next((one for one in visible.dataset_list() if one.id == form.dataset_id), None)
    if chosen is not None:
        version = next((one for one in training_file.version_list(chosen.id) if one.id == form.version_id), None)
        training_file.put("training", chosen, version, TrainingFormat(form.separator, form.stop, form.file_format))
    state.set_value(share_key(form.dataset_id), round((form.validation_share or 0) * 100))
    state.set_value(SUFFIX, form.suffix or "")
    for key, name in _NUMBERS.items():
        auto_fields.put(key, getattr(form, name), decimal=key in _DECIMALS)
    preference_form.put(form)
    job_options.fill(form)
    for name in TRACKERS:
        state.set_value(f"training_tracker_{name}", name in form.trackers)
    state.set_value(PROJECT_KEY, form.project)
    start_from(form.provider, form.base_model)


def start_from(provider: str, model: str) -> None:
    """Choose the model to start from, even one that is not in the list."""
    state.set_value(BASE, f"{provider}/{model}")
    state.set_value(_WANTED, (provider, model))


def problem() -> FabulaError | None:
    """The error of the last attempt to start the job."""
    found: FabulaError | None = state.get(_PROBLEM)
    return found


def keep_problem(error: FabulaError) -> None:
    """Show the error in the dialog, which covers the page."""
    state.set_value(_PROBLEM, error)


def forget_problem() -> None:
    state.set_value(_PROBLEM, None)


def _bases() -> list[ModelInfo]:
    """The trainable models, and the model that was requested with **Train it further**."""
    found = visible.trainable()
    requested = state.get(_WANTED)
    if requested is not None and requested not in {(one.provider, one.id) for one in found}:
        provider, model = requested
        if provider in cache.registry().ids():
            found.append(ModelInfo(id=model, provider=provider, base=None, format=None, created=None))
    return found


def _number(key: str) -> float | None:
    """The typed number; None if the choice is left to the provider."""
    if auto_fields.is_automatic(key):
        return None
    try:
        value = fields.read_decimal(key, *_DECIMALS[key]) if key in _DECIMALS else state.get(key)
    except FabulaError:  # the second step does not continue while its text is invalid
        return None
    return None if value is None else float(value)


def _as_int(value: float | None) -> int | None:
    return None if value is None else int(value)
