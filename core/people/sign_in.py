"""Signing in and out. The provider identifies a person; the rows here decide whether the sign-in is still valid.

Streamlit's cookie is valid for 30 days and cannot be revoked, so it is only the key to a row in `sign_ins`: once that
row has ended, the same cookie is refused in every tab.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.actor import Actor, Role, requires, role_of
from core.db import audit_log
from core.db.store import Store, advisory_lock, in_chunks
from core.db.tables import Person, SignIn, SignInAccount, utcnow
from core.errors import SignedOut, SignInRefused
from core.message import msg
from core.people import invitations
from core.people.identity import Identity
from core.settings import Settings

_CLOCK_SKEW = timedelta(minutes=2)  # this machine's clock and the provider's may differ by this much
_MAX_ORIGIN = 200


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person and their sign-in, as stored for one tab."""

    sign_in_id: str
    person_id: str
    name: str
    email: str
    role: Role

    def actor(self, store: Store) -> Actor:
        """The actor of this tab. Each action reads their current role, and is refused once the sign-in has ended."""
        role_now = partial(current_role, store, self.sign_in_id)
        return Actor(self.person_id, self.name, self.role, role_now, self.sign_in_id)


def sign_in(store: Store, settings: Settings, identity: Identity, origin: str) -> SignedIn:
    """Admit a person whom a provider has signed in; a sign-in that is already known is only looked up.

    People are admitted if their account is known, if they are invited, if they are the first admin
    (`FABULA_ADMIN_EMAIL`), or if their domain is allowed (`FABULA_ALLOWED_DOMAINS`). The same e-mail address at another
    issuer is treated as a different person.

    Args:
        store: the ledger.
        settings: name the first admin and the allowed domains.
        identity: the person's identity, as reported by the provider.
        origin: network address and browser.

    Raises:
        SignInRefused: the person is not admitted or is disabled, or this sign-in has ended.
    """
    with store.reading() as session:
        known = session.get(SignIn, identity.sign_in_id)
        if known is not None:
            return _still_valid(session.get_one(Person, known.person_id), known)
    with store.session() as session:
        advisory_lock(session, invitations.LOCK)
        account = session.get(SignInAccount, (identity.issuer, identity.subject))
        person = session.get_one(Person, account.person_id) if account else _admit(session, settings, identity)
        if account is None:
            session.add(
                SignInAccount(
                    issuer=identity.issuer,
                    subject=identity.subject,
                    person_id=person.id,
                    email=identity.email,
                    email_verified=identity.email_verified,
                )
            )
        begun = session.get(SignIn, identity.sign_in_id)  # by another tab in the meantime
        is_new = begun is None
        if begun is None:
            _refuse_disabled(person)
            _refuse_old(person, identity)
            begun = SignIn(id=identity.sign_in_id, person_id=person.id, origin=origin[:_MAX_ORIGIN])
            session.add(begun)
        person.name, person.email = identity.name, identity.email
        signed_in = _still_valid(person, begun)
        if is_new:
            details = {"arguments": {"provider": identity.provider, "email": identity.email}}
            audit_log.add(session, person.id, begun.origin, "people.sign_in.sign_in", details)
        return signed_in


@requires("viewer")
def sign_out(store: Store, actor: Actor, sign_in_id: str) -> None:
    """End one's own sign-in, in every tab that uses it."""
    with store.session() as session:
        found = session.get(SignIn, sign_in_id)
        if found is not None and found.person_id == actor.id and found.ended_at is None:
            found.ended_at = utcnow()


def current_role(store: Store, sign_in_id: str) -> Role:
    """The current role of the person with this sign-in.

    Raises:
        SignedOut: the sign-in has ended, or the person is disabled.
    """
    role = current_roles(store, [sign_in_id]).get(sign_in_id)
    if role is None:
        raise SignedOut(
            msg("You have been signed out. Nothing was changed."), msg("Reload the page, then sign in again.")
        )
    return role


def current_roles(store: Store, sign_in_ids: Iterable[str]) -> Mapping[str, Role]:
    """The current roles by sign-in, without those that have ended."""
    roles: dict[str, Role] = {}
    with store.reading() as session:
        for ids in in_chunks(list(sign_in_ids)):
            rows = session.execute(
                select(SignIn.id, Person.role)
                .join(Person, Person.id == SignIn.person_id)
                .where(SignIn.id.in_(ids), SignIn.ended_at.is_(None), Person.disabled_at.is_(None))
            )
            roles |= {sign_in_id: role_of(role) for sign_in_id, role in rows}
    return roles


def _admit(session: Session, settings: Settings, identity: Identity) -> Person:
    """The person for a new account, if an invitation or a setting admits them."""
    invited = invitations.accept(session, identity)
    if invited is not None:
        return invited
    first = identity.email == settings.admin_email and not session.scalar(
        select(func.count()).select_from(Person).where(Person.email == identity.email)
    )
    if first:
        return invitations.new_person(session, identity, "admin")
    if identity.domain in settings.allowed_domains:
        return invitations.new_person(session, identity, "viewer")
    raise SignInRefused(
        msg("{email} is not invited to this studio.", email=identity.email),
        msg("Ask an admin to invite this address. If you have another account, sign in with that one."),
    )


def _refuse_old(person: Person, identity: Identity) -> None:
    """Refuse a sign-in made before all of the person's sign-ins were ended; a reopened browser may still send one."""
    if person.signed_out_at is not None and (
        identity.issued_at is None or identity.issued_at + _CLOCK_SKEW < person.signed_out_at
    ):
        raise _ended()


def _refuse_disabled(person: Person) -> None:
    if person.disabled_at is not None:
        raise SignInRefused(
            msg("Your account is disabled in this studio."), msg("Ask an admin if you need access again.")
        )


def _still_valid(person: Person, found: SignIn) -> SignedIn:
    _refuse_disabled(person)
    if found.ended_at is not None:
        raise _ended()
    return SignedIn(found.id, person.id, person.name, person.email, role_of(person.role))


def _ended() -> SignInRefused:
    return SignInRefused(msg("You have been signed out."), msg("Sign in again."))
