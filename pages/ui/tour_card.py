"""The guided tour: a button that starts it, then each step as it happens, with the time left and a way to stop."""

from __future__ import annotations

from datetime import timedelta

import streamlit as st

from core import tour
from core.actor import LOCAL
from core.cost.book import training_cost
from core.db.tables import utcnow
from core.story import stream
from core.tour import TourProgress
from core.training import jobs
from core.training.figures import figure
from core.training.jobs import JobView
from pages.ui import cached, cards, state, views
from pages.ui.lang import _, code, duration, mark, number, percent, plain, told, usd
from pages.ui.money import work_cost
from pages.ui.story import teller
from pages.ui.training import cached_curves, curves, job_list, job_words

_STEPS = {
    "dataset": (mark("Stories"), ":material/grid_view:"),
    "training": (mark("Training"), ":material/model_training:"),
    "curve": (mark("Curve"), ":material/show_chart:"),
    "cost": (mark("Cost"), ":material/payments:"),
    "story": (mark("New story"), ":material/auto_stories:"),
}
_SHOWN = "home_tour_shown"  # id of the tour on the card: a tour of another visitor does not take its place
_ACTIVE = ("queued", "running")
_USUALLY_DONE = {"dataset": 0.0, "training": 0.05, "curve": 0.9, "cost": 0.9, "story": 0.92}  # share before each step
_LONG_AGO = timedelta(hours=2)  # by then the home page is for one's own work
_COMPARED = ("openai", "gpt-4o-mini-2024-07-18")  # the cheapest model that OpenAI still tunes


def show() -> None:
    """The card; it moves by itself while a tour is under way."""
    progress = _shown()
    active = progress is not None and progress.state in _ACTIVE
    st.fragment(run_every=cached.POLL_S if active else None)(_card)(active)


def _card(was_active: bool) -> None:
    with cards.errors_shown():
        progress = _shown()
        active = progress is not None and progress.state in _ACTIVE
        if was_active != active:
            st.rerun()
        if progress is not None and _long_ago(progress):
            title = _("Take the tour again")
            st.button(title, icon=":material/tour:", type="tertiary", key="home_tour", on_click=_start)
            return
        with st.container(border=True):
            if progress is None:
                _invitation()
            elif active:
                _under_way(progress)
            else:
                _ended(progress)


def _shown() -> TourProgress | None:
    """The tour that this visitor started or saw first; the newest one to begin with."""
    held = state.get(_SHOWN)
    found = tour.progress(cached.store(), tour_id=held) if held else None
    found = found or tour.progress(cached.store())
    if found is not None:
        state.put(_SHOWN, found.id)
    return found


def _long_ago(progress: TourProgress) -> bool:
    return progress.finished_at is not None and utcnow() - progress.finished_at > _LONG_AGO


def _invitation() -> None:
    """What the tour is, and the button that starts it."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(width=760, gap="xsmall"):
            st.subheader(_("See the whole workflow in a few minutes"), anchor=False)
            st.markdown(
                _(
                    "Fabula loads 48 sample stories and fine-tunes storyteller, its small built-in model, on "
                    "them. Then it shows the curve, the cost and a new story that no training row asked for. "
                    "It all runs on this machine."
                )
            )
        missing = cached.status().engine.state == "missing"
        st.button(
            _("Take the tour"),
            type="primary",
            icon=":material/tour:",
            key="home_tour",
            on_click=_start,
            disabled=missing,
        )
    if missing:
        cards.engine_missing_card()


def _left(seconds: float) -> str:
    return _("almost done") if seconds < 1 else _("{time} left").format(time=duration(seconds))


def _under_way(progress: TourProgress) -> None:
    """The step it is at, as a sentence, and how long to the end."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(_("The tour"), anchor=False)
        st.button(_("Stop the tour"), icon=":material/stop:", key="home_tour_stop", on_click=_stop)
    left = "" if progress.eta_s is None else _left(progress.eta_s)
    st.progress(_share(progress), text=" · ".join(words for words in (told(progress.sentence), left) if words))
    _steps(progress)
    if progress.job_id is not None and progress.key == "training":
        _training(progress.job_id)
    story = None if progress.story_id is None else stream.get(cached.store(), progress.story_id)
    if story is not None and story.text.strip():
        views.story_text(story.text)


def _steps(progress: TourProgress) -> None:
    """All steps on one line: done, now, to come."""
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
    """How much of the way is done: by time where the rest is known, else by what has been seen to take long."""
    if progress.eta_s is not None:
        gone = (utcnow() - progress.created_at).total_seconds()
        return min(1.0, gone / max(1.0, gone + progress.eta_s))
    return _USUALLY_DONE[progress.key]


def _training(job_id: str) -> None:
    """The job of the tour: its newest words and its curve as it grows."""
    job = jobs.get(cached.store(), job_id)
    events = jobs.events(cached.store(), job_id)
    if events:
        st.caption(plain(told(events[-1].message)))
    curve = cached_curves.curve(job)
    if curve.steps >= _ENOUGH_STEPS:
        curves.pair(curve, "home_tour_curve")


_ENOUGH_STEPS = 2  # one point is no curve


def _ended(progress: TourProgress) -> None:
    """What the tour made, to be looked at, and the invitation to take it again."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(told(progress.sentence), anchor=False)
        st.button(_("Repeat the tour"), icon=":material/replay:", type="tertiary", key="home_tour", on_click=_start)
    _steps(progress)
    if progress.reason:
        st.error(plain(told(progress.reason)), icon=":material/error:")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        story = None if progress.story_id is None else stream.get(cached.store(), progress.story_id)
        if story is not None:
            views.story_text(story.text)
            cut = "" if story.finish_reason == "stop" else f" · {teller.ending(story.finish_reason)}"
            st.caption(f"{code(story.model)} · {code(story.prompt)}{cut}")
    with right:
        if progress.job_id is not None:
            _what_it_took(jobs.get(cached.store(), progress.job_id))
        if progress.dataset_id is not None:
            _way_on(progress.dataset_id, progress.job_id)


def _what_it_took(job: JobView) -> None:
    """The curve in two numbers, and what it cost here and would cost elsewhere."""
    curve = cached_curves.curve(job)
    if not curve.steps:
        return
    first, last = curve.first("training_token_accuracy"), figure(curve, "training_token_accuracy")
    st.metric(
        job_words.named(_("Token accuracy"), last),
        percent(last and last.value),
        None if first is None else _("from {start}").format(start=percent(first)),
    )
    there = training_cost(cached.prices(), *_COMPARED, curve.trained_tokens)
    st.markdown(
        _("Trained on **{tokens}** tokens: **{here}** here, {there} at OpenAI for {model}.").format(
            tokens=number(curve.trained_tokens),
            here=work_cost(job.provider, job.cost_usd, job.training_s(utcnow())),
            there=usd(there),
            model=_COMPARED[1],
        )
    )


def _way_on(dataset_id: str, job_id: str | None) -> None:
    with st.container(horizontal=True):
        if st.button(_("View the data set"), icon=":material/grid_view:", key="home_tour_dataset"):
            state.put("dataset_open", dataset_id)
            state.put("dataset_part", "rows")
            st.switch_page("dataset.py")
        if job_id is not None and st.button(_("View the curve"), icon=":material/show_chart:", key="home_tour_job"):
            job_list.open_from_elsewhere(job_id)
            st.switch_page("training.py")


def _start() -> None:
    with cards.errors_kept():
        state.put(_SHOWN, tour.start(cached.store(), LOCAL))


def _stop() -> None:
    with cards.errors_kept():
        tour.stop(cached.store(), LOCAL)
