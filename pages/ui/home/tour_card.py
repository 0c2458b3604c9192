"""The guided tour: start, live steps, stop, continue and repeat; its result, or a recorded one if the engine is
missing.
"""

from __future__ import annotations

import math
from datetime import timedelta

import streamlit as st

from core.db.tables import utcnow
from core.errors import NotFound
from core.evaluation import before_after
from core.evaluation.before_after import SideAnswer
from core.finetuning import job_explanation, job_views, results
from core.finetuning.job_views import JobView
from core.finetuning.results import Results, figure
from core.pricing.price_book import training_cost
from core.tours import tour
from core.tours.tour import TourProgress
from pages.ui import cache, state
from pages.ui.cache import shared
from pages.ui.components import cards, views
from pages.ui.components.money import work_cost
from pages.ui.dataset import dataset_picker
from pages.ui.home import examples_form
from pages.ui.i18n import _, as_markdown, language, localized, mark, number, percent, usd
from pages.ui.sign_in import current_actor
from pages.ui.training import before_after_view, cached_training, curves, job_actions, job_labels, job_list

_STEPS = {
    "dataset": (mark("Stories"), ":material/grid_view:"),
    "training": (mark("Training"), ":material/model_training:"),
    "story": (mark("Before and after"), ":material/compare:"),
}
_SHOWN = "home_tour_shown"  # id of the tour on the card, which a tour started in another tab does not replace
_USUALLY_DONE = {"dataset": 0.0, "training": 0.05, "story": 0.9}  # share of the tour completed before each step
_LONG_AGO = timedelta(hours=2)  # after this, the home page shows the user's own work instead
_ENOUGH_STEPS = 2  # a single point is not a curve

_COMPARED = ("openai", "gpt-4o-mini-2024-07-18")  # the cheapest model that OpenAI still tunes


def show() -> None:
    """Render the card; it updates while a tour runs."""
    active = _active(_shown())
    st.fragment(run_every=cache.POLL_S if active else None)(_card)(active)


def _active(progress: TourProgress | None) -> bool:
    return progress is not None and progress.state in tour.UNFINISHED


def _card(was_active: bool) -> None:
    cards.draw_page_if_left()
    with cards.show_errors():
        progress = _shown()
        if progress is not None and _long_ago(progress):
            title = _("Take the tour again")
            st.button(title, icon=":material/tour:", type="tertiary", key="home_tour", on_click=_start)
        else:
            _tour(progress)
        if was_active != _active(progress):  # after the buttons: before them, a click would be lost
            st.rerun()


def _tour(progress: TourProgress | None) -> None:
    with st.container(border=True):
        if progress is None:
            _invitation()
        elif _active(progress):
            _running_tour(progress)
        else:
            _ended(progress)


def _shown() -> TourProgress | None:
    """The tour that this visitor started or saw first; initially their newest one."""
    tour_id, person_id = state.get(_SHOWN), current_actor().id
    found = tour.progress(cache.store(), tour_id=tour_id, person_id=person_id) if tour_id else None
    found = found or tour.progress(cache.store(), person_id=person_id)
    if found is not None:
        state.set_value(_SHOWN, found.id)
    return found


def _long_ago(progress: TourProgress) -> bool:
    return progress.finished_at is not None and utcnow() - progress.finished_at > _LONG_AGO


def _invitation() -> None:
    """Render the description of the tour, and its start button."""
    missing = cache.status().engine.state == "missing"
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(width=760, gap="xsmall"):
            st.subheader(_("Train your first model in a few minutes"), anchor=False)
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
        _recorded()


# --- while it runs -------------------------------------------------------------------------------------------


def _running_tour(progress: TourProgress) -> None:
    """Render the current step, its progress, and its live view."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(localized(progress.sentence), anchor=False)
        st.button(
            _("Stop the tour"), icon=":material/stop:", key="home_tour_stop", on_click=cards.act, args=(tour.stop,)
        )
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
    found = [step, _minutes((utcnow() - progress.created_at).total_seconds())]
    if progress.eta_s is not None:
        found.append(job_labels.about_left(progress.eta_s))
    return found


def _steps(progress: TourProgress) -> None:
    """Render all steps on one line: done, current, upcoming."""
    current = len(_STEPS) + 1 if progress.state == "done" else progress.step
    views.stepper(
        [
            f"{':material/check_circle:' if place < current else icon} {_(title)}"
            for place, (title, icon) in enumerate(_STEPS.values(), start=1)
        ],
        current,
    )


def _share(progress: TourProgress) -> float:
    """The completed share: by time if the time left is known, else by the usual duration of the steps."""
    if progress.eta_s is not None:
        elapsed_s = (utcnow() - progress.created_at).total_seconds()
        return min(1.0, elapsed_s / max(1.0, elapsed_s + progress.eta_s))
    return _USUALLY_DONE[progress.key]


def _training(job_id: str) -> None:
    """Render the tour's job: its steps, tokens and growing curve; before the first step, what it is waiting for."""
    job = job_views.get(cache.store(), job_id, results=False)
    curve = cached_training.curve(job)
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
        st.caption(as_markdown(job_explanation.explain(job, utcnow())))
    if curve.steps >= _ENOUGH_STEPS:
        curves.pair(curve, "home_tour_curve")


