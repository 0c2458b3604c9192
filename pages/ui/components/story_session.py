"""One visitor's stories: the current round or chain, and its id in the URL, so that a reload opens it again.

Reading continues after a reload; stories are stopped when the visitor has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import streamlit as st
from streamlit.runtime.scriptrunner import StopException

from core.stories import arena, library
from core.stories.arena import Round, RoundEntry
from core.stories.chain import Chain
from core.stories.library import SavedStory, StoryFilter
from core.stories.readers import Recent
from core.stories.stream import StoryStream
from pages.ui import cache, state
from pages.ui.background import BackgroundIterator
from pages.ui.sign_in import current_actor

LEAVE_S = 0.6  # after the visitor has left; detecting that takes a quarter of a second, so less than a second in total

_IN_ADDRESS = "story"
RECENT: Recent[Round | Chain] = Recent()
"""What visitors of this process have written last, by person and id; a reload opens it again."""

RELOAD_S = 10.0  # a reloaded page is back by then, even on a busy machine
_LOOK_AGAIN_S = 1.0  # delay after Streamlit's own Stop


@dataclass(frozen=True, slots=True)
class StoryRequest:
    """Prompts and models of a request.

    With `chain`, there is one entry, which is written as outline, story and title.
    """

    entries: tuple[RoundEntry, ...]
    blind: bool = False
    chain: bool = False


@dataclass
class StorySound:
    """Audio of a story from a speech endpoint.

    Attributes:
        subject: text, model, voice and speed.
        total: number of parts.
        before: parts of an earlier, interrupted reading.
        reading: the later parts, as they arrive.
    """

    subject: str
    total: int
    before: list[bytes]
    reading: BackgroundIterator[bytes]

    @property
    def parts(self) -> list[bytes]:
        """The finished parts."""
        return [*self.before, *self.reading.items]

    @property
    def whole(self) -> bool:
        """Whether the audio is complete."""
        return len(self.parts) == self.total


@dataclass
class StorySession:
    """The newest round, otherwise the newest chain."""

    round: Round | None = None
    chain: Chain | None = None
    sound: StorySound | None = None
    deleted: str | None = None  # the most recently deleted story
    editing: str | None = None  # the story whose dialog is open
    liked: tuple[str, str] | None = None  # the data set made from the liked stories, and a digest of these
    not_waited_for: set[str] = field(default_factory=set)  # stories that are not retried automatically
    prompt_number: int = 0  # number of the last suggested prompt (see `core.stories.prompt_suggestions`)
    earlier: str = ""  # id of stories shown from the database, written by another process
    opened: bool = False  # the URL has been read (see `_follow_address`)

    @property
    def kept_as(self) -> str:
        """The id that finds the current stories again; "" if there are none."""
        if self.chain is not None:
            return self.chain.id
        return self.earlier if self.round is None else self.round.saved_id

    @property
    def writing(self) -> bool:
        """Whether text is still arriving."""
        return (self.round is not None and not self.round.done) or (self.chain is not None and not self.chain.done)

    @property
    def stories(self) -> list[StoryStream]:
        """All stories of the newest round or chain."""
        chained = [] if self.chain is None else list(self.chain.steps.values())
        return chained if self.round is None else [*self.round.stories, *chained]

    @property
    def stopping(self) -> bool:
        """Whether Stop was clicked and writing has not ended yet."""
        return any(writing is not None and writing.stopping for writing in (self.round, self.chain))

    def again(self) -> StoryRequest | None:
        """The same prompts, models and settings, with another seed; None if nothing was written."""
        if self.chain is not None:
            return StoryRequest((self.chain.rerun_entry(),), chain=True)
        if self.round is None:
            return None
        return StoryRequest(arena.rerun_entries(self.round.stories), self.round.blind)

    def clear(self) -> None:
        """Remove the stories from the page, unless one is being written; they are kept under Earlier stories."""
        if not self.writing:
            self.round = self.chain = None
            self.earlier = ""
            self.silence()

    def silence(self) -> None:
        """Remove the audio from the page, and stop creating it."""
        if self.sound is not None:
            self.sound.reading.stop()
            self.sound = None

    def stop(self) -> None:
        """Stop writing, and keep the text. Returns immediately, so that the page can show it."""
        for writing in (self.round, self.chain):
            if writing is not None:
                writing.cancel()


def story_session() -> StorySession:
    """This visitor's session, made on first use."""
    return state.get_or_create("story", StorySession)


def _follow_address() -> None:
    """Open the stories in the URL after a page load; then keep the URL up to date."""
    session = story_session()
    if not session.opened:
        session.opened = True
        _open(session, str(st.query_params.get(_IN_ADDRESS, "")))
    work = session.chain or session.round
    if work is not None:
        RECENT.put(_own(session.kept_as), work)
    state.keep_in_address(_IN_ADDRESS, session.kept_as)


def _open(session: StorySession, key: str) -> None:
    """Show the stories with this id; those of other people and processes are read from the database."""
    if not key or session.kept_as:
        return
    work = RECENT.get(_own(key))
    if isinstance(work, Chain):
        session.chain = work
    elif work is not None:
        session.round = work
    elif saved_stories(key):
        session.earlier = key
    if (order := session.again()) is not None:
        _fill_in(order)


def _own(key: str) -> str:
    """The key in `RECENT` of this visitor's stories: others may not read them, unless they are shared."""
    return f"{current_actor().id} {key}"


def saved_stories(key: str) -> list[SavedStory]:
    """The saved story with this id, or those of the round or chain, oldest first, if this visitor may read them."""
    store, reader = cache.store(), current_actor()
    alone = library.get(store, key, reader)
    if alone is not None:
        return [alone]
    return list(library.search(store, StoryFilter(round_id=key, reader=reader)).stories[::-1])


def _fill_in(order: StoryRequest) -> None:
    """Restore the form that these stories were requested with."""
    names = [f"{entry.provider}/{entry.request.model}" for entry in order.entries]
    first = order.entries[0]
    values = {
        "model": names[0],
        "compare": len(names) > 1,
        "others": names[1:],
        "blind": order.blind,
        "chain": order.chain,
        "mode": "columns" if first.column_values else "free",
        "prompt": "" if first.column_values else first.request.prompt,
        "temperature": first.request.temperature,
        "top_p": first.request.top_p,
        "max_tokens": first.request.max_tokens,
        **{f"column_{name}": value for name, value in (first.column_values or {}).items()},
    }
    for name, value in values.items():
        state.set_default(f"story_{name}", value)


@contextmanager
def present() -> Iterator[None]:
    """Mark the visitor as present on the story page during the block; a story without a visitor is stopped.

    If the story ends within the block, the page is rendered once more, because parts of it were rendered for a running
    story. Streamlit's own Stop, in the toolbar while a script runs, interrupts the script: `_look_again` then stops the
    story and renders its end. A click on the page interrupts the script too, but the next run continues to read.
    """
    session = story_session()
    _follow_address()
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
    """Streamlit fragment that reruns the page when a story finishes after the page's script run has ended.

    It runs together with the page. After that, it runs only while no script is running and the browser is connected,
    which means that Streamlit's own Stop was clicked.
    """
    with_the_page = True

    def look() -> None:
        nonlocal with_the_page
        if not with_the_page:
            story_session().stop()
            st.rerun()
        with_the_page = False

    return look
