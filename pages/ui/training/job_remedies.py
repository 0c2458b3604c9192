"""Remedies of a failed training job: its cause, and buttons for the next step."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import failures
from core.failures import Remedy
from core.finetuning import job_form
from core.finetuning.jobs import JobView
from core.providers import ModelInfo
from pages.ui import cached, failure_labels
from pages.ui.lang import _, number
from pages.ui.training import job_dialog, job_labels


def show(job: JobView) -> None:
    """Draw one line for a failed job; nothing for others."""
    if job.status != "failed":
        return
    failure = failures.of_job(job.error)
    pressed = False
    with st.container(horizontal=True, vertical_alignment="center"):
        if failure.cause != "other":
            st.markdown(f"**{_(failure_labels.WORDS[failure.cause])}**", width="content")
        for remedy in failures.JOB_REMEDIES[failure.cause]:
            pressed = _button(remedy, job) or pressed
    if pressed:
        st.rerun()  # the dialog belongs to the whole page


def _button(remedy: Remedy, job: JobView) -> bool:
    """Draw one remedy; returns True if it was just pressed.

    Most open the form with the job's settings and the fix applied.
    """
    if failure_labels.page_button(remedy, "training_fix") or (offer := _offer(remedy, job)) is None:
        return False
    label, icon, fixed = offer
    return st.button(
        label, icon=icon, key=f"training_fix_{remedy}", on_click=job_dialog.again, args=(job,), kwargs=fixed
    )


def _offer(remedy: Remedy, job: JobView) -> tuple[str, str, dict[str, Any]] | None:
    """Label, icon, and the changed settings of the new job; None: not applicable."""
    match remedy:
        case "smaller_batch" if (batch := job_form.smaller_batch(job)) is not None:
            label = _("Try again with batch size {n}").format(n=batch)
            return label, ":material/memory_alt:", {"batch_size": batch}
        case "lower_rate":
            rate = job_form.lower_rate(job)
            label = _("Try again with learning rate multiplier {rate}").format(rate=number(rate, 2))
            return label, ":material/trending_down:", {"learning_rate_multiplier": rate}
        case "check_file":
            return _("Check the file"), ":material/fact_check:", {}
        case "another_model" if (other := _another_base(job)) is not None:
            label = _("Start from {model}").format(model=job_labels.model_name(other.id))
            return label, ":material/swap_horiz:", {"provider": other.provider, "base_model": other.id}
        case "try_again" | "wait":
            return _("Submit again"), ":material/replay:", {}
    return None


def _another_base(job: JobView) -> ModelInfo | None:
    """Another model to start from, preferably untuned; None: there is no other model."""
    others = [one for one in cached.trainable() if (one.provider, one.id) != (job.provider, job.base_model)]
    return min(others, key=lambda one: one.id.startswith("ft:"), default=None)
