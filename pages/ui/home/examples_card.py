""" "Bring 12 examples": a table to fill in, one button, the training progress, and the two models side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st
from streamlit.runtime.scriptrunner import StopException

from core.datasets import presets
from core.db.tables import utcnow
from core.db.tables.story import COMPARISON
from core.errors import FabulaError, NotFound
from core.evaluation import before_after, before_after_prompts
from core.evaluation.before_after import SIDES, BeforeAfterView, Side, SideAnswer
from core.finetuning import examples, job_views, jobs
from core.finetuning.job_views import JobView
from core.message import sentences
from core.stories import arena
from core.stories.arena import Round, RoundEntry
from core.stories.readers import Recent
from core.stories.stream import StoryStream
from pages.ui import cache, state
from pages.ui.components import cards, story_session, story_text, views
from pages.ui.components.story_session import LEAVE_S
from pages.ui.components.story_text import LiveStory
from pages.ui.home import examples_form
from pages.ui.i18n import _, as_markdown, duration, language, mark, n_, number, plain
from pages.ui.sign_in import current_actor
from pages.ui.training import before_after_view, job_labels, job_list

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
    """Render the card; it is updated while the job runs."""
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
        with st.container(border=True, key="home_examples"):
            if job is None:
                examples_form.show(_start)
            elif not job.finished:
                _running_job(job)
            elif job.status == "succeeded" and job.fine_tuned_model is not None:
                _finished_job(job)
                _next(job)
            else:
                _ended(job)
        if was_active != examples.unfinished(job):  # after the buttons: before them, a click would be lost
            st.rerun()


def _start(suffix: str, name: str, base: str, chat: bool, expected_s: float | None) -> None:
    """Callback of the button that trains."""
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
    """Render phase, steps, time left, and a stop button."""
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
    """Render the reason and the next step for a job that ended without a model."""
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
    """Render buttons for the next step."""
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
    """Render the model id, and a few lines of code that call the model."""
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


# --- the finished model -----------------------------------------------------------------------------------------------

_ASKED = "home_examples_asked"
_NAMES: Mapping[Side, str] = {"base": mark("Base model, untrained"), "tuned": mark("Your model")}


@dataclass
class TriedPrompt:
    """The visitor's last prompt.

    Attributes:
        job_id: the job whose models answered.
        prompt: the prompt as typed.
        outcome: the streamed answers, or the error.
        kept: the answers are stored with the job.
        position: index of the prompt in the job; None if not stored (yet).
    """

    job_id: str
    prompt: str
    outcome: Round | FabulaError
    kept: bool = False
    position: int | None = None


_recent: Recent[TriedPrompt] = Recent()


def _finished_job(job: JobView) -> None:
    """Render the training facts, the prompt to try, and the answers."""
    st.subheader(_("Your model is ready"), anchor=False)
    pairs = examples.pairs_of(cache.store(), job.dataset_id)
    took = job.training_s(utcnow())
    parts = [
        plain(job.name),
        n_("{n} example", "{n} examples", job.n_examples or len(pairs)),
        "" if took is None else _("trained for {time}").format(time=duration(took)),
    ]
    st.caption(" · ".join(part for part in parts if part))
    key = f"home_examples_prompt_{job.id}"
    sample = presets.example_sample_of(job.suffix, pairs, language())
    state.set_default(key, "" if sample is None else sample.prompt)
    with st.form("home_examples_ask", border=False):
        prompt, button = st.columns([5, 1], vertical_alignment="bottom")
        title = _("A new prompt that isn't in your examples")
        prompt.text_input(title, key=key, placeholder=_("Type a prompt, press Enter"))
        button.form_submit_button(
            _("Ask both"), icon=":material/send:", type="primary", width="stretch", on_click=_ask, args=(job, key)
        )
    _answers(job)
    cards.undo_button("home")


def _answers(job: JobView) -> None:
    """Render both models' answers to the last prompt, with a remove button."""
    view = before_after.get(cache.store(), job.id)
    tried = _asked(job, view)
    if tried is None:
        _last_pair(job, view)
    elif isinstance(tried.outcome, FabulaError):
        cards.error_card(tried.outcome)
    else:
        try:
            _side_by_side(tried.outcome, tried.prompt)
        except StopException:
            story_session.wait_for_reload(tried.outcome.stories)
            raise
        _keep(job, tried)
        if tried.position is not None:
            before_after_view.remove_button(job.id, tried.position, "home")
        else:  # without an answer, or over the limit of prompts per job
            st.button(
                _("Remove"), icon=":material/delete:", type="tertiary", key="home_remove_asked",
                on_click=state.drop, args=(_ASKED,),
            )  # fmt: skip