def _writing(job_id: str) -> None:
    """Render the first pair of the job's comparison as it is written."""
    view = before_after.get(cache.store(), job_id)
    if view is None or not view.pairs:
        st.caption(_("Choosing prompts…"))
        return
    if view.reason:
        st.caption(as_markdown(view.reason))
    before_after_view.pair_of(job_views.get(cache.store(), job_id, results=False), view.pairs[0], "home_tour_pair")


# --- after the end -----------------------------------------------------------------------------------------------


def _ended(progress: TourProgress) -> None:
    """Render what the tour produced, the next steps, and a button to repeat it."""
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
    _result(progress)


def _start() -> None:
    with cards.keep_errors():
        state.set_value(_SHOWN, tour.start(cache.store(), current_actor(), language()))


def _resume(tour_id: str) -> None:
    with cards.keep_errors():
        state.set_value(_SHOWN, tour.resume(cache.store(), current_actor(), tour_id))


def _result(progress: TourProgress) -> None:
    """Render what the tour has produced; a tour that ended early has less."""
    job = _job_of(progress)
    if job is not None:
        view = before_after.get(cache.store(), job.id)
        if view is not None and view.pairs:
            before_after_view.pair_of(job, view.pairs[0], "home_tour_pair")
        _what_it_took(progress, job)
    _next_steps(progress, job)


def _minutes(seconds: float) -> str:
    """A duration in minutes and seconds: 1:05."""
    minutes, seconds_left = divmod(max(0, int(seconds)), 60)
    return f"{minutes}:{seconds_left:02}"


def _job_of(progress: TourProgress) -> JobView | None:
    """The tour's job; None if there is none, or it was deleted."""
    if progress.job_id is None:
        return None
    try:
        return job_views.get(cache.store(), progress.job_id, results=False)
    except NotFound:
        return None


def _what_it_took(progress: TourProgress, job: JobView) -> None:
    """Render time, accuracy, tokens and money on one line."""
    curve = cached_training.curve(job)
    if not curve.steps:
        return
    first, last = curve.first("training_token_accuracy"), figure(curve, "training_token_accuracy")
    facts = []
    if progress.state == "done" and progress.finished_at is not None:
        took = (progress.finished_at - progress.created_at).total_seconds()
        facts.append(_("Done in **{time}**").format(time=_minutes(took)))
    if first is not None and last is not None:
        facts.append(_("token accuracy {start} → {end}").format(start=percent(first), end=percent(last.value)))
    openai_usd = training_cost(cache.prices(), *_COMPARED, curve.trained_tokens)
    facts.append(
        _("Trained on **{tokens}** tokens: **{here}** here, {there} at OpenAI for {model}.").format(
            tokens=number(curve.trained_tokens),
            here=work_cost(job.provider, job.cost_usd, job.training_s(utcnow())),
            there=usd(openai_usd),
            model=_COMPARED[1],
        )
    )
    views.facts(facts)


def _next_steps(progress: TourProgress, job: JobView | None) -> None:
    """Render buttons for the next step."""
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
            dataset_picker.open_part(progress.dataset_id)
            st.switch_page("dataset.py")
        if st.button(_("Bring your own examples"), icon=":material/playlist_add:", key="home_tour_bring"):
            examples_form.open_on_top()
            st.rerun()


def _recorded() -> None:
    """Render the recording in the page's language; nothing if there is none."""
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
    curves.pair(_recorded_curve(recording.results_csv), "home_tour_recorded_curve")
    views.prompt(recording.prompt, "home_tour_recorded_prompt")
    left, right = st.columns(2, gap="medium")
    with left:
        answer = SideAnswer("done", recording.before, finish_reason=recording.before_finish)
        before_after_view.answer(_("Before"), recording.base_model, answer)
    with right:
        answer = SideAnswer("done", recording.after, finish_reason=recording.after_finish)
        before_after_view.answer(_("After"), recording.tuned_model, answer)


@shared(max_entries=2)
def _recorded_curve(results_csv: str) -> Results:
    return results.parse(results_csv)
