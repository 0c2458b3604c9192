"""Three-step dialog for creating a job: check, estimate, confirm.

Any page can open it by setting a session-state flag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import streamlit as st

from core.errors import FabulaError
from core.finetuning import jobs
from core.finetuning.job_form import JobForm
from core.finetuning.job_views import JobView
from pages.ui import cache, state
from pages.ui.components import cards, models, views
from pages.ui.i18n import _, mark, n_, percent, plain, usd
from pages.ui.sign_in import current_actor
from pages.ui.training import candidate_page, job_check, job_estimate, job_form, job_list, job_options, prompt_trial
from pages.ui.training.job_estimate import JobRequirements
from pages.ui.training.job_form import JobDraft

_STEP = "training_dialog"  # 1 to 3; closed if 0 or missing
_ASKED_FOR = "new"  # the value of `training_part` with which other pages start a new job
_NEXT = (mark("Next: estimate"), mark("Next: confirm"))


def button(*, primary: bool) -> None:
    """Render the **New job** button."""
    st.button(
        _("New job"), type="primary" if primary else "secondary", icon=":material/add:", key="training_new",
        on_click=begin,
    )  # fmt: skip


def begin() -> None:
    """Open the dialog at its first step, with the previous choices.

    Call only from a callback, or before it is rendered.
    """
    state.set_value(_STEP, 1)


def further(job: JobView, model: str) -> None:
    """Start a new job from this job's model."""
    job_form.start_from(job.provider, model)
    begin()


def again(job: JobView, **changed: Any) -> None:
    """Start a new job with this job's settings, except for those in `changed` (fields of `JobForm`)."""
    with cards.keep_errors():
        job_form.fill(replace(jobs.clone(cache.store(), job.id), **changed))
        begin()


def asked_for() -> None:
    """Open the dialog over the list if another page requested it."""
    if state.get("training_part") == _ASKED_FOR:
        state.set_value("training_part", "jobs")
        begin()


def show() -> None:
    """Render the dialog, if it is open."""
    if state.get(_STEP):
        st.dialog(_("New job"), width="large", icon=":material/model_training:", on_dismiss=_close)(_body)()


def _body() -> None:
    step = int(state.get(_STEP) or 0)
    if not 1 <= step <= len(_STEPS):  # closed by a click whose run was interrupted by a second click
        st.rerun()
    views.stepper([f"{place} · {_(title)}" for place, (title, _show) in enumerate(_STEPS, start=1)], step)
    if step > 1:
        job_form.preserve_inputs()
    ready = False
    with cards.show_errors():
        ready = _STEPS[step - 1][1]()
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        if step > 1:
            st.button(
                _("Back"),
                icon=":material/arrow_back:",
                key="training_back",
                on_click=state.set_value,
                args=(_STEP, step - 1),
            )
        else:
            _other_ways()
        if step < len(_STEPS):
            st.button(
                _(_NEXT[step - 1]), type="primary", icon=":material/arrow_forward:", key="training_next",
                disabled=not ready, on_click=state.set_value, args=(_STEP, step + 1),
            )  # fmt: skip
        elif _submit_button(ready, _close):
            st.rerun()


def _other_ways() -> None:
    """Render the buttons that lead elsewhere with the chosen rows: prompts instead of training, and other models."""
    with st.container(horizontal=True, width="content"):
        prompts = st.button(
            _("Try prompts first"), icon=":material/science:", type="tertiary", key="training_try_prompts",
            help=_("See how well a base model does the task with examples in its prompt, before you train."),
            on_click=_try_prompts,
        )  # fmt: skip
        candidates = st.button(
            _("Compare candidates"), icon=":material/compare_arrows:", type="tertiary", key="training_candidates",
            help=_("See every model that can be trained on these rows, with price, time and cost of calls."),
            on_click=_compare_candidates,
        )  # fmt: skip
    if prompts or candidates:
        st.rerun()


def _try_prompts() -> None:
    with cards.keep_errors():
        _close()
        if (kept := job_form.keep_rows()) is not None:
            prompt_trial.open_for(*kept)


def _compare_candidates() -> None:
    _close()
    state.set_value("training_part", candidate_page.PART)


def _close() -> None:
    state.set_value(_STEP, 0)
    job_form.forget_problem()


def _confirm() -> bool:
    """Render the summary; returns True if the job can be started."""
    if (problem := job_form.problem()) is not None:
        cards.error_card(problem, "training_ask_budget")
    draft = job_form.draft()
    found = job_estimate.requirements(draft)
    with st.container(border=True):
        st.markdown(_summary(draft))
        form = job_form.form(draft)
        st.caption(" · ".join([*_choices(form), *job_options.differences(form, draft.base)]))
        job_estimate.facts(draft, found)
    st.caption(_("Clicking twice won't start a second job. Training continues if you close this page."))
    return found.may


def _submit_button(ready: bool, close: Callable[[], None]) -> bool:
    """Render the submit button, with the price if there is one. Returns whether it was clicked."""
    try:
        draft = job_form.draft()
        found = job_estimate.requirements(draft)
    except FabulaError:  # the step above shows the error; the button stays active and shows it again
        return False
    return st.button(
        _submit_label(draft, found),
        type="primary",
        icon=":material/model_training:",
        key="training_submit",
        disabled=not ready,
        on_click=_submit,
        args=(_form(draft, found), close),
    )


def _submit_label(draft: JobDraft, found: JobRequirements) -> str:
    rows = n_("Train on {n} row", "Train on {n} rows", draft.rows)
    one = found.estimate
    if one is None or one.cost_usd is None or one.local:
        return rows
    return _("{rows} for {price}").format(rows=rows, price=usd(one.cost_usd))


def _summary(draft: JobDraft) -> str:
    template = _("**{model}** ({provider}) trains on **{rows}** of **{dataset}**")
    if draft.marks.method == "dpo":
        template = _("**{model}** ({provider}) learns from votes (DPO): **{rows}** of **{dataset}**")
    words = template.format(
        model=plain(models.short_name(draft.base.id)),
        provider=plain(models.provider_name(draft.base.provider)),
        rows=n_("{n} row", "{n} rows", draft.rows),
        dataset=plain(draft.chosen.name),
    )
    if draft.version is not None and draft.version.n_validation:
        words += _(", ") + n_("validated on {n} other row", "validated on {n} other rows", draft.version.n_validation)
    elif draft.share:
        words += _(", ") + _("{share} of them kept for validation").format(share=percent(draft.share, 0))
    return _("{summary}.").format(summary=words)


def _choices(form: JobForm) -> list[str]:
    """The chosen hyperparameters, and those left to the provider."""
    automatic = _("automatic")
    return [
        _("suffix: {suffix}").format(suffix=plain(form.suffix or "–")),
        _("epochs: {n}").format(n=form.n_epochs or automatic),
        _("batch size: {n}").format(n=form.batch_size or automatic),
        _("learning rate multiplier: {n}").format(n=form.learning_rate_multiplier or automatic),
        *([_("beta: {n}").format(n=form.beta or automatic)] if form.method == "dpo" else []),
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
        job_list.open_jobs(jobs.submit(cache.store(), current_actor(), form))
    except FabulaError as problem:
        job_form.keep_problem(problem)
    else:
        close()
        state.set_value("training_part", "jobs")
    finally:
        cache.refresh()


_STEPS: tuple[tuple[str, Callable[[], bool]], ...] = (
    (mark("Check"), job_check.show),
    (mark("Estimate"), job_estimate.show),
    (mark("Confirm"), _confirm),
)
