"""One visitor's session on the story page: the current round or chain, and what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.stories import arena
from core.stories.arena import Round, RoundEntry
from core.stories.chain import Chain
from core.stories.stream import StoryStream
from pages.ui import state
from pages.ui.background import BackgroundIterator

LEAVE_S = 0.6  # after the visitor has left; detecting that takes a quarter of a second, so less than a second in total


@dataclass(frozen=True, slots=True)
class StoryRequest:
    """Prompts and models of a request. With `chain` there is one entry: outline, story, title one after the other."""

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
    opened: bool = False  # the URL has been read (see `pages.ui.story.story_address`)

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
