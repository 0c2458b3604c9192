"""The panes of one or more stories, or of a chain, as they arrive, with stop, continue and read aloud."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.errors import FabulaError
from core.stories import arena, library, stream
from core.stories.arena import Round
from core.stories.chain import STEPS, Chain, StepName
from core.stories.stream import StoryStream
from pages.ui import cache
from pages.ui.components import cards, story_text, views
from pages.ui.components.prompt_formats import PromptFormat
from pages.ui.components.story_session import LEAVE_S, StoryRequest, StorySession, saved_stories, story_session
from pages.ui.components.story_text import LiveStory
from pages.ui.i18n import _, mark
from pages.ui.sign_in import current_actor
from pages.ui.story import arena_vote, round_guests, speech, story_actions, story_remedies
from pages.ui.story.library import story_card

_FACTS_EVERY = 5  # updates: twice per second; a line that changes more often cannot be read

_STEP_NAMES = {"outline": mark("Outline"), "story": mark("Story"), "title": mark("Title")}


def button(story_request: StoryRequest | None) -> None:
    """Render the button: Write, or Stop while a story is being written, or Stopping from the click to the end.

    Each has its own key and container, so that a late or double click never triggers another button, and no outdated
    button stays visible while the story is written.
    """
    session = story_session()
    writing = session.writing
    with views.one_of((True, False), writing):
        if session.stopping:
            st.button(_("Stopping…"), icon=":material/stop:", width="stretch", key="story_stopping", disabled=True)
        elif writing:
            st.button(_("Stop"), icon=":material/stop:", width="stretch", key="story_stop", on_click=session.stop)
        else:
            _write_button(story_request)


def _write_button(story_request: StoryRequest | None) -> None:
    if story_remedies.asked_to_write() and story_request is not None:
        write(story_request)
        st.rerun()
    st.button(
        _("Write"), icon=":material/edit:", type="primary", width="stretch", key="story_button",
        disabled=story_request is None, on_click=write, args=(story_request,),
    )  # fmt: skip


def page(prompt_format: PromptFormat | None) -> None:
    """Render the panes.

    A visitor who returns sees the text so far and the rest as it arrives. No story, a chain, and a round of each size
    have separate containers, so that earlier content is cleared immediately.

    Args:
        prompt_format: the chosen model's format, for the next prompt; None while there is no model.
    """
    session = story_session()
    chain, round_ = session.chain, session.round
    kind = 1 if chain is not None else 0 if round_ is None else 1 + len(round_.stories)
    with views.one_of(range(2 + arena.MAX_PANES), kind):
        if chain is not None:
            _chain_page(chain, lambda: story_actions.onward(prompt_format, write))
        elif round_ is not None:
            _round(round_, prompt_format)
        elif not _stories_of_address(session.earlier):
            _nothing_yet()


def _stories_of_address(key: str) -> bool:
    """Render stories in the URL that were read from the database, as under Earlier stories; returns whether there are
    any.
    """
    if not key:
        return False
    stories = saved_stories(key)
    for story in stories:
        story_card(story)
    return bool(stories)


def _nothing_yet() -> None:
    with st.container(border=True, width=760):
        st.markdown(f":gray[:material/auto_stories: {_('The story appears here, word by word.')}]")
        st.caption(_("Try values that aren't in the training data; that's the real test."))


def write(story_request: StoryRequest) -> None:
    """Start the request unless a story is being written; errors are shown at the top of the page."""
    session = story_session()
    if session.writing:  # double click
        return
    with cards.keep_errors():
        new = StorySession()
        arena.validate(story_request.entries)
        if story_request.chain:
            entry = story_request.entries[0]
            new.chain = Chain(
                cache.store(), current_actor(), cache.client(entry.provider), entry.request, cache.prices(),
                column_values=entry.column_values, idle_timeout_s=LEAVE_S,
            )  # fmt: skip
            new.chain.advance()
        else:
            new.round = arena.start_round(
                cache.store(), current_actor(), cache.registry(), story_request.entries, cache.prices(),
                blind=story_request.blind, idle_timeout_s=LEAVE_S,
            )  # fmt: skip
        session.round, session.chain = new.round, new.chain
        session.silence()


def _round(round_: Round, prompt_format: PromptFormat | None) -> None:
    places = round_.displayed
    several = len(places) > 1
    voted, winner = arena_vote.vote_of(round_) if several else (False, None)
    panes = []
    for number, column in enumerate(st.columns(len(places), gap="medium") if several else [st.container(width=760)]):
        with column:
            heading = arena_vote.heading(round_, number, winner) if several else ""
            panes.append(StoryPane(places[number], number, named=voted or not round_.names_hidden, heading=heading))
    after = _place_below(round_.done)
    with st.container(width=760):
        speech.follow(places[0], 0, of_several=several)
    story_text.read_along(panes, round_)
    for number, pane in enumerate(panes):
        with pane.below.container():
            if round_.can_vote and not voted:
                arena_vote.button(round_, number)
            story_actions.below(pane.story)
    with after.container():
        if voted:
            arena_vote.chosen(round_, winner)
        elif round_.can_vote:
            arena_vote.none_button(round_)
        if round_.can_vote and several:
            round_guests.menu(round_, named=voted)
        story_actions.onward(prompt_format, write)


def _place_below(done: bool) -> DeltaGenerator:
    """A container for what follows a story. It is cleared immediately for a new story, and kept for the same one."""
    return st.container() if done else st.empty()


class StoryPane(LiveStory):
    """The pane of one story: name, text, facts and error, each with reserved space.

    Attributes:
        below: the container below its border, for actions after the story has ended.
    """

    def __init__(self, story: StoryStream, number: int, *, named: bool = True, heading: str = "") -> None:
        super().__init__(story, facts_every=_FACTS_EVERY)
        self._number, self._named = number, named
        with st.container(border=True):
            if heading:
                st.markdown(heading)
            else:
                st.empty()  # always rendered, so that the content below does not move
            with st.container(key=f"story_words_{number}"):
                self._words = story_text.draw_text(st, story)
            self._line: DeltaGenerator = st.caption(self._facts())
            self._trouble: DeltaGenerator = _place_below(story.done)
        self.below: DeltaGenerator = _place_below(story.done)

    def _draw_facts(self) -> None:
        self._line.caption(self._facts())

    def _facts(self) -> str:
        story = self.story
        return story_text.line(story.facts, story.provider, writing=not story.done, named=self._named)

    def finish(self) -> None:
        """Render how it ended, and the remedies."""
        super().finish()
        story, facts = self.story, self.story.facts
        with self._trouble.container():
            if self._named and story.text and facts.answered_by_other_model:
                st.warning(story_text.other_model_note(facts), icon=":material/swap_horiz:")
            if self._named:
                views.parameter_notes(story.notes)
            if story.error is not None:
                self._error(story.error)
            if story.text and story_text.partial(facts):
                st.button(
                    _("Continue"),
                    icon=":material/play_arrow:",
                    key=f"story_go_on_{self._number}",
                    on_click=_continue,
                    args=(story,),
                )
            if self._named:
                story_remedies.show(story, self._number)

    def _error(self, error: FabulaError) -> None:
        """Render the error; if names are hidden, only that there was one, because errors contain model and provider
        names.
        """
        if self._named:
            cards.error_card(error)
        else:
            st.error(
                _("This story was interrupted. You will see the reason after you vote."),
                icon=":material/content_cut:",
            )


def _continue(story: StoryStream) -> None:
    """Continue the story in its pane."""
    with cards.keep_errors():
        saved = library.get(cache.store(), story.id)
        round_ = story_session().round
        if saved is None or round_ is None or story not in round_.stories:
            return
        client = cache.client(story.provider)
        more = stream.continue_story(
            cache.store(),
            current_actor(),
            client,
            saved,
            cache.prices(),
            idle_timeout_s=LEAVE_S,
            subscribers=round_.subscribers,
        )
        round_.stories[round_.stories.index(story)] = more


def _chain_page(chain: Chain, onward: Callable[[], None]) -> None:
    """Render the three panes; each step starts when the previous one has ended.

    `onward` renders what follows the chain.
    """
    current = chain.advance()
    panes: dict[StepName, tuple[DeltaGenerator, DeltaGenerator]] = {}
    with st.container(width=760):
        for number, name in enumerate(STEPS):
            with st.container(border=True):
                st.markdown(f"**{number + 1} · {_(_STEP_NAMES[name])}**")
                story = chain.steps.get(name)
                with st.container(key=f"story_words_{number}"):
                    words = st.empty() if story is None else story_text.draw_text(st, story)
                panes[name] = (words, st.empty() if story is None else st.caption(_step_facts(story)))
                if story is not None and story.done:
                    with st.container():
                        _step_ended(chain, name, story)
                else:
                    st.empty()  # clears the previous chain before the first word
        after = st.container() if chain.done else st.empty()
        if chain.done:
            with after.container():
                onward()
        if (story_stream := chain.steps.get("story")) is not None:
            speech.follow(story_stream, STEPS.index("story"))
    for name, story in chain.steps.items():
        if story is current:
            for changed in arena.updates([story], story.subscribers):
                _draw_step(story, *panes[name], words_too=bool(changed) or not story.text)
            st.rerun()  # the next step starts


def _step_ended(chain: Chain, name: StepName, story: StoryStream) -> None:
    """Render the error of a step, a button to continue it if incomplete, and the actions for the story."""
    views.parameter_notes(story.notes)
    if story.error is not None:
        cards.error_card(story.error)
    if chain.done and story.text and (chain.paused_after(name) or story_text.partial(story.facts)):
        st.button(
            _("Continue"), icon=":material/play_arrow:", key=f"story_chain_go_on_{name}", on_click=_continue_step,
            args=(chain, name),
        )  # fmt: skip
    story_remedies.show_step(chain, name)
    if name == "story":
        story_actions.below(story)


def _continue_step(chain: Chain, name: StepName) -> None:
    with cards.keep_errors():
        chain.continue_step(name)


def _draw_step(story: StoryStream, words: DeltaGenerator, line: DeltaGenerator, *, words_too: bool = True) -> None:
    if words_too:
        story_text.draw_text(words, story)
    line.caption(_step_facts(story))


def _step_facts(story: StoryStream) -> str:
    return story_text.line(story.facts, story.provider, writing=not story.done)
