"""Side by side: up to four stories from one idea, written at the same time and read together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from core.actor import Actor
from core.cost.price_book import PriceBook
from core.db.store import Store, new_id
from core.errors import FabulaError
from core.message import msg
from core.providers import CompletionRequest, Registry
from core.story.stream import TICK_S, StoryPlacement, StoryStream, Subscribers, write

MOST_PANES = 4  # four columns can still be read, on a projector too
_HIGHEST_SEED = 2**31 - 1  # servers take 32 or 64 bits
_BEAT_S = 0.25  # a page that waits for words looks up so often, and so notices that its reader has gone


@dataclass(frozen=True, slots=True)
class RoundEntry:
    """One model of a round, how it is asked, and what filled its columns."""

    provider: str
    request: CompletionRequest
    column_values: dict[str, str] | None = None


@dataclass
class Round:
    """Stories that are being written side by side, or have been.

    Attributes:
        order: which entry stands in which place on the screen; mixed where names are hidden.
    """

    id: str
    stories: list[StoryStream]
    order: list[int]
    blind: bool = False
    subscribers: Subscribers = field(default_factory=Subscribers)

    @property
    def kept_as(self) -> str:
        """The id under which its stories are found in the database: of several the round's, else the story's own."""
        return self.id if len(self.stories) > 1 else self.stories[0].id

    @property
    def done(self) -> bool:
        """Whether nothing more will come, to any of them."""
        return all(story.done for story in self.stories)

    @property
    def votable(self) -> bool:
        """Whether there is a choice: all have ended, and two have words at least."""
        return self.done and sum(bool(story.text) for story in self.stories) > 1

    @property
    def secret(self) -> bool:
        """Whether names are hidden until somebody votes: not where there is nothing to vote on."""
        return self.blind and len(self.stories) > 1 and (not self.done or self.votable)

    @property
    def places(self) -> list[StoryStream]:
        """The stories as they stand on the screen."""
        return [self.stories[index] for index in self.order]

    @property
    def stopping(self) -> bool:
        """Whether all that have not ended yet were stopped."""
        return not self.done and all(story.stopping or story.done for story in self.stories)

    def cancel(self) -> None:
        """`stop`, without waiting until the words are saved."""
        for story in self.stories:
            story.cancel()

    def stop(self) -> None:
        """End all of them and keep their words."""
        self.cancel()
        for story in self.stories:
            story.stop()


def begin(
    store: Store,
    actor: Actor,
    registry: Registry,
    entries: Sequence[RoundEntry],
    book: PriceBook,
    *,
    blind: bool = False,
    leave_s: float | None = None,
    seed: int | None = None,
    step: str | None = None,
) -> Round:
    """Have every entry write at the same time.

    Args:
        blind: names are hidden, and the order on the screen is mixed (by `seed`, for tests).
        leave_s: see `stream.write`.
        step: `COMPARISON` keeps the answers out of the library; None: they are stories.

    Raises:
        FabulaError: none or too many entries, an empty prompt, or a provider that is not there.
    """
    check(entries)
    clients = [registry.get(entry.provider) for entry in entries]
    round_ = Round(new_id(), [], list(range(len(entries))), blind)
    if blind:
        random.Random(seed).shuffle(round_.order)
    for entry, client in zip(entries, clients, strict=True):
        place = StoryPlacement(round_.id if len(entries) > 1 else None, step, entry.column_values)
        round_.stories.append(
            write(
                store, actor, client, entry.request, book, place=place, leave_s=leave_s, subscribers=round_.subscribers
            )
        )
    return round_


def again(stories: Sequence[StoryStream]) -> tuple[RoundEntry, ...]:
    """The entries that write the same prompts with the same settings once more, with another seed."""
    return tuple(RoundEntry(story.provider, reseeded(story.asked), story.place.column_values) for story in stories)


def reseeded(request: CompletionRequest) -> CompletionRequest:
    """The same request with another seed; one without a seed is random each time, and stays as it is."""
    if request.seed is None:
        return request
    return replace(request, seed=request.seed + 1 if request.seed < _HIGHEST_SEED else 0)


def check(entries: Sequence[RoundEntry]) -> None:
    """See that the entries can be written.

    Raises:
        FabulaError: none or too many of them, or one without a prompt.
    """
    if not entries:
        raise FabulaError(msg("There is no model to write with."), msg("Choose one."))
    if len(entries) > MOST_PANES:
        raise FabulaError(msg("Up to {value} models can write side by side.", value=MOST_PANES), msg("Leave some out."))
    if any(not entry.request.prompt.strip() for entry in entries):
        raise FabulaError(msg("The prompt is empty."), msg("Give every column a value, or write a prompt."))


def updates(
    stories: Sequence[StoryStream], subscribers: Subscribers, *, tick_s: float = TICK_S, beat_s: float = _BEAT_S
) -> Iterator[tuple[int, ...]]:
    """Which of the stories have something new, at once for the first words and then once a tick at most.

    Yields an empty tuple once a beat while there is nothing; ends when all are done and told. Whoever iterates counts
    as a reader of all of them.
    """
    seen = [-1] * len(stories)

    def changed() -> tuple[int, ...]:
        return tuple(i for i, story in enumerate(stories) if story.version != seen[i])

    with ExitStack() as reading:
        for story in stories:
            reading.enter_context(story.read())
        while True:
            with subscribers:
                subscribers.wait_for_words(lambda: bool(changed()) or all(story.done for story in stories), beat_s)
                new = changed()
                for i in new:
                    seen[i] = stories[i].version
                over = all(story.done for story in stories)
            yield new
            if over and not changed():
                return
            with subscribers:
                subscribers.wait_for(lambda: all(story.done for story in stories), timeout=tick_s)
