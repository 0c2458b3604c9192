"""The result of a tour: before and after, time and cost, next steps; without the engine, a recorded one."""

from __future__ import annotations

import streamlit as st

from core.db.tables import utcnow
from core.errors import NotFound
from core.evaluation import before_after
from core.evaluation.before_after import SideAnswer
from core.finetuning import jobs, results
from core.finetuning.jobs import JobView
from core.finetuning.results import Results, figure
from core.pricing.price_book import training_cost
from core.tours import tour
from core.tours.tour import TourProgress
from pages.ui import cached, examples_form, state, views
from pages.ui.cache import shared
from pages.ui.lang import _, language, number, percent, usd
from pages.ui.money import work_cost
from pages.ui.training import before_after_view, cached_curves, curves, job_actions, job_list

_COMPARED = ("openai", "gpt-4o-mini-2024-07-18")  # the cheapest model that OpenAI still tunes


def show(progress: TourProgress) -> None:
    """Draw what the tour has produced; a tour that ended early has less."""
    job = _job(progress)
    if job is not None:
        view = before_after.get(cached.store(), job.id)
        if view is not None and view.pairs:
            before_after_view.pair_of(job, view.pairs[0], "home_tour_pair")
        _what_it_took(progress, job)
    _next(progress, job)


def clock(seconds: float) -> str:
    """A duration in minutes and seconds: 1:05."""
    minutes, seconds_left = divmod(max(0, int(seconds)), 60)
    return f"{minutes}:{seconds_left:02}"


def _job(progress: TourProgress) -> JobView | None:
    """The tour's job; None: there is none, or it was deleted."""
    if progress.job_id is None:
        return None
    try:
        return jobs.get(cached.store(), progress.job_id, results=False)
    except NotFound:
        return None


def _what_it_took(progress: TourProgress, job: JobView) -> None:
    """Time, accuracy, tokens and money in one line."""
    curve = cached_curves.curve(job)
    if not curve.steps:
        return
    first, last = curve.first("training_token_accuracy"), figure(curve, "training_token_accuracy")
    facts = []
    if progress.state == "done" and progress.finished_at is not None:
        took = (progress.finished_at - progress.created_at).total_seconds()
        facts.append(_("Done in **{time}**").format(time=clock(took)))
    if first is not None and last is not None:
        facts.append(_("token accuracy {start} → {end}").format(start=percent(first), end=percent(last.value)))
    openai_usd = training_cost(cached.prices(), *_COMPARED, curve.trained_tokens)
    facts.append(
        _("Trained on **{tokens}** tokens: **{here}** here, {there} at OpenAI for {model}.").format(
            tokens=number(curve.trained_tokens),
            here=work_cost(job.provider, job.cost_usd, job.training_s(utcnow())),
            there=usd(openai_usd),
            model=_COMPARED[1],
        )
    )
    views.facts(facts)


def _next(progress: TourProgress, job: JobView | None) -> None:
    """Buttons for the next step."""
    with st.container(horizontal=True):
        if job is not None and job.fine_tuned_model is not None:
            words = _("Write another story with this model")
            if st.button(words, icon=":material/auto_stories:", type="primary", key="home_tour_story"):
                job_actions.write_with(job, job.fine_tuned_model)
        if job is not None and st.button(_("Open the job"), icon=":material/show_chart:", key="home_tour_job"):
            job_list.open_from_elsewhere(job.id)
            st.switch_page("training.py")
        if progress.dataset_id is not None and st.button(
            _("View the data set"), icon=":material/grid_view:", key="home_tour_dataset"
        ):
            state.set_value("dataset_open", progress.dataset_id)
            state.set_value("dataset_part", "rows")
            st.switch_page("dataset.py")
        if st.button(_("Bring your own examples"), icon=":material/playlist_add:", key="home_tour_bring"):
            examples_form.open_on_top()
            st.rerun()


def recorded() -> None:
    """Draw the recording in the page's language; nothing if there is none."""
    recording = tour.load_recording(language())
    if recording is None:
        return
    st.subheader(_("A recorded tour"), anchor=False)
    st.caption(
        _(
            "Recorded on {day}: {base} was trained on {stories} stories ({tokens} tokens). The whole "
            "tour took {minutes} minutes. This is a recording: nothing is training now."
        ).format(
            day=recording.recorded_on,
            base=recording.base_model,
            stories=number(recording.stories),
            tokens=number(recording.trained_tokens),
            minutes=number(recording.minutes, 1),
        )
    )
    curves.pair(_curve(recording.results_csv), "home_tour_recorded_curve")
    views.prompt(recording.prompt, "home_tour_recorded_prompt")
    left, right = st.columns(2, gap="medium")
    with left:
        answer = SideAnswer("done", recording.before, finish_reason=recording.before_finish)
        before_after_view.answer(_("Before"), recording.base_model, answer)
    with right:
        answer = SideAnswer("done", recording.after, finish_reason=recording.after_finish)
        before_after_view.answer(_("After"), recording.tuned_model, answer)


@shared(max_entries=2)
def _curve(results_csv: str) -> Results:
    return results.parse(results_csv)
