"""Invitations by e-mail address. Fabula sends no e-mail: you tell the person to sign in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from core.actor import ROLES, Actor, Role, requires, role_of
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Invitation, Person, utcnow
from core.email_addresses import is_email, lower_email
from core.errors import FabulaError, NotFound
from core.message import msg
from core.people.identity import Identity

LOCK = "people"
"""Name of the advisory lock that every change of people and invitations holds."""


@dataclass(frozen=True, slots=True)
class InvitationView:
    """An invitation that has not been accepted."""

    id: str
    email: str
    provider: str
    role: Role
    created_at: datetime


@requires("admin")
def invite(store: Store, actor: Actor, email: str, role: Role, provider: str = "") -> str:
    """Invite an e-mail address; returns the invitation's id. An open one for the same address gets the new role.

    Args:
        store: the ledger.
        actor: an admin.
        email: the address that the person signs in with.
        role: their role.
        provider: the only sign-in provider that the invitation is for; "" means the first one that they use. An account
            at a second provider leads to the same person only if an invitation names that provider.

    Raises:
        FabulaError: the text is not an e-mail address, or the role does not exist.
    """
    address = lower_email(email)
    if not is_email(address):
        raise FabulaError(msg("{email} is not an e-mail address.", email=repr(email[:80])), msg("Correct it."))
    if role not in ROLES:
        raise ValueError(role)
    with store.session() as session:
        advisory_lock(session, LOCK)
        found = session.scalar(
            _open().where(Invitation.email == address, Invitation.provider == provider).with_for_update()
        )
        if found is None:
            found = Invitation(id=new_id(), email=address, provider=provider, created_by=actor.id)
            session.add(found)
        found.role = role
        session.flush()
        return found.id


@requires("admin")
def withdraw(store: Store, actor: Actor, invitation_id: str) -> None:
    """Delete an invitation that has not been accepted.

    Raises:
        NotFound: it was accepted or withdrawn.
    """
    with store.session() as session:
        advisory_lock(session, LOCK)
        found = session.scalar(_open().where(Invitation.id == invitation_id))
        if found is None:
            raise NotFound(msg("This invitation was accepted or withdrawn."), msg("See the list of people."))
        session.delete(found)


@requires("admin")
def open_invitations(store: Store, actor: Actor) -> list[InvitationView]:
    """Invitations that have not been accepted, newest first."""
    with store.reading() as session:
        found = session.scalars(_open().order_by(Invitation.created_at.desc())).all()
        return [InvitationView(one.id, one.email, one.provider, role_of(one.role), one.created_at) for one in found]


def accept(session: Session, identity: Identity) -> Person | None:
    """The person admitted by an open invitation; None if there is no invitation. Part of `sign_in`.

    An invitation that names this provider takes precedence. It leads to the person who already has this address, if
    there is exactly one: in this way, the admin confirms that both accounts belong to the same person.
    """
    candidates = session.scalars(
        _open()
        .where(Invitation.email == identity.email, Invitation.provider.in_(["", identity.provider]))
        .order_by(Invitation.provider.desc())
    ).all()
    if not candidates:
        return None
    invitation = candidates[0]
    known = session.scalars(select(Person).where(Person.email == identity.email)).all() if invitation.provider else []
    person = known[0] if len(known) == 1 else new_person(session, identity, role_of(invitation.role))
    invitation.accepted_at, invitation.accepted_by = utcnow(), person.id
    return person


def new_person(session: Session, identity: Identity, role: Role) -> Person:
    """Add a person. Part of `sign_in`."""
    person = Person(id=new_id(), email=identity.email, name=identity.name, role=role)
    session.add(person)
    session.flush()
    return person


def _open() -> Select[Invitation]:
    return select(Invitation).where(Invitation.accepted_at.is_(None))
