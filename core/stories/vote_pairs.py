"""Pairs of stories from votes: the one that people preferred, and another one from the same idea. For DPO.

`from_votes` counts what people chose on the story page. Guests' votes are not part of it (see `guest_votes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.db.store import Store, in_chunks
from core.db.tables import Checkpoint, Story, TrainingJob, Vote
from core.ownership import readable

_MAX_VOTES = 10_000  # newest votes used for preference pairs


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to the same prompt, and which one was preferred.

    Attributes:
        prompt: without the separator that a tuned model's prompts end with.
        preferred_model, other_model: the models that wrote them; "" if unknown.
        values: the column values that filled the prompt; None for a free prompt.
        system: the system text of the request.
        private: whether only its owner may read one of the answers.
        conversation: see `core.datasets.importers.preference_lines`; "" if the prompt is all that was asked.
    """

    prompt: str
    preferred: str
    other: str
    preferred_model: str = ""
    other_model: str = ""
    values: Mapping[str, str] | None = None
    system: str = ""
    private: bool = False
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class VotePairs:
    """The pairs of all votes, newest vote first, and the votes and pairs that give none.

    Attributes:
        none: votes for none of the stories.
        undecided: pairs that were preferred equally often in both orders.
        unusable: pairs with equal or empty texts, or with a story that was deleted or that this person may not read.
    """

    pairs: tuple[PreferencePair, ...] = ()
    none: int = 0
    undecided: int = 0
    unusable: int = 0


def from_votes(store: Store, reader: Actor | None) -> VotePairs:
    """The winner of each round with every other story of it, as most people chose; a pair of stories counts once.

    An edited version is used for the preferred story, the original text for the other one. Stories that `reader` may
    not read are left out.
    """
    with store.reading() as session:
        query = select(Vote).order_by(Vote.created_at.desc(), Vote.id).limit(_MAX_VOTES)
        votes = list(session.scalars(query))
        balance: Counter[tuple[str, str]] = Counter()  # of two stories, sorted: votes for the first minus the second
        for vote in votes:
            for other in vote.story_ids if vote.winner_id is not None else ():
                if other != vote.winner_id:
                    first, second = sorted((str(vote.winner_id), other))
                    balance[first, second] += 1 if first == vote.winner_id else -1
        stories = _stories(session, [story_id for pair in balance for story_id in pair], reader)
        separators = _separators(session, stories.values())
    found, decided = list[PreferencePair](), [(pair, n) for pair, n in balance.items() if n]
    for pair, n in decided:
        ordered = [stories.get(story_id) for story_id in (pair if n > 0 else pair[::-1])]
        made = None if ordered[0] is None or ordered[1] is None else _pair(ordered[0], ordered[1], separators)
        found += [] if made is None else [made]
    none = sum(vote.winner_id is None for vote in votes)
    return VotePairs(tuple(found), none, len(balance) - len(decided), len(decided) - len(found))


def _pair(winner: Story, other: Story, separators: Mapping[str, str]) -> PreferencePair | None:
    """The pair of two stories; None if their texts are equal or empty."""
    preferred = (winner.text if winner.edited_text is None else winner.edited_text).strip()
    rejected = other.text.strip()
    if not preferred or not rejected or preferred == rejected:
        return None
    # Each model is asked in the format of its own training: the prompt of a tuned model is the one to train on.
    asked = next((story for story in (winner, other) if _name(story) in separators), winner)
    return PreferencePair(
        asked.prompt.removesuffix(separators.get(_name(asked), "")),
        preferred,
        rejected,
        _name(winner),
        _name(other),
        asked.column_values or None,
        str(asked.parameters.get("system") or ""),
        "private" in (winner.sharing, other.sharing),
    )


def _name(story: Story) -> str:
    return story.requested_model or story.model


def _separators(session: Session, stories: Collection[Story]) -> dict[str, str]:
    """What ends the prompts of the tuned models among these stories; "" for a model that was trained on chats."""
    names = sorted({_name(story) for story in stories})
    found: dict[str, str] = {}
    for chunk in in_chunks(names):
        of_model = select(TrainingJob.fine_tuned_model, TrainingJob.separator)
        of_point = select(Checkpoint.model, TrainingJob.separator).join(
            TrainingJob, TrainingJob.id == Checkpoint.job_id
        )
        for query, column in ((of_model, TrainingJob.fine_tuned_model), (of_point, Checkpoint.model)):
            found |= {str(name): mark or "" for name, mark in session.execute(query.where(column.in_(chunk)))}
    return found


def _stories(session: Session, ids: Sequence[str], reader: Actor | None) -> dict[str, Story]:
    stories: dict[str, Story] = {}
    for chunk in in_chunks(sorted(set(ids))):
        query = select(Story).where(Story.id.in_(chunk), Story.deleted_at.is_(None), readable(reader, Story))
        stories |= {story.id: story for story in session.scalars(query)}
    return stories
