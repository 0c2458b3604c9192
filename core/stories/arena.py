"""Side by side: up to four models write a story from the same idea at the same time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from core.actor import Actor
from core.db.store import Store, new_id
from core.errors import FabulaError
from core.message import msg
from core.pricing.price_book import PriceBook
from core.providers import CompletionRequest, Registry
from core.stories.readers import Subscribers
from core.stories.story_record import StoryPlacement
from core.stories.stream import TICK_S, StoryStream, StreamRequest

MAX_PANES = 4  # four columns are still readable, even on a projector
_HIGHEST_SEED = 2**31 - 1  # servers take 32 or 64 bits
_POLL_S = 0.25  # how often a waiting page wakes up, so that it notices a closed browser tab


@dataclass(frozen=True, slots=True)
class RoundEntry:
    """One model in a round, its request, and the column values that filled its prompt."""

    provider: str
    request: CompletionRequest
    column_values: dict[str, str] | None = None


@dataclass
class Round:
    """Stories written side by side, in progress or finished.

    Attributes:
        order: indices into `stories` in the order shown on screen; shuffled when names are hidden.
    """

    id: str
    stories: list[StoryStream]
    order: list[int]
    blind: bool = False
    subscribers: Subscribers = field(default_factory=Subscribers)

    @property
    def saved_id(self) -> str:
        """The id to look the stories up by: the round's if there are several, otherwise the story's own."""
        return self.id if len(self.stories) > 1 else self.stories[0].id

    @property
    def done(self) -> bool:
        """Whether all stories have ended."""
        return all(story.done for story in self.stories)

    @property
    def can_vote(self) -> bool:
        """Whether people can vote: all stories have ended and at least two have text."""
        return self.done and sum(bool(story.text) for story in self.stories) > 1

    @property
    def names_hidden(self) -> bool:
        """Whether model names are hidden until the vote; False if there is nothing to vote on."""
        return self.blind and len(self.stories) > 1 and (not self.done or self.can_vote)

    @property
    def displayed(self) -> list[StoryStream]:
        """The stories in the order shown on screen."""
        return [self.stories[index] for index in self.order]

    @property
    def stopping(self) -> bool:
        """Whether every unfinished story has been asked to stop."""
        return not self.done and all(story.stopping or story.done for story in self.stories)

    def cancel(self) -> None:
        """Ask all stories to stop without waiting until their text is saved."""
        for story in self.stories:
            story.cancel()

    def stop(self) -> None:
        """Stop all stories, keep their text, and wait until it is saved."""
        self.cancel()
        for story in self.stories:
            story.stop()


def start_round(
    store: Store,
    actor: Actor,
    registry: Registry,
    entries: Sequence[RoundEntry],
    book: PriceBook,
    *,
    blind: bool = False,
    idle_timeout_s: float | None = None,
    seed: int | None = None,
    step: str | None = None,
) -> Round:
    """Start all entries at the same time.

    Args:
        blind: hide the model names and shuffle the order on screen (with `seed`, for tests).
        idle_timeout_s: see `StreamRequest`.
        step: `COMPARISON` keeps the answers out of the library; None: they are ordinary stories.

    Raises:
        FabulaError: no entries, too many, an empty prompt, or an unknown provider.
    """
    validate(entries)
    clients = [registry.get(entry.provider) for entry in entries]
    round_ = Round(new_id(), [], list(range(len(entries))), blind)
    if blind:
        random.Random(seed).shuffle(round_.order)
    for entry, client in zip(entries, clients, strict=True):
        placement = StoryPlacement(round_.id if len(entries) > 1 else None, step, entry.column_values)
        round_.stories.append(
            StoryStream(
                StreamRequest(
                    store,
                    actor,
                    client,
                    entry.request,
                    book,
                    placement=placement,
                    idle_timeout_s=idle_timeout_s,
                    subscribers=round_.subscribers,
                )
            )
        )
    return round_


def rerun_entries(stories: Sequence[StoryStream]) -> tuple[RoundEntry, ...]:
    """Entries that repeat the same prompts and settings with a new seed."""
    return tuple(
        RoundEntry(story.provider, with_next_seed(story.original_request), story.placement.column_values)
        for story in stories
    )


def with_next_seed(request: CompletionRequest) -> CompletionRequest:
    """The same request with the next seed. A request without a seed is random anyway and is returned unchanged."""
    if request.seed is None:
        return request
    return replace(request, seed=request.seed + 1 if request.seed < _HIGHEST_SEED else 0)


def validate(entries: Sequence[RoundEntry]) -> None:
    """Check the entries before anything is sent.

    Raises:
        FabulaError: no entries, too many, or one without a prompt.
    """
    if not entries:
        raise FabulaError(msg("There is no model to write with."), msg("Choose one."))
    if len(entries) > MAX_PANES:
        raise FabulaError(msg("Up to {limit} models can write side by side.", limit=MAX_PANES), msg("Leave some out."))
    if any(not entry.request.prompt.strip() for entry in entries):
        raise FabulaError(msg("The prompt is empty."), msg("Give every column a value, or write a prompt."))


def updates(
    stories: Sequence[StoryStream], subscribers: Subscribers, *, tick_s: float = TICK_S, poll_s: float = _POLL_S
) -> Iterator[tuple[int, ...]]:
    """Indices of the stories that have new text.

    The first text is reported immediately, later text at most once per `tick_s`. Yields an empty tuple every `poll_s`
    while nothing changes, and ends when all stories are done and reported. The caller counts as a reader of every
    story while it iterates.
    """
    seen = [-1] * len(stories)

    def changed() -> tuple[int, ...]:
        return tuple(i for i, story in enumerate(stories) if story.version != seen[i])

    with ExitStack() as reading:
        for story in stories:
            reading.enter_context(story.reading())
        while True:
            with subscribers:
                subscribers.wait_for_words(lambda: bool(changed()) or all(story.done for story in stories), poll_s)
                new = changed()
                for i in new:
                    seen[i] = stories[i].version
                all_done = all(story.done for story in stories)
            yield new
            if all_done and not changed():
                return
            with subscribers:
                subscribers.wait_for(lambda: all(story.done for story in stories), timeout=tick_s)