def _asked(job: JobView, view: BeforeAfterView | None) -> TriedPrompt | None:
    """This visitor's last prompt unless removed; after a reload, the answers in progress."""
    tried: TriedPrompt | None = state.get(_ASKED)
    if tried is not None and tried.job_id == job.id:
        positions = [] if view is None else [pair.position for pair in view.pairs]
        return tried if tried.position is None or tried.position in positions else None
    tried = _recent.get(job.id)
    if tried is None or tried.kept:
        return None
    state.set_value(_ASKED, tried)
    return tried


def _ask(job: JobView, key: str) -> None:
    """Let both models answer the prompt; answers in progress are stopped."""
    tried: TriedPrompt | None = state.get(_ASKED)
    if tried is not None and isinstance(tried.outcome, Round):
        tried.outcome.stop()
    prompt = str(state.get(key) or "").strip()
    try:
        entries = [RoundEntry(job.provider, request) for request in examples.comparison_requests(job, prompt)]
        outcome: Round | FabulaError = arena.start_round(
            cache.store(), current_actor(), cache.registry(), entries, cache.prices(), idle_timeout_s=LEAVE_S,
            step=COMPARISON,
        )  # fmt: skip
    except FabulaError as problem:
        outcome = problem
    tried = TriedPrompt(job.id, prompt, outcome)
    state.set_value(_ASKED, tried)
    if isinstance(outcome, Round):
        _recent.put(job.id, tried)


def _keep(job: JobView, tried: TriedPrompt) -> None:
    """Store the answers with the job, once both have ended: for its page, its export, and this card after a reload."""
    if tried.kept or not isinstance(tried.outcome, Round):
        return
    tried.kept = True
    if any(story.text.strip() for story in tried.outcome.stories):
        answers = {side: _answer(story) for side, story in zip(SIDES, tried.outcome.stories, strict=True)}
        tried.position = before_after_prompts.add_answered_prompt(
            cache.store(), current_actor(), job, tried.prompt, answers
        )


def _answer(story: StoryStream) -> SideAnswer:
    if story.error is not None:
        return SideAnswer("failed", reason=sentences(story.error.what, story.error.next_step), story_id=story.id)
    return SideAnswer("stopped" if story.facts.stopped else "done", story_id=story.id)


def _last_pair(job: JobView, view: BeforeAfterView | None) -> None:
    """Render the answers to the last prompt, whether entered here or on the job's page."""
    if view is None or not view.pairs:
        return
    pair = view.pairs[-1]
    views.prompt(pair.prompt, "home_examples_asked_prompt")
    for side, column in zip(SIDES, st.columns(2, gap="medium"), strict=True):
        answer, model = (pair.base, job.base_model) if side == "base" else (pair.tuned, job.fine_tuned_model or "")
        with column, st.container(border=True, height="stretch", key=f"home_examples_{side}"):
            before_after_view.answer(_(_NAMES[side]), model, answer)
    if pair.finished:
        before_after_view.remove_button(job.id, pair.position, "home")


def _side_by_side(round_: Round, prompt: str) -> None:
    """Render both answers as they stream in."""
    views.prompt(prompt, "home_examples_asked_prompt")
    answers = []
    for side, story, column in zip(SIDES, round_.stories, st.columns(2, gap="medium"), strict=True):
        with column, st.container(border=True, height="stretch", key=f"home_examples_{side}"):
            st.markdown(f"**{_(_NAMES[side])}**")
            answers.append(_LiveAnswer(story))
    story_text.read_along(answers, round_)
    for story in round_.stories:
        if story.error is not None:
            cards.error_card(story.error)


class _LiveAnswer(LiveStory):
    """One answer and its facts."""

    def __init__(self, story: StoryStream) -> None:
        super().__init__(story, none=_("No answer."))
        self._words = story_text.draw_text(st, story, none=self._none)
        self._line = st.caption(self._facts())

    def _draw_facts(self) -> None:
        self._line.caption(self._facts())

    def _facts(self) -> str:
        return story_text.line(self.story.facts, self.story.provider, writing=not self.story.done)
