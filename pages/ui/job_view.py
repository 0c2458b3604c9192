"""Your jobs: a list, and below it the one that is open: verdict, progress, curves, events, and how to act on it."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from core.actor import LOCAL
from core.db.tables import utcnow
from core.training import jobs
from core.training.jobs import JobView
from pages.ui import cached, cards, curves, state
from pages.ui.lang import _, ago, clock, duration, mark, n_, number, plain, told

STATUSES = {
    "preparing": mark("preparing"),
    "submitting": mark("submitting"),
    "validating_files": mark("checking the file"),
    "queued": mark("queued"),
    "running": mark("training"),
    "paused": mark("paused"),
    "succeeded": mark("finished"),
    "failed": mark("failed"),
    "cancelled": mark("cancelled"),
}
_ACTIONS = {
    "pause": (mark("Pause"), ":material/pause:", ("running", "queued")),
    "resume": (mark("Resume"), ":material/play_arrow:", ("paused",)),
    "cancel": (mark("Cancel"), ":material/close:", ("validating_files", "queued", "running", "paused", "preparing")),
}


def show() -> None:
    """The whole part."""
    found = cached.job_list()
    if not found:
        with cards.empty(
            _("No job yet. A new one takes a data set of yours, or a file."), icon=":material/model_training:"
        ):
            st.button(
                _("New job"),
                type="primary",
                icon=":material/add:",
                key="training_first",
                on_click=state.put,
                args=("training_part", "new"),
            )
        return
    active = any(not job.finished for job in found)
    st.fragment(run_every=cached.POLL_S if active else None)(_all)(active)


def _all(was_active: bool) -> None:
    """The list and the open job, as they are now. When the last job ends, the whole page is drawn once more."""
    with cards.errors_shown():
        found = cached.job_list()
        if was_active and all(job.finished for job in found):
            st.rerun()
        job = _list(found)
        _verdict(job)
        _actions(job)
        curves.show(cached.curve(job), "training_job")
        _events(job)
        _settings(job)


def _list(found: list[JobView]) -> JobView:
    """All jobs; a click on a row opens it. The newest is open to begin with."""
    frame = pd.DataFrame([_record(job) for job in found])
    event = st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(found) <= 6 else 260,
        on_select="rerun",
        selection_mode="single-row-required",
        key=f"training_list_{len(found)}",  # a new job is the one to look at
        column_config={
            "name": st.column_config.TextColumn(_("Job")),
            "status": st.column_config.TextColumn(_("Status")),
            "base": st.column_config.TextColumn(_("Started from")),
            "examples": st.column_config.NumberColumn(_("Rows"), format="localized"),
            "loss": st.column_config.NumberColumn(_("Loss"), format="%.3f"),
            "accuracy": st.column_config.NumberColumn(_("Token accuracy"), format="percent"),
            "curve": st.column_config.LineChartColumn(_("Loss so far"), width="small"),
            "when": st.column_config.TextColumn(_("When")),
        },
        placeholder="–",
        alt=_("Training jobs"),
    )
    picked = event.selection.rows
    return found[picked[0]] if picked and picked[0] < len(found) else found[0]


def _record(job: JobView) -> dict[str, object]:
    curve = cached.curve(job)
    losses = curve.frame["training_loss"].dropna()
    return {
        "name": job.name,
        "status": _(STATUSES.get(job.status, job.status)),
        "base": job.base_model,
        "examples": job.n_examples,
        "loss": curve.last("training_loss"),
        "accuracy": curve.last("training_token_accuracy"),
        "curve": [float(value) for value in losses.iloc[:: max(1, len(losses) // 40)]],
        "when": ago(job.created_at, utcnow()),
    }


def _verdict(job: JobView) -> None:
    """How it goes, in a sentence, with the bar and the time left."""
    sentence = told(jobs.verdict(job, utcnow()))
    icon = {"succeeded": ":material/check_circle:", "failed": ":material/error:"}.get(
        job.status, ":material/model_training:"
    )
    st.markdown(f"{icon} **{plain(sentence)}**")
    if not job.finished:
        _bar(job)
    if job.status == "failed" and job.next_step:
        st.caption(f":material/arrow_forward: {plain(told(job.next_step))}")


def _bar(job: JobView) -> None:
    """Step by step where the engine says so, by time where only the end is known, and empty where neither is."""
    steps = cached.training_of(job.id)
    left = None if job.estimated_finish is None else max(0.0, (job.estimated_finish - utcnow()).total_seconds())
    gone = (utcnow() - job.created_at).total_seconds()
    share = steps[0] / max(1, steps[1]) if steps else gone / (gone + left) if left is not None else 0.0
    words = (
        _("step {step} of {total}").format(step=number(steps[0]), total=number(steps[1])) if steps else "",
        _("done in {time}").format(time=duration(left)) if left is not None else "",
        _("since {time}").format(time=duration(gone)),
    )
    st.progress(min(1.0, share), text=" · ".join(word for word in words if word))


def _actions(job: JobView) -> None:
    with st.container(horizontal=True):
        for action, (title, icon, statuses) in _ACTIONS.items():
            if job.status in statuses:
                st.button(
                    _(title), icon=icon, key=f"training_{action}", on_click=_request, args=(job.id, action),
                    disabled=job.request is not None,
                )  # fmt: skip
        if job.fine_tuned_model is not None:
            if st.button(
                _("Write a story with it"), icon=":material/auto_stories:", type="primary", key="training_try"
            ):
                state.put("story_model", f"{job.provider}/{job.fine_tuned_model}")
                state.put("story_part", "write")
                st.switch_page("story.py")
            st.download_button(
                _("Results CSV"), data=job.results_csv or "", file_name=f"{job.name}.csv", mime="text/csv",
                key="training_results_csv", icon=":material/download:", on_click="ignore",
            )  # fmt: skip


def _request(job_id: str, action: str) -> None:
    with cards.errors_kept():
        jobs.request(cached.store(), LOCAL, job_id, action)


def _events(job: JobView) -> None:
    events = jobs.events(cached.store(), job.id)
    with st.expander(n_("{n} event", "{n} events", len(events)), icon=":material/list:"):
        for event in reversed(events):
            st.caption(f"{clock(event.at)} · {plain(told(event.message))}")


def _settings(job: JobView) -> None:
    with st.expander(_("Settings of this job"), icon=":material/tune:"):
        st.table(
            {
                _("Started from"): plain(job.base_model),
                _("Model it made"): plain(job.fine_tuned_model or _("none yet")),
                _("Rows"): number(job.n_examples),
                _("Separator"): plain(repr(job.separator)),
                _("Stop"): plain(repr(job.stop)),
                _("Hyper-parameters"): plain(job.hyperparameters),
            },
            border="horizontal",
            width="content",
            alt=_("Settings of this job"),
        )
