"""Which story of a round a person liked best, and how the models stand after many rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost.quality import blind_rounds
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Story, Vote, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.statistics import wilson

_LOOKED_AT = 10_000  # votes: older ones say little about what a model is now


@dataclass(frozen=True, slots=True)
class Standing:
    """One model after all blind rounds that it was in.

    Attributes:
        rounds, wins: how many it was in, and won; a round without a winner is won by nobody.
        share: wins of rounds, 0 to 1, with its 95 % interval from `low` to `high` (Wilson 1927).
    """

    provider: str
    model: str
    rounds: int
    wins: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two stories from one idea, of which one was liked better."""

    prompt: str
    preferred: str
    other: str
    preferred_model: str
    other_model: str
    round_id: str


def cast(store: Store, actor: Actor, round_id: str, order: Sequence[str], winner: str | None, *, blind: bool) -> None:
    """Write down which story of a round was liked best; a second vote of the same person takes the first one's place.

    Args:
        order: ids of the stories as they stood on the screen.
        winner: one of them; None: none of them.
        blind: the names were hidden.

    Raises:
        FabulaError: fewer than two stories, or the winner is none of them.
        NotFound: a story is not of this round, or not there (any more).
    """
    if len(set(order)) < 2:
        raise FabulaError(msg("A vote needs at least two stories."), msg("Write with two models."))
    if winner is not None and winner not in order:
        raise FabulaError(msg("This story was not in the round."), msg("Choose one of the stories shown."))
    with store.session() as session:
        advisory_lock(session, f"votes {round_id}")
        there = set(session.scalars(select(Story.id).where(Story.id.in_(order), Story.round_id == round_id)))
        if there != set(order):
            raise NotFound(msg("Not every story of this round was saved."), msg("Write the round again."))
        row = _of(session, actor, round_id)
        if row is None:
            row = Vote(id=new_id(), actor=actor.id, round_id=round_id)
            session.add(row)
        row.at, row.blind, row.order, row.winner = utcnow(), blind, list(order), winner


def vote_of(store: Store, actor: Actor, round_id: str) -> tuple[bool, str | None]:
    """Whether this person has voted on a round, and for which story (None: none of them)."""
    with store.reading() as session:
        row = _of(session, actor, round_id)
        return (False, None) if row is None else (True, row.winner)


def standings(store: Store) -> list[Standing]:
    """How the models stand, the best first. Only blind rounds between different models count."""
    found = [_standing(model, rounds, wins) for model, (rounds, wins) in blind_rounds(store).items()]
    return sorted(found, key=lambda s: (-s.share, -s.rounds, s.model))


def pairs(store: Store) -> list[PreferencePair]:
    """Every pair of a preferred story and another of its round, newest vote first; equal texts make none.

    A story that a person has edited counts with the edit where it was preferred, and as written where it was not.
    """
    with store.reading() as session:
        query = select(Vote).where(Vote.winner.is_not(None)).order_by(Vote.at.desc(), Vote.id).limit(_LOOKED_AT)
        votes = list(session.scalars(query))
        stories = _stories(session, votes)
    found = []
    for vote in votes:
        best = stories.get(vote.winner or "")
        others = [stories[story] for story in vote.order if story in stories and story != vote.winner]
        for other in others if best is not None else ():
            assert best is not None
            pair = PreferencePair(
                best.prompt, _best_text(best), other.text.strip(), best.model, other.model, vote.round_id
            )
            if pair.preferred and pair.other and pair.preferred != pair.other:
                found.append(pair)
    return found


def _best_text(story: Story) -> str:
    return (story.text if story.edited_text is None else story.edited_text).strip()


def _of(session: Session, actor: Actor, round_id: str) -> Vote | None:
    return session.scalar(select(Vote).where(Vote.round_id == round_id, Vote.actor == actor.id))


def _stories(session: Session, votes: Sequence[Vote], size: int = 500) -> dict[str, Story]:
    ids = sorted({story for vote in votes for story in vote.order})
    found: dict[str, Story] = {}
    for start in range(0, len(ids), size):
        some = Story.id.in_(ids[start : start + size])
        found |= {story.id: story for story in session.scalars(select(Story).where(some, Story.deleted_at.is_(None)))}
    return found


def _standing(model: tuple[str, str], rounds: int, wins: int) -> Standing:
    low, high = wilson(wins, rounds)
    return Standing(*model, rounds, wins, wins / rounds, low, high)
