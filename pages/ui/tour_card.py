"""The guided tour: start, live steps, stop, continue and repeat."""

from __future__ import annotations

import math
from datetime import timedelta

import streamlit as st

from core.actor import LOCAL
from core.db.tables import utcnow
from core.evaluation import before_after
from core.finetuning import jobs
from core.tours import tour
from core.tours.tour import TourProgress
from pages.ui import cached, cards, state, tour_result
from pages.ui.lang import _, as_markdown, language, localized, mark, number
from pages.ui.training import before_after_view, cached_curves, curves, job_labels

_STEPS = {
    "dataset": (mark("Stories"), ":material/grid_view:"),
    "training": (mark("Training"), ":material/model_training:"),
    "story": (mark("Before and after"), ":material/compare:"),
}
_SHOWN = "home_tour_shown"  # id of the tour on the card, which another visitor's tour does not replace
_USUALLY_DONE = {"dataset": 0.0, "training": 0.05, "story": 0.9}  # share of the tour completed before each step
_LONG_AGO = timedelta(hours=2)  # after this, the home page shows the user's own work instead
_ENOUGH_STEPS = 2  # one point is no curve


def show() -> None:
    """Draw the card; it updates while a tour runs."""
    active = _active(_shown())
    st.fragment(run_every=cached.POLL_S if active else None)(_card)(active)


def _active(progress: TourProgress | None) -> bool:
    return progress is not None and progress.state in tour.UNFINISHED


def _card(was_active: bool) -> None:
    cards.draw_page_if_left()
    with cards.show_errors():
        progress = _shown()
        if was_active != _active(progress):
            st.rerun()
        if progress is not None and _long_ago(progress):
            title = _("Take the tour again")
            st.button(title, icon=":material/tour:", type="tertiary", key="home_tour", on_click=_start)
            return
        with st.container(border=True):
            if progress is None:
                _invitation()
            elif _active(progress):
                _running_tour(progress)
            else:
                _ended(progress)


def _shown() -> TourProgress | None:
    """The tour that this visitor started or saw first; initially the newest one."""
    tour_id = state.get(_SHOWN)
    found = tour.progress(cached.store(), tour_id=tour_id) if tour_id else None
    found = found or tour.progress(cached.store())
    if found is not None:
        state.set_value(_SHOWN, found.id)
    return found


def _long_ago(progress: TourProgress) -> bool:
    return progress.finished_at is not None and utcnow() - progress.finished_at > _LONG_AGO


def _invitation() -> None:
    """The description of the tour and its start button."""
    missing = cached.status().engine.state == "missing"
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(width=760, gap="xsmall"):
            st.subheader(_("Train your first model in about four minutes"), anchor=False)
            st.markdown(
                _(
                    "Fabula composes a set of short stories and fine-tunes a small language model on them. Then the "
                    "untrained model and yours answer the same new prompt, side by side. It all runs on this machine."
                )
            )
        st.button(
            _("Take the tour"), type="primary", icon=":material/tour:", key="home_tour", on_click=_start,
            disabled=missing,
        )  # fmt: skip
    if missing:
        cards.engine_missing_card()
        tour_result.recorded()


# --- while it runs -------------------------------------------------------------------------------------------


def _running_tour(progress: TourProgress) -> None:
    """The current step, its progress, and its live view."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(localized(progress.sentence), anchor=False)
        st.button(_("Stop the tour"), icon=":material/stop:", key="home_tour_stop", on_click=_stop)
    st.progress(_share(progress), text=" · ".join(_times(progress)))
    _steps(progress)
    if progress.job_id is None:
        return
    if progress.key == "training":
        _training(progress.job_id)
    elif progress.key == "story":
        _writing(progress.job_id)


def _times(progress: TourProgress) -> list[str]:
    """The current step, the elapsed time, and the time left if known."""
    step = _("Step {step} of {total}").format(step=number(progress.step), total=number(progress.steps))
    found = [step, tour_result.clock((utcnow() - progress.created_at).total_seconds())]
    if progress.eta_s is not None:
        found.append(job_labels.about_left(progress.eta_s))
    return found


def _steps(progress: TourProgress) -> None:
    """All steps on one line: done, current, upcoming."""
    marks = []
    for place, (title, icon) in enumerate(_STEPS.values(), start=1):
        if place < progress.step or progress.state == "done":
            marks.append(f":green[:material/check_circle: {_(title)}]")
        elif place == progress.step:
            marks.append(f"**{icon} {_(title)}**")
        else:
            marks.append(f":gray[{icon} {_(title)}]")
    st.markdown("  :gray[:material/chevron_right:]  ".join(marks))


def _share(progress: TourProgress) -> float:
    """The completed share: by time if the time left is known, else by the usual duration of the steps."""
    if progress.eta_s is not None:
        elapsed_s = (utcnow() - progress.created_at).total_seconds()
        return min(1.0, elapsed_s / max(1.0, elapsed_s + progress.eta_s))
    return _USUALLY_DONE[progress.key]


def _training(job_id: str) -> None:
    """The tour's job: its steps and tokens, and its curve as it grows; before the first step what it is waiting for."""
    job = jobs.get(cached.store(), job_id, results=False)
    curve = cached_curves.curve(job)
    if curve.steps:
        batch, epochs = (int(job.hyperparameters.get(name) or 1) for name in ("batch_size", "n_epochs"))
        st.caption(
            _("Training step {step} of {total} · {tokens} tokens learned").format(
                step=number(curve.steps),
                total=number(math.ceil(job.n_examples / batch) * epochs if job.n_examples else None),
                tokens=number(curve.trained_tokens),
            )
        )
    else:
        st.caption(as_markdown(jobs.explain(job, utcnow())))
    if curve.steps >= _ENOUGH_STEPS:
        curves.pair(curve, "home_tour_curve")


def _writing(job_id: str) -> None:
    """The first pair of the job's comparison as it is written."""
    view = before_after.get(cached.store(), job_id)
    if view is None or not view.pairs:
        st.caption(_("Choosing prompts…"))
        return
    if view.reason:
        st.caption(as_markdown(view.reason))
    before_after_view.pair_of(jobs.get(cached.store(), job_id, results=False), view.pairs[0], "home_tour_pair")


# --- after the end -----------------------------------------------------------------------------------------------


def _ended(progress: TourProgress) -> None:
    """What the tour produced, the next steps, and a button to repeat it."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(localized(progress.sentence), anchor=False)
        with st.container(horizontal=True, width="content"):
            if progress.state in tour.ENDED_EARLY:
                st.button(
                    _("Continue the tour"), icon=":material/play_arrow:", type="primary", key="home_tour_resume",
                    on_click=_resume, args=(progress.id,),
                )  # fmt: skip
            st.button(_("Repeat the tour"), icon=":material/replay:", type="tertiary", key="home_tour", on_click=_start)
    if progress.state != "done":
        _steps(progress)
    if progress.reason:
        st.error(as_markdown(progress.reason), icon=":material/error:")
    tour_result.show(progress)


def _start() -> None:
    with cards.keep_errors():
        state.set_value(_SHOWN, tour.start(cached.store(), LOCAL, language()))


def _stop() -> None:
    with cards.keep_errors():
        tour.stop(cached.store(), LOCAL)


def _resume(tour_id: str) -> None:
    with cards.keep_errors():
        state.set_value(_SHOWN, tour.resume(cached.store(), LOCAL, tour_id))
