"""Votes on rounds, and the ranking of models after many rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.confidence_interval import wilson
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Story, Vote, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.pricing.quality import blind_rounds

_MAX_VOTES = 10_000  # newest votes used for preference pairs


@dataclass(frozen=True, slots=True)
class Standing:
    """The results of one model in its blind rounds.

    Attributes:
        rounds, wins: rounds it took part in and won. In a round without a winner, no model wins.
        share: wins / rounds, 0 to 1, with the 95 % interval `low` to `high` (Wilson 1927).
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
    """Two stories from the same prompt, and which one was preferred."""

    prompt: str
    preferred: str
    other: str
    preferred_model: str
    other_model: str
    round_id: str


def cast(store: Store, actor: Actor, round_id: str, order: Sequence[str], winner: str | None, *, blind: bool) -> None:
    """Save a vote for the best story of a round. A second vote by the same person replaces the first.

    Args:
        order: story ids in the order shown on screen.
        winner: one of them; None: no story was good enough.
        blind: model names were hidden.

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
        row.at, row.blind, row.order, row.winner = utcnow(), blind, list(order), winner


def get_vote(store: Store, actor: Actor, round_id: str) -> tuple[bool, str | None]:
    """Whether this person has voted on a round, and the winner (None: no story)."""
    with store.reading() as session:
        row = _find_vote(session, actor, round_id)
        return (False, None) if row is None else (True, row.winner)


def standings(store: Store) -> list[Standing]:
    """The ranking of models, best first. Only blind rounds between different models count."""
    result = [_make_standing(model, rounds, wins) for model, (rounds, wins) in blind_rounds(store).items()]
    return sorted(result, key=lambda s: (-s.share, -s.rounds, s.model))


def pairs(store: Store) -> list[PreferencePair]:
    """Preference pairs of the winner with each other story of its round, newest vote first.

    Pairs with equal or empty texts are left out. An edited version is used for the preferred story, the original text
    for the other one.
    """
    with store.reading() as session:
        query = select(Vote).where(Vote.winner.is_not(None)).order_by(Vote.at.desc(), Vote.id).limit(_MAX_VOTES)
        votes = list(session.scalars(query))
        stories = _stories(session, votes)
    result = []
    for vote in votes:
        winner = stories.get(vote.winner or "")
        others = [stories[story] for story in vote.order if story in stories and story != vote.winner]
        for other in others if winner is not None else ():
            assert winner is not None
            pair = PreferencePair(
                winner.prompt, _best_text(winner), other.text.strip(), winner.model, other.model, vote.round_id
            )
            if pair.preferred and pair.other and pair.preferred != pair.other:
                result.append(pair)
    return result


def _best_text(story: Story) -> str:
    return (story.text if story.edited_text is None else story.edited_text).strip()


def _find_vote(session: Session, actor: Actor, round_id: str) -> Vote | None:
    return session.scalar(select(Vote).where(Vote.round_id == round_id, Vote.actor == actor.id))


def _stories(session: Session, votes: Sequence[Vote], chunk_size: int = 500) -> dict[str, Story]:
    ids = sorted({story for vote in votes for story in vote.order})
    stories: dict[str, Story] = {}
    for start in range(0, len(ids), chunk_size):
        in_chunk = Story.id.in_(ids[start : start + chunk_size])
        stories |= {
            story.id: story for story in session.scalars(select(Story).where(in_chunk, Story.deleted_at.is_(None)))
        }
    return stories


def _make_standing(model: tuple[str, str], rounds: int, wins: int) -> Standing:
    low, high = wilson(wins, rounds)
    return Standing(*model, rounds, wins, wins / rounds, low, high)
