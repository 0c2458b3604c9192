"""A chain on the page: outline, story and title, each in its pane as it is written."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.stories import arena
from core.stories.chain import STEPS, Chain, StepName
from core.stories.stream import StoryStream
from pages.ui import cards, parameter_notes
from pages.ui.lang import _, mark
from pages.ui.story import speech, story_actions, story_facts, story_remedies

_NAMES = {"outline": mark("Outline"), "story": mark("Story"), "title": mark("Title")}


def page(chain: Chain, onward: Callable[[], None]) -> None:
    """Draw the three panes; each step starts when the previous one has ended. `onward` draws what follows the chain."""
    current = chain.advance()
    panes: dict[StepName, tuple[DeltaGenerator, DeltaGenerator]] = {}
    with st.container(width=760):
        for number, name in enumerate(STEPS):
            with st.container(border=True):
                st.markdown(f"**{number + 1} · {_(_NAMES[name])}**")
                story = chain.steps.get(name)
                with st.container(key=f"story_words_{number}"):
                    words = st.empty() if story is None else story_facts.draw_text(st, story)
                panes[name] = (words, st.empty() if story is None else st.caption(_facts(story)))
                if story is not None and story.done:
                    with st.container():
                        _ended(chain, name, story)
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
                _draw(story, *panes[name], words_too=bool(changed) or not story.text)
            st.rerun()  # the next step starts


def _ended(chain: Chain, name: StepName, story: StoryStream) -> None:
    """The error of a step, a button to continue it if incomplete, and the actions for the story."""
    parameter_notes.show(story.notes)
    if story.error is not None:
        cards.error_card(story.error)
    if chain.done and story.text and (chain.paused_after(name) or story_facts.partial(story.facts)):
        st.button(
            _("Continue"), icon=":material/play_arrow:", key=f"story_chain_go_on_{name}", on_click=_continue,
            args=(chain, name),
        )  # fmt: skip
    story_remedies.show_step(chain, name)
    if name == "story":
        story_actions.below(story)


def _continue(chain: Chain, name: StepName) -> None:
    with cards.keep_errors():
        chain.continue_step(name)


def _draw(story: StoryStream, words: DeltaGenerator, line: DeltaGenerator, *, words_too: bool = True) -> None:
    if words_too:
        story_facts.draw_text(words, story)
    line.caption(_facts(story))


def _facts(story: StoryStream) -> str:
    return story_facts.line(story.facts, story.provider, writing=not story.done)
