"""A visitor's presence on the story page: reading continues after a reload, and stories are stopped when the visitor
has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import streamlit as st
from streamlit.runtime.scriptrunner import StopException

from core.stories.stream import StoryStream
from pages.ui.story import story_address
from pages.ui.story.story_session import story_session

RELOAD_S = 10.0  # a reloaded page is back by then, even on a busy machine
_LOOK_AGAIN_S = 1.0  # delay after Streamlit's own Stop


@contextmanager
def present() -> Iterator[None]:
    """The visitor is on the story page for the duration of the block; a story without a visitor is stopped.

    If the story ends within the block, the page is drawn once more, because parts of it were drawn for a running story.
    Streamlit's own Stop, in the toolbar while a script runs, interrupts the script: `_look_again` then stops the story
    and draws its end. A click on the page interrupts the script too, but the next run continues to read.
    """
    session = story_session()
    story_address.follow()
    writing = session.writing
    with st.container():
        if writing:
            st.fragment(run_every=_LOOK_AGAIN_S)(_rerun_after_stop())()
    with ExitStack() as reading:
        for story in session.stories:
            if not story.done:
                reading.enter_context(story.reading())
        try:
            yield
        except StopException:
            wait_for_reload(session.stories)
            raise
    if writing and not session.writing:
        st.rerun()


def wait_for_reload(stories: Sequence[StoryStream]) -> None:
    """Let stories continue for a while: a reload closes the browser connection, just like leaving."""
    for story in stories:
        story.keep_alive(RELOAD_S)


def _rerun_after_stop() -> Callable[[], None]:
    """A fragment that reruns the page if its script ended before the story.

    It runs with the page, and later only while no script runs and the browser is connected, which means that
    Streamlit's own Stop was clicked.
    """
    with_the_page = True

    def look() -> None:
        nonlocal with_the_page
        if not with_the_page:
            story_session().stop()
            st.rerun()
        with_the_page = False

    return look
