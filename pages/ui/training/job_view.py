"""Your jobs: the list, and below it the open job, or several side by side."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.charts.training_curve import CurveSource
from core.db.tables import utcnow
from core.evaluation import before_after
from core.finetuning import jobs, lineage
from core.finetuning.job_views import JobView
from core.message import sentences
from core.pricing.prices import ENGINE
from pages.ui import cache, visible
from pages.ui.components import cards, models, sharing, views
from pages.ui.components.money import work_cost
from pages.ui.i18n import _, as_markdown, duration, localized, mark, n_, number, plain, usd
from pages.ui.training import (
    before_after_view,
    cached_training,
    compare_view,
    curves,
    evaluation_tab,
    job_actions,
    job_details,
    job_dialog,
    job_labels,
    job_list,
    parity_view,
)

_ICONS = {
    "succeeded": ":green[:material/check_circle:]",
    "failed": ":red[:material/error:]",
    "paused": ":material/pause_circle:",
}
_PARTS = {
    "events": mark("Events"),
    "settings": mark("Settings"),
    "evaluation": mark("Evaluation"),
    "family": mark("Family tree"),
}
_MEGABYTE = 1_000_000
_POLL_S = 2.0  # the worker asks a job's provider every two seconds


def show() -> None:
    """Render the whole section."""
    found = visible.job_list()
    if not found:
        with cards.empty(_("No jobs yet. Start one from a data set or a file."), icon=":material/model_training:"):
            job_dialog.button(primary=True)
        return
    active = _active(found)
    st.fragment(run_every=_POLL_S if active else None)(_all)(active)


def _all(was_active: bool) -> None:
    """Render the list and the open jobs, live. Reruns the page when the first job starts or the last one ends."""
    cards.draw_page_if_left()
    with cards.show_errors():
        found = visible.job_list()
        drawn = _active(found)
        opened = job_list.show(sharing.filter_by_owner("training_owner", found))
        if len(opened) > 1:
            compare_view.show(opened)
        else:
            _one(opened[0])
        # after the buttons: before them, a click at this moment would be lost; and both states, because a comparison
        # that begins and ends between two ticks is drawn as running
        if {drawn, _active(found)} != {was_active}:
            st.rerun()


def _active(found: Sequence[JobView]) -> bool:
    """True while a job or a comparison of its models runs."""
    return any(not job.finished for job in found) or before_after.any_active(cache.store())


def _one(job: JobView) -> None:
    """Render one job: state, actions, the before-and-after comparison, curve, checkpoints, and the other sections as
    tabs. The tabs come first for a visitor who was led to a comparison in them.
    """
    _verdict(job)
    job_actions.remedies(job)
    job_actions.model_state(job)
    job_actions.show(job)
    tabs_first = parity_view.is_opened_for(job)
    if tabs_first:
        _tabs(job)
    before_after_view.show(job)
    points = cached_training.points(job)
    source = cached_training.source(job)
    clicked = curves.show(source, "training_job", points, missing=_no_curve(job, source) if job.finished else None)
    job_actions.checkpoints(job, points, clicked)
    if not tabs_first:
        _tabs(job)


def _tabs(job: JobView) -> None:
    part = views.switch("training_tab", _("About this job"), {key: _(title) for key, title in _PARTS.items()})
    if part == "events":
        job_details.events(job)
    elif part == "settings":
        job_details.settings(job)
    elif part == "evaluation":
        evaluation_tab.show(job)
    else:
        job_details.family_tree(job)


def _no_curve(job: JobView, source: CurveSource) -> str:
    """Why an ended job has no curve."""
    if job.status != "succeeded":
        return _("The job ended before the first step was measured.")
    if source.results.empty:
        return _("The provider gave no results file for this job, or an empty one. The model is not affected.")
    return localized(source.results.note or "")


def _verdict(job: JobView) -> None:
    """Render the state in one sentence, with progress bar and time left."""
    stopped = job.provider != ENGINE and job.status == "succeeded" and job_actions.model_gone(job)
    sentence = _("Training is done. The model has stopped.") if stopped else cached_training.words(job)
    st.markdown(f"{_ICONS.get(job.status, ':material/model_training:')} **{plain(sentence)}**")
    if not job.finished:
        _bar(job)
    if job.next_step:
        st.markdown(f":material/arrow_forward: {as_markdown(job.next_step)}")
    _pause(job)
    if early_end := cached_training.early_end(job):
        st.markdown(f":material/flag: {as_markdown(sentences(*early_end))}")
    views.facts(_facts(job))


def _pause(job: JobView) -> None:
    """Render the time until which the provider asked for no requests, with a button to retry now.

    (Cancel is in the row of buttons.)
    """
    if job.finished or job.not_before is None or job.not_before <= utcnow():
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(views.resumption(job.not_before), width="content")
        st.button(
            _("Resume now"), icon=":material/play_arrow:", key="training_retry_now", on_click=cards.act,
            args=(jobs.retry_now, job.id),
        )  # fmt: skip


def _facts(job: JobView) -> tuple[str, ...]:
    """Provider, base model, and tokens, cost and time so far."""
    chain = lineage.chain_of(job, cache.job_list())
    tokens = job.trained_tokens or cached_training.summary(job).tokens
    took = job.training_s(utcnow())
    has_cost = job.finished if job.provider == ENGINE else job.cost_usd is not None
    expected = _("expected: {price}").format(price=usd(job.estimated_usd)) if job.estimated_usd else ""
    return (
        plain(job.name),
        plain(models.provider_name(job.provider)),
        plain(job_labels.base_and_chain(chain)),
        n_("{n} token", "{n} tokens", tokens) if tokens is not None else "",
        _("cost: {price}").format(price=work_cost(job.provider, job.cost_usd, took)) if has_cost else expected,
        _("trained for {time}").format(time=duration(took)) if job.finished and took is not None else "",
    )


def _bar(job: JobView) -> None:
    """Render the upload's progress while it runs; then progress by steps if the engine reports them, else by time if
    known.

    Time in the queue does not count.
    """
    now = utcnow()
    elapsed_s, left = job.training_s(now), job.eta_s(now)
    steps = _steps(job)
    if job.status == "preparing" and job.upload_share is not None:
        share, words = job.upload_share, [_sent(job)]
    elif steps:
        share = steps[0] / max(1, steps[1])
        words = [_("step {step} of {total}").format(step=number(steps[0]), total=number(steps[1]))]
    else:
        share, words = (elapsed_s / (elapsed_s + left) if elapsed_s and left else 0.0), []
    words += [left_text] if (left_text := job_labels.time_left(job, now)) else []
    if job.waiting and not elapsed_s:
        words += [_("waiting for {time}").format(time=duration((now - job.created_at).total_seconds()))]
    elif elapsed_s is not None:
        words += [_("trained for {time}").format(time=duration(elapsed_s))]
    st.progress(min(1.0, share), text=" · ".join(words))


def _steps(job: JobView) -> tuple[int, int] | None:
    """Current and total steps of a job that the engine is training; None if it is not training it or does not report
    them.
    """
    training = cache.status().engine.training or {}
    if training.get("job") != job.remote_id or not training.get("total_steps"):
        return None
    return int(training.get("step") or 0), int(training["total_steps"])


def _sent(job: JobView) -> str:
    return _("{sent} of {total} MB sent").format(
        sent=number((job.uploaded_bytes or 0) / _MEGABYTE, 1), total=number((job.file_bytes or 0) / _MEGABYTE, 1)
    )
