"""Side by side: up to four models write a story from the same idea; votes on those rounds rank the models."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.confidence_interval import wilson
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Story, Vote, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.ownership import reads
from core.pricing.price_book import PriceBook
from core.pricing.quality import blind_rounds
from core.providers import CompletionRequest, Registry
from core.stories.readers import Subscribers
from core.stories.story_record import StoryPlacement
from core.stories.stream import TICK_S, StoryStream, StreamRequest

MAX_PANES = 4  # four columns are still readable, even on a projector
LETTERS = "ABCD"
"""What the stories of a blind round are called, in the order shown."""
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


@requires("viewer")
@reads(model="entries[].request.model")
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
        blind: whether to hide the model names and shuffle the order on screen (with `seed`, for tests).
        idle_timeout_s: see `StreamRequest`.
        step: `COMPARISON` keeps the answers out of the library; None for ordinary stories.

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
        request = StreamRequest(
            store, client, entry.request, book, placement=placement, idle_timeout_s=idle_timeout_s,
            subscribers=round_.subscribers,
        )  # fmt: skip
        round_.stories.append(StoryStream(actor, request))
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


@dataclass(frozen=True, slots=True)
class Standing:
    """The results of one model in its blind rounds.

    Attributes:
        rounds, wins: rounds that the model took part in, and rounds that it won. In a round without a winner, no model
            wins.
        share: wins / rounds, 0 to 1, with the 95 % interval `low` to `high` (Wilson 1927).
    """

    provider: str
    model: str
    rounds: int
    wins: int
    share: float
    low: float
    high: float


@requires("viewer")
@reads(story="order[]")
def cast_vote(
    store: Store, actor: Actor, round_id: str, order: Sequence[str], winner: str | None, *, blind: bool
) -> None:
    """Save a vote for the best story of a round. A second vote by the same person replaces the first.

    Args:
        order: story ids in the order shown on screen.
        winner: one of these ids; None if no story was good enough.
        blind: whether model names were hidden.

    Raises:
        FabulaError: fewer than two stories, or the winner is not one of them.
        NotFound: a story is not part of this round or no longer exists.
    """
    if len(set(order)) < 2:
        raise FabulaError(msg("A vote needs at least two stories."), msg("Write with two models."))
    if winner is not None and winner not in order:
        raise FabulaError(msg("This story was not in the round."), msg("Choose one of the stories shown."))
    with store.session() as session:
        advisory_lock(session, f"votes {round_id}")
        saved_ids = set(session.scalars(select(Story.id).where(Story.id.in_(order), Story.round_id == round_id)))
        if saved_ids != set(order):
            raise NotFound(msg("Not every story of this round was saved."), msg("Write the round again."))
        row = _find_vote(session, actor, round_id)
        if row is None:
            row = Vote(id=new_id(), actor=actor.id, round_id=round_id)
            session.add(row)
        row.created_at, row.blind, row.story_ids, row.winner_id = utcnow(), blind, list(order), winner


@requires("viewer")
def get_vote(store: Store, actor: Actor, round_id: str) -> tuple[bool, str | None]:
    """Whether this person has voted on a round, and the winner (None for no story)."""
    with store.reading() as session:
        row = _find_vote(session, actor, round_id)
        return (False, None) if row is None else (True, row.winner_id)


def standings(store: Store) -> list[Standing]:
    """The ranking of models, best first. Only blind rounds between different models count."""
    result = [_make_standing(model, rounds, wins) for model, (rounds, wins) in blind_rounds(store).items()]
    return sorted(result, key=lambda s: (-s.share, -s.rounds, s.model))


def _find_vote(session: Session, actor: Actor, round_id: str) -> Vote | None:
    return session.scalar(select(Vote).where(Vote.round_id == round_id, Vote.actor == actor.id))


def _make_standing(model: tuple[str, str], rounds: int, wins: int) -> Standing:
    low, high = wilson(wins, rounds)
    return Standing(*model, rounds, wins, wins / rounds, low, high)
