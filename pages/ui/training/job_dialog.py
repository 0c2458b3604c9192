"""The dialog of a new job in three steps: check, estimate, confirm. Session state opens it from any page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import streamlit as st

from core.finetuning import jobs
from core.finetuning.jobs import JobView
from pages.ui import cached, cards, state
from pages.ui.lang import _, mark
from pages.ui.training import job_check, job_confirm, job_estimate, job_form

_STEP = "training_dialog"  # 1 to 3; 0 or missing: closed
_ASKED_FOR = "new"  # the value of `training_part` with which other pages start a new job
_STEPS: tuple[tuple[str, Callable[[], bool]], ...] = (
    (mark("Check"), job_check.show),
    (mark("Estimate"), job_estimate.show),
    (mark("Confirm"), job_confirm.show),
)
_NEXT = (mark("Next: estimate"), mark("Next: confirm"))


def button(*, primary: bool) -> None:
    """The **New job** button."""
    st.button(
        _("New job"), type="primary" if primary else "secondary", icon=":material/add:", key="training_new",
        on_click=begin,
    )  # fmt: skip


def begin() -> None:
    """Open the dialog at its first step, with the previous choices. Only in a callback, or before it is drawn."""
    state.set_value(_STEP, 1)


def further(job: JobView, model: str) -> None:
    """Start a new job from this job's model."""
    job_form.start_from(job.provider, model)
    begin()


def again(job: JobView, **changed: Any) -> None:
    """Start a new job with this job's settings, except for those in `changed` (fields of `JobForm`)."""
    with cards.keep_errors():
        job_form.fill(replace(jobs.clone(cached.store(), job.id), **changed))
        begin()


def asked_for() -> None:
    """Open the dialog over the list if another page requested it."""
    if state.get("training_part") == _ASKED_FOR:
        state.set_value("training_part", "jobs")
        begin()


def show() -> None:
    """The dialog, if it is open."""
    if state.get(_STEP):
        st.dialog(_("New job"), width="large", icon=":material/model_training:", on_dismiss=_close)(_body)()


def _body() -> None:
    step = int(state.get(_STEP) or 0)
    if not 1 <= step <= len(_STEPS):  # closed by a click whose run was interrupted by a second click
        st.rerun()
    _stepper(step)
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
            st.space("stretch")
        if step < len(_STEPS):
            st.button(
                _(_NEXT[step - 1]), type="primary", icon=":material/arrow_forward:", key="training_next",
                disabled=not ready, on_click=state.set_value, args=(_STEP, step + 1),
            )  # fmt: skip
        elif job_confirm.button(ready, _close):
            st.rerun()


def _stepper(step: int) -> None:
    """All steps on one line: done, current, upcoming."""
    marks = []
    for place, (title, _show) in enumerate(_STEPS, start=1):
        words = f"{place} · {_(title)}"
        if place == step:
            marks.append(f"**{words}**")
        else:
            marks.append(f":green[{words}]" if place < step else f":gray[{words}]")
    st.markdown("  :gray[:material/chevron_right:]  ".join(marks))


def _close() -> None:
    state.set_value(_STEP, 0)
    job_form.forget_problem()
