"""The votes of guests, who have a link (`guest_links`) and no account: what they see, and how their votes are counted.

They are counted apart from the votes of the team, because an audience that votes on one round says nothing about other
rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db.store import Store, new_id
from core.db.tables import GuestLink, GuestVote, Story, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.ownership import edits, owns
from core.stories.guest_links import check_round, get_link, hash_of, link_of


@dataclass(frozen=True, slots=True)
class GuestStory:
    """A story as guests see it. `model` is "" while the names are hidden."""

    id: str
    text: str
    model: str


@dataclass(frozen=True, slots=True)
class VoteCounts:
    """Votes for each story, in the order shown, and for none of them. `expired`: the link has ended; none follow."""

    votes: tuple[int, ...]
    none: int
    expired: bool = False

    @property
    def total(self) -> int:
        """All votes."""
        return sum(self.votes) + self.none

    def share(self, place: int) -> float:
        """The share of one story in all votes, from 0 to 1."""
        return self.votes[place] / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class GuestView:
    """What a guest sees.

    Attributes:
        state: `waiting`: the stage shows no finished round yet; `open`: guests can vote; `closed`: the vote has ended.
        choice: the place of the story that this guest voted for, from 0; -1: none of them; None: no vote yet.
        tally: None until this guest has voted, or the vote is closed.
        stage: whether another round may follow.
    """

    state: Literal["waiting", "open", "closed"]
    stories: tuple[GuestStory, ...] = ()
    choice: int | None = None
    tally: VoteCounts | None = None
    stage: bool = True


@requires("editor")
@owns(guest_link="link_id")
@edits(story="story_ids[]")
def show_round(
    store: Store, actor: Actor, link_id: str, round_id: str, story_ids: Sequence[str], *, closed: bool = False
) -> None:
    """Show another round on a stage, and open its vote.

    Args:
        closed: its vote has ended already: show names and result.

    Raises:
        NotFound: there is no such stage, or a story is not part of the round.
    """
    with store.session() as session:
        link = get_link(session, link_id)
        if not link.stage:
            raise NotFound(msg("This link is for one vote only."), msg("Create another link."))
        if link.round_id != round_id:
            check_round(session, round_id, story_ids)
            link.round_id, link.story_ids, link.closed_at = round_id, list(story_ids), utcnow() if closed else None


@requires("editor")
@owns(guest_link="link_id")
def close_vote(store: Store, actor: Actor, link_id: str) -> None:
    """End the vote. Guests then see the names and the result; on a stage, until the next round.

    Raises:
        NotFound: there is no such link.
    """
    with store.session() as session:
        link = get_link(session, link_id)
        link.closed_at = link.closed_at or utcnow()


@requires("viewer")
@owns(guest_link="link_id")
def tally(store: Store, actor: Actor, link_id: str) -> VoteCounts:
    """The votes on the round that a link shows now.

    Raises:
        NotFound: there is no such link.
    """
    with store.reading() as session:
        link = get_link(session, link_id, lock=False)
        return replace(_tally(session, link), expired=link.expires_at <= utcnow())


def look(store: Store, token: str, guest: str) -> GuestView:
    """What a guest sees. `guest`: the secret of their browser.

    Raises:
        NotFound: the link is unknown or has ended.
    """
    with store.reading() as session:
        link = link_of(session, token)
        if link.round_id is None:
            return GuestView("waiting")
        closed = link.closed_at is not None
        row = session.scalar(_vote_query(link, guest))
        return GuestView(
            "closed" if closed else "open",
            _stories(session, link, named=closed),
            _choice(link, row),
            _tally(session, link) if closed or row is not None else None,
            link.stage,
        )


def vote(store: Store, token: str, guest: str, story_id: str | None) -> None:
    """Count a guest's vote; a second vote on the same round replaces the first.

    Args:
        guest: the secret of their browser.
        story_id: one of the stories shown; None: none of them.

    Raises:
        NotFound: the link is unknown or has ended. FabulaError: the vote is not open, the story is not part of the
            round that is shown now, or too many guests have voted already.
    """
    with store.session() as session:
        link = link_of(session, token, lock=True)
        if link.round_id is None or link.closed_at is not None:
            raise FabulaError(
                msg("This vote is not open. Your vote was not counted."), msg("Reload the page to see what is shown.")
            )
        if story_id is not None and story_id not in link.story_ids:
            raise FabulaError(
                msg("The presenter shows other stories now. Your vote was not counted."),
                msg("Reload the page to see what is shown."),
            )
        row = session.scalar(_vote_query(link, guest))
        if row is None:
            _check_room(session, link, guest)
            row = GuestVote(id=new_id(), link_id=link.id, round_id=link.round_id, guest=_guest(link, guest))
            session.add(row)
        row.story_id, row.created_at = story_id, utcnow()


def _guest(link: GuestLink, guest: str) -> str:
    """A browser on a link; on another link the same browser is someone else."""
    return hash_of(f"{link.id} {guest}")


def _check_room(session: Session, link: GuestLink, guest: str) -> None:
    """Check that one more guest may vote; those who have voted in an earlier round may."""
    guests = session.scalar(select(func.count(GuestVote.guest.distinct())).where(GuestVote.link_id == link.id))
    if (guests or 0) < link.max_guests:
        return
    voted = select(GuestVote.id).where(GuestVote.link_id == link.id, GuestVote.guest == _guest(link, guest))
    if session.scalar(voted.limit(1)) is None:
        raise FabulaError(
            msg(
                "The limit of {limit} guests for this link is reached. Your vote was not counted.",
                limit=link.max_guests,
            ),
            msg("Ask the presenter for a link for more guests."),
        )


def _vote_query(link: GuestLink, guest: str) -> Select[GuestVote]:
    return select(GuestVote).where(
        GuestVote.link_id == link.id, GuestVote.round_id == link.round_id, GuestVote.guest == _guest(link, guest)
    )


def _choice(link: GuestLink, row: GuestVote | None) -> int | None:
    if row is None:
        return None
    if row.story_id is None:
        return -1
    return link.story_ids.index(row.story_id) if row.story_id in link.story_ids else None


def _stories(session: Session, link: GuestLink, *, named: bool) -> tuple[GuestStory, ...]:
    """The stories in the order shown; one that was deleted since has no text."""
    shown = select(Story.id, Story.text, Story.model).where(Story.id.in_(link.story_ids), Story.deleted_at.is_(None))
    saved = {story.id: story for story in session.execute(shown)}
    found = [(story_id, saved.get(story_id)) for story_id in link.story_ids]
    return tuple(
        GuestStory(story_id, "", "") if one is None else GuestStory(story_id, one.text, one.model if named else "")
        for story_id, one in found
    )


def _tally(session: Session, link: GuestLink) -> VoteCounts:
    query = select(GuestVote.story_id, func.count()).where(
        GuestVote.link_id == link.id, GuestVote.round_id == link.round_id
    )
    counts: Counter[str | None] = Counter(dict(session.execute(query.group_by(GuestVote.story_id)).all()))
    return VoteCounts(tuple(counts[story_id] for story_id in link.story_ids), counts[None])
