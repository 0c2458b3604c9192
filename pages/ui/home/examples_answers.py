"""The end of "Bring 12 examples": base and tuned model side by side on one more prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st
from streamlit.runtime.scriptrunner import StopException

from core.datasets import presets
from core.db.tables import utcnow
from core.db.tables.story import COMPARISON
from core.errors import FabulaError
from core.evaluation import before_after, before_after_prompts
from core.evaluation.before_after import SIDES, BeforeAfterView, Side, SideAnswer
from core.finetuning import examples
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
from pages.ui.i18n import _, duration, language, mark, n_, plain
from pages.ui.sign_in import current_actor
from pages.ui.training import before_after_view

_ASKED = "home_examples_asked"
_NAMES: Mapping[Side, str] = {"base": mark("Base model, untrained"), "tuned": mark("Your model")}


@dataclass
class TriedPrompt:
    """The visitor's last prompt.

    Attributes:
        job_id: the job whose models answered.
        prompt: as typed.
        outcome: the streamed answers, or the error.
        kept: the answers are stored with the job.
        position: index of the prompt in the job; None: not stored (yet).
    """

    job_id: str
    prompt: str
    outcome: Round | FabulaError
    kept: bool = False
    position: int | None = None


_recent: Recent[TriedPrompt] = Recent()


def show(job: JobView) -> None:
    """Draw the training facts, the prompt to try, and the answers."""
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
        prompt.text_input(
            _("A new prompt that isn't in your examples"),
            key=key,
            placeholder=_("Type a prompt, press Enter"),
        )
        button.form_submit_button(
            _("Ask both"), icon=":material/send:", type="primary", width="stretch", on_click=_ask, args=(job, key)
        )
    _answers(job)
    cards.undo_button("home")


def _answers(job: JobView) -> None:
    """Both models' answers to the last prompt, with a remove button."""
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
    """Let both models answer; answers in progress are stopped."""
    tried: TriedPrompt | None = state.get(_ASKED)
    if tried is not None and isinstance(tried.outcome, Round):
        tried.outcome.stop()
    prompt = str(state.get(key) or "").strip()
    try:
        entries = [RoundEntry(job.provider, request) for request in examples.comparison_requests(job, prompt)]
        outcome: Round | FabulaError = arena.start_round(
            cache.store(),
            current_actor(),
            cache.registry(),
            entries,
            cache.prices(),
            idle_timeout_s=LEAVE_S,
            step=COMPARISON,
        )
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
    """The answers to the last prompt, whether entered here or on the job's page."""
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
    """Both answers, streamed."""
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
