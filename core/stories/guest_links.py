"""Links for guests: people without an account who see one round of stories, or a presenter's rounds, and vote.

A link has a token, of which only the hash is stored. It expires, admits a limited number of guests, and allows nothing
but reading these stories and voting: guests cannot spend money. It also ends when its creator is disabled or may only
view.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db.store import Store, new_id
from core.db.tables import GuestLink, GuestVote, Person, Story, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.ownership import edits, owns
from core.people.people import names_of

VALID_FOR = timedelta(hours=3)
"""How long a link is valid unless its creator chooses otherwise: a long talk."""
LONGEST = timedelta(days=7)
MAX_GUESTS = 500
"""How many guests may vote unless its creator chooses otherwise. One person with several browsers is several guests."""
MOST_GUESTS = 5_000
_TOKEN_BYTES = 16  # 128 bits: cannot be guessed, and the QR code stays small


@dataclass(frozen=True, slots=True)
class OpenedLink:
    """A link whose token is known. The token is part of its address and is stored nowhere else.

    Attributes:
        round_id: the round that it shows; None: none yet.
        closed: whether the vote on that round has ended.
    """

    id: str
    token: str
    round_id: str | None = None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class GuestLinkView:
    """A valid link in a list.

    Attributes:
        stage: whether it is for all rounds of a presentation; otherwise it is for one round.
        creator: name of the person.
        guests: guests who have voted.
        closed: whether the vote on its current round has ended.
    """

    id: str
    stage: bool
    creator: str
    created_at: datetime
    expires_at: datetime
    guests: int
    max_guests: int
    closed: bool


@requires("editor")
@edits(story="story_ids[]")
def open_link(
    store: Store,
    actor: Actor,
    round_id: str | None = None,
    story_ids: Sequence[str] = (),
    *,
    valid_for: timedelta = VALID_FOR,
    max_guests: int = MAX_GUESTS,
) -> OpenedLink:
    """Create a link for guests.

    Args:
        round_id: the round to vote on; None: a stage, whose rounds `guest_votes.show_round` sets.
        story_ids: the round's stories, in the order shown.
        valid_for: when it expires.
        max_guests: how many guests may vote.

    Raises:
        NotFound: a story is not part of the round, or not saved.
        FabulaError: the duration or the number of guests is out of range.
    """
    if not timedelta(0) < valid_for <= LONGEST or not 1 <= max_guests <= MOST_GUESTS:
        raise FabulaError(
            msg("A link is valid for at most {days} days and {guests} guests.", days=LONGEST.days, guests=MOST_GUESTS),
            msg("Choose smaller values."),
        )
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    with store.session() as session:
        if round_id is not None:
            check_round(session, round_id, story_ids)
        link = GuestLink(
            id=new_id(), token_hash=hash_of(token), stage=round_id is None, round_id=round_id,
            story_ids=list(story_ids), max_guests=max_guests, created_by=actor.id, expires_at=utcnow() + valid_for,
        )  # fmt: skip
        session.add(link)
        return OpenedLink(link.id, token, round_id)


@requires("editor")
def find_link(store: Store, actor: Actor, token: str) -> OpenedLink | None:
    """This person's own stage, after a reload of the presenter's page; None if it has ended or is someone else's."""
    with store.reading() as session:
        link = session.scalar(_valid().where(GuestLink.token_hash == hash_of(token)))
        if link is None or not link.stage or link.created_by != actor.id:
            return None
        return OpenedLink(link.id, token, link.round_id, link.closed_at is not None)


@requires("viewer")
def valid_links(store: Store, actor: Actor) -> list[GuestLinkView]:
    """The valid links that this person may revoke, the newest first: their own; for admins, everyone's."""
    query = _valid().order_by(GuestLink.created_at.desc())
    if not actor.has("admin"):
        query = query.where(GuestLink.created_by == actor.id)
    with store.reading() as session:
        links = list(session.scalars(query))
        guests = _guests(session, [link.id for link in links])
        names = names_of(session, {link.created_by for link in links})
        return [
            GuestLinkView(
                link.id, link.stage, names.get(link.created_by, ""), link.created_at, link.expires_at,
                guests.get(link.id, 0), link.max_guests, link.closed_at is not None,
            )
            for link in links
        ]  # fmt: skip


@requires("editor")
@owns(guest_link="link_id")
def end_link(store: Store, actor: Actor, link_id: str) -> None:
    """End a link before its time. Guests are told that it is not valid any more; their votes are kept.

    Raises:
        NotFound: there is no such link.
    """
    with store.session() as session:
        link = get_link(session, link_id)
        link.expires_at = min(link.expires_at, utcnow())


def link_of(session: Session, token: str, *, lock: bool = False) -> GuestLink:
    """The link that a guest has.

    Args:
        session: the transaction.
        token: from the address.
        lock: whether other votes and the end of this vote wait until the transaction ends.

    Raises:
        NotFound: it is unknown or has ended.
    """
    query = _valid().where(GuestLink.token_hash == hash_of(token))
    link = session.scalar(query.with_for_update(of=GuestLink) if lock else query)
    if link is None:
        raise NotFound(msg("This link is not valid any more."), msg("Ask the presenter for a new one."))
    return link


def get_link(session: Session, link_id: str, *, lock: bool = True) -> GuestLink:
    """A link by its id. `lock`: as in `link_of`.

    Raises:
        NotFound: there is no such link.
    """
    link = session.get(GuestLink, link_id, with_for_update=lock or None)
    if link is None:
        raise NotFound(msg("There is no such link for guests."), msg("Create another link."))
    return link


def check_round(session: Session, round_id: str, story_ids: Sequence[str]) -> None:
    """Check that these are the saved stories of a round.

    Raises:
        NotFound: one is not, or there are fewer than two.
    """
    saved = set(session.scalars(select(Story.id).where(Story.id.in_(story_ids), Story.round_id == round_id)))
    if len(saved) < 2 or saved != set(story_ids):
        raise NotFound(msg("Not every story of this round was saved."), msg("Write the round again."))


def hash_of(secret: str) -> str:
    """What is stored of a token or of a browser's secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _valid() -> Select[GuestLink]:
    """Links that have not expired, and whose creator may still open one. The user of local mode is no `Person`."""
    may_open = or_(Person.id.is_(None), Person.disabled_at.is_(None) & (Person.role != "viewer"))
    return (
        select(GuestLink)
        .outerjoin(Person, Person.id == GuestLink.created_by)
        .where(GuestLink.expires_at > utcnow(), may_open)
    )


def _guests(session: Session, link_ids: Iterable[str]) -> dict[str, int]:
    votes = select(GuestVote.link_id, func.count(GuestVote.guest.distinct())).group_by(GuestVote.link_id)
    return {link_id: count for link_id, count in session.execute(votes.where(GuestVote.link_id.in_(list(link_ids))))}
