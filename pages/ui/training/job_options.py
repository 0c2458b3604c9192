"""The **Advanced** part of a new job: hyperparameters that only engine jobs accept, and which of them differ from the
defaults.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import streamlit as st

from core.errors import FabulaError
from core.finetuning import job_form
from core.finetuning.job_form import DEFAULT_OPTIONS, JobForm
from core.pricing.prices import ENGINE
from core.providers import ModelInfo
from pages.ui import cache, state
from pages.ui.components import fields
from pages.ui.components.fields import number_field
from pages.ui.i18n import _, number, pair
from pages.ui.training import auto_fields, job_labels

RANK, ALPHA, WARMUP, SCHEDULE = "training_rank", "training_alpha", "training_warmup", "training_schedule"
STOPPING, PATIENCE = "training_early_stopping", "training_patience"
_ALPHAS = (Decimal(str(job_form.LORA_ALPHA[0])), Decimal(str(job_form.LORA_ALPHA[1])))
_USUAL_PATIENCE = 2  # epochs


def offered(base: ModelInfo) -> bool:
    """Whether jobs that start from this model accept these hyperparameters."""
    try:
        return cache.registry().provider(base.provider).capabilities.training_options
    except FabulaError:  # the engine is starting; its jobs wait for it
        return base.provider == ENGINE


def chosen(base: ModelInfo, *, has_validation: bool) -> dict[str, Any]:
    """The values in the form, by their names in `JobForm`; without those that are automatic or do not apply.

    Args:
        has_validation: whether the job has rows for validation, which early stopping needs.
    """
    if not offered(base):
        return {}
    warmup, schedule = state.get(WARMUP), state.get(SCHEDULE)
    values = {
        "lora_rank": None if auto_fields.is_automatic(RANK) else state.get(RANK),
        "lora_alpha": _alpha(),
        "warmup": warmup / 100 if warmup else None,
        "schedule": None if schedule == DEFAULT_OPTIONS.schedule else schedule,
        "early_stopping": state.get(PATIENCE) if has_validation and state.get(STOPPING) else None,
    }
    kept = job_form.ADAPTER_OPTIONS if base.is_tuned else ()
    return {name: value for name, value in values.items() if value is not None and name not in kept}


def _alpha() -> float | None:
    if auto_fields.is_automatic(ALPHA):
        return None
    try:
        value = fields.read_decimal(ALPHA, *_ALPHAS)
    except FabulaError:  # the step does not continue while its text is invalid
        return None
    return None if value is None else float(value)


def fill(form: JobForm) -> None:
    """Put a job's values into the fields. Call only before they are rendered, or from a callback."""
    auto_fields.put(RANK, form.lora_rank)
    auto_fields.put(ALPHA, form.lora_alpha, decimal=True)
    state.set_value(WARMUP, round(100 * (form.warmup or 0)))
    state.set_value(SCHEDULE, form.schedule or DEFAULT_OPTIONS.schedule)
    state.set_value(STOPPING, form.early_stopping is not None)
    state.set_value(PATIENCE, form.early_stopping or _USUAL_PATIENCE)


def show(base: ModelInfo, *, has_validation: bool) -> bool:
    """Render the expander; returns whether its values are valid.

    Renders nothing if the provider does not accept them.
    """
    if not offered(base):
        return True
    with st.expander(_("Advanced"), icon=":material/tune:", key="training_advanced"):
        valid = _adapter(base)
        _schedule()
        _early_stopping(has_validation)
    return valid


def _adapter(base: ModelInfo) -> bool:
    """Render rank and alpha; returns whether they are valid."""
    if base.is_tuned:
        st.caption(_("LoRA rank and alpha: this model keeps the ones it was trained with."))
        return True
    defaults = job_form.training_defaults(base)
    auto_fields.whole(
        _("LoRA rank"), RANK, defaults.lora_rank or job_form.LORA_RANK[0], *job_form.LORA_RANK,
        help=_(
            "How much the adapter can learn. A higher rank needs more memory and disk space; it helps with large data "
            "sets."
        ),
        default=defaults.lora_rank,
    )  # fmt: skip
    alpha = auto_fields.real(
        _("LoRA alpha"), ALPHA, defaults.lora_alpha or DEFAULT_OPTIONS.lora_alpha, *_ALPHAS,
        help=_(
            "The adapter's effect is multiplied by alpha divided by rank. Keep the default when you change the rank: "
            "the learning rate then still fits."
        ),
        default=defaults.lora_alpha,
    )  # fmt: skip
    rate = _("A learning rate multiplier of 1 is a learning rate of {rate} for this model.")
    st.caption(rate.format(rate=f"{defaults.learning_rate:.1e}"))
    return alpha.problem is None


def _schedule() -> None:
    """Render warm-up, and how the learning rate falls afterwards."""
    left, right = st.columns(2)
    with left:
        low, high = (round(100 * share) for share in job_form.WARMUP)
        number_field(
            _("Warm-up (% of the steps)"), WARMUP, low, high, persist_state="session",
            help=_("The learning rate rises over these steps. Try 10 if the loss jumps at the start."),
        )  # fmt: skip
    with right:
        state.set_default(SCHEDULE, DEFAULT_OPTIONS.schedule)
        st.selectbox(
            _("Schedule of the learning rate"), job_form.SCHEDULES, key=SCHEDULE, persist_state="session",
            format_func=job_labels.schedule,
            help=_("Linear and cosine fall to 0 by the last step; constant does not fall."),
        )  # fmt: skip


def _early_stopping(has_validation: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if not has_validation:
            state.set_value(STOPPING, False)
        stops = st.toggle(
            _("Early stopping"), key=STOPPING, disabled=not has_validation, persist_state="session",
            help=_("Ends the job once the validation loss stops falling, and keeps the epoch with the lowest one."),
        )  # fmt: skip
        if stops:
            number_field(
                _("Epochs without a lower validation loss"), PATIENCE, *job_form.EARLY_STOPPING, start=_USUAL_PATIENCE,
                width=280, persist_state="session",
            )  # fmt: skip
    if not has_validation:
        st.caption(_("Early stopping needs rows for validation: choose a share in the first step."))
    elif stops:
        st.caption(_("Time and tokens of the estimate are for all epochs; the job may end sooner."))


def differences(form: JobForm, base: ModelInfo) -> list[str]:
    """The values of a form that differ from the defaults, in words."""
    defaults = job_form.training_defaults(base)
    usual = {"lora_rank": defaults.lora_rank, "lora_alpha": defaults.lora_alpha}
    found = []
    for name in job_form.OPTIONS:
        value, default = form.hyperparameters.get(name), usual.get(name)
        if value is None or value == default:
            continue
        words = pair(_(job_labels.OPTIONS[name]), job_labels.option(name, value))
        if default is not None:
            words = _("{setting} (default: {value})").format(setting=words, value=number(default))
        found.append(words)
    return found
