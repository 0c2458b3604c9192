"""The third step of a new job: a summary, and the button that starts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from core.actor import LOCAL
from core.errors import FabulaError
from core.finetuning import jobs
from core.finetuning.jobs import JobForm
from pages.ui import cached, cards, models, state
from pages.ui.lang import _, n_, percent, plain, usd
from pages.ui.training import job_estimate, job_form, job_labels, job_list
from pages.ui.training.job_estimate import JobRequirements
from pages.ui.training.job_form import JobDraft


def show() -> bool:
    """Draw the summary; returns True if the job can be started."""
    if (problem := job_form.problem()) is not None:
        cards.error_card(problem)
    draft = job_form.draft()
    found = job_estimate.requirements(draft)
    with st.container(border=True):
        st.markdown(_sentence(draft))
        st.caption(" · ".join(_choices(job_form.form(draft))))
        job_estimate.facts(found)
    st.caption(_("Clicking twice won't start a second job. Training continues if you close this page."))
    return found.may


def button(ready: bool, close: Callable[[], None]) -> bool:
    """The submit button, with the price if there is one. Returns whether it was clicked."""
    try:
        draft = job_form.draft()
        found = job_estimate.requirements(draft)
    except FabulaError:  # the step above shows the error; the button stays active and shows it again
        return False
    return st.button(
        _label(draft, found),
        type="primary",
        icon=":material/model_training:",
        key="training_submit",
        disabled=not ready,
        on_click=_submit,
        args=(_form(draft, found), close),
    )


def _label(draft: JobDraft, found: JobRequirements) -> str:
    rows = n_("Train on {n} row", "Train on {n} rows", draft.rows)
    one = found.estimate
    if one is None or one.local:
        return rows
    return _("{rows} for {price}").format(rows=rows, price=usd(one.cost_usd))


def _sentence(draft: JobDraft) -> str:
    words = _("**{model}** ({provider}) trains on **{rows}** of **{dataset}**").format(
        model=plain(job_labels.model_name(draft.base.id)),
        provider=plain(models.provider_name(draft.base.provider)),
        rows=n_("{n} row", "{n} rows", draft.rows),
        dataset=plain(draft.chosen.name),
    )
    if draft.version is not None and draft.version.n_validation:
        words += ", " + n_("validated on {n} other row", "validated on {n} other rows", draft.version.n_validation)
    elif draft.share:
        words += ", " + _("{share} of them kept for validation").format(share=percent(draft.share, 0))
    return f"{words}."


def _choices(form: JobForm) -> list[str]:
    """The chosen hyperparameters, and those left to the provider."""
    automatic = _("automatic")
    return [
        _("suffix: {suffix}").format(suffix=plain(form.suffix or "–")),
        _("epochs: {n}").format(n=form.n_epochs or automatic),
        _("batch size: {n}").format(n=form.batch_size or automatic),
        _("learning rate multiplier: {n}").format(n=form.learning_rate_multiplier or automatic),
        _("seed: {n}").format(n=automatic if form.seed is None else form.seed),
    ]


def _form(draft: JobDraft, found: JobRequirements) -> JobForm:
    """The job with the estimate shown before submitting."""
    one = found.estimate
    if one is None:
        return job_form.form(draft)
    return replace(job_form.form(draft), estimated_usd=one.cost_usd, estimated_s=one.seconds)


def _submit(form: JobForm, close: Callable[[], None]) -> None:
    try:
        job_list.open_jobs(jobs.submit(cached.store(), LOCAL, form))
    except FabulaError as problem:
        job_form.keep_problem(problem)
    else:
        close()
        state.set_value("training_part", "jobs")
    finally:
        cached.refresh()
