""" "Bring 12 examples": a table to fill in, one button, the training progress, and the two models side by side."""

from __future__ import annotations

import streamlit as st

from core.db.tables import utcnow
from core.errors import FabulaError, NotFound
from core.finetuning import examples, job_views, jobs
from core.finetuning.job_views import JobView
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.home import examples_answers, examples_form
from pages.ui.i18n import _, as_markdown, mark, number, plain
from pages.ui.sign_in import current_actor
from pages.ui.training import job_labels, job_list

_JOB = "home_examples_job"  # id of the job on the card
_PHASES = {
    "preparing": mark("Sending the examples to the engine"),
    "queued": mark("Queued: another job is training"),
    "starting": mark("Starting the training"),
    "paused": mark("Paused"),
    "loading": mark("Loading the base model"),
    "training": mark("Training"),
    "saving": mark("Saving the model"),
}


def show() -> None:
    """Draw the card; it is updated while the job runs."""
    active = examples.unfinished(_shown())
    st.fragment(run_every=cache.POLL_S if active else None)(_card)(active)


def _shown() -> JobView | None:
    """The job that this visitor started or saw first, else the newest one; None while the form is open."""
    if examples_form.is_open():
        return None
    if job_id := state.get(_JOB):
        try:
            return job_views.get(cache.store(), job_id, results=False)
        except NotFound:
            state.drop(_JOB)
    found = examples.newest_job(cache.store(), current_actor())
    if found is not None:
        state.set_value(_JOB, found.id)
    return found


def _card(was_active: bool) -> None:
    cards.draw_page_if_left()
    with cards.show_errors():
        job = _shown()
        if was_active != examples.unfinished(job):
            st.rerun()
        with st.container(border=True, key="home_examples"):
            if job is None:
                examples_form.show(_start)
            elif not job.finished:
                _running_job(job)
            elif job.status == "succeeded" and job.fine_tuned_model is not None:
                examples_answers.show(job)
                _next(job)
            else:
                _ended(job)


def _start(suffix: str, name: str, base: str, chat: bool, expected_s: float | None) -> None:
    """The callback of the button that trains."""
    with examples_form.keep_problems():
        job_id = examples.train(
            cache.store(),
            current_actor(),
            [pair for _row, pair in examples_form.typed()],
            name=name,
            suffix=suffix,
            base=base,
            file_format="chat" if chat else "completion",
            expected_s=expected_s,
        )
        state.set_value(_JOB, job_id)
        examples_form.close()
        cache.refresh()


def _running_job(job: JobView) -> None:
    """Phase, steps, time left, and a stop button."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(_("Training on your examples"), anchor=False)
        if job.status == "paused":
            st.button(
                _("Resume"), icon=":material/play_arrow:", key="home_examples_resume",
                on_click=cards.act, args=(jobs.request, job.id, "resume"),
            )  # fmt: skip
        st.button(
            _("Stop training"), icon=":material/stop:", key="home_examples_stop", disabled=job.request == "cancel",
            on_click=cards.act, args=(jobs.request, job.id, "cancel"),
        )  # fmt: skip
    phase = examples.phase(job, cache.status().engine.training, utcnow())
    words = [_("Stopping") if job.request == "cancel" else _(_PHASES[phase.key])]
    if phase.key == "training":
        words.append(_("step {step} of {total}").format(step=number(phase.step), total=number(phase.steps)))
    if phase.key != "paused" and job.request != "cancel":
        left = phase.left_s
        words.append(_("estimating time left …") if left is None else job_labels.about_left(left))
    st.progress(phase.share, text=" · ".join(words))
    if job.error:
        st.caption(f":material/hourglass_top: {as_markdown(job.error)}")
    st.caption(_("Training continues if you leave this page. **{name}** is also on the Training page.").format(
        name=plain(job.name)
    ))  # fmt: skip


def _ended(job: JobView) -> None:
    """A job without a model: the reason and the next step."""
    if job.status == "failed":
        st.subheader(_("Training failed"), anchor=False)
        lines = [as_markdown(job.error or _("The provider gave no reason."))]
        lines += [f":material/arrow_forward: {as_markdown(job.next_step)}"] if job.next_step else []
        st.error("\n\n".join(lines), icon=":material/error:")
    else:
        st.subheader(_("Training was stopped"), anchor=False)
    st.caption(_("Your examples are saved as the data set **{name}**.").format(name=plain(job.name)))
    _next(job)


def _next(job: JobView) -> None:
    """Buttons for the next step."""
    with st.container(horizontal=True):
        if st.button(_("Open the job"), icon=":material/show_chart:", key="home_examples_open"):
            job_list.open_from_elsewhere(job.id)
            st.switch_page("training.py")
        if job.fine_tuned_model is not None:
            _call_it(job)
        st.button(
            _("Train again with more examples"), icon=":material/playlist_add:", key="home_examples_again",
            on_click=examples_form.open_with, args=(job.suffix or examples.OWN_SUFFIX, job.dataset_id),
        )  # fmt: skip
        st.button(
            _("New examples"), icon=":material/add:", type="tertiary", key="home_examples_new",
            on_click=examples_form.open_with, args=(examples.OWN_SUFFIX, None),
        )  # fmt: skip


def _call_it(job: JobView) -> None:
    """The model id, and a few lines of code that call it."""
    with st.popover(_("Call it from a program"), icon=":material/terminal:"):
        st.markdown(_("Model id:"))
        st.code(job.fine_tuned_model or "", language=None, wrap_lines=True)
        st.markdown(_("With the `openai` package:"))
        st.code(examples.call_snippet(job, _address(job)), language="python", wrap_lines=True)
        st.caption(_("To call it from elsewhere, start the engine with your own token (`FABULA_ENGINE_TOKEN`)."))


def _address(job: JobView) -> str:
    """The address of the job's provider; the engine's usual one if the provider is no longer configured."""
    try:
        return cache.registry().provider(job.provider).base_url
    except FabulaError:
        return "http://127.0.0.1:8010/v1"
