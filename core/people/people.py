"""What admins can see and change about the people in a team. Every change takes effect immediately in all open tabs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, case, func, select, update
from sqlalchemy.orm import Session

from core.actor import ROLES, Actor, Role, requires, role_of
from core.db.store import Store, advisory_lock, in_chunks
from core.db.tables import Person, SignIn, SignInAccount, utcnow
from core.errors import NotAllowed, NotFound
from core.message import msg
from core.people.invitations import LOCK


@dataclass(frozen=True, slots=True)
class PersonView:
    """A member of the team.

    Attributes:
        issuers: issuers of the accounts that lead to this person.
        last_sign_in: when, or None.
        last_origin: address and browser of that sign-in.
        open_sign_ins: sign-ins that have not ended.
    """

    id: str
    email: str
    name: str
    role: Role
    disabled: bool
    created_at: datetime
    issuers: tuple[str, ...]
    last_sign_in: datetime | None
    last_origin: str
    open_sign_ins: int


@requires("admin")
def everyone(store: Store, actor: Actor) -> list[PersonView]:
    """All people, by e-mail address."""
    with store.reading() as session:
        people = session.scalars(select(Person).order_by(Person.email, Person.created_at)).all()
        sign_ins = {one.person_id: one for one in session.execute(_newest_sign_ins())}
        issuers: dict[str, list[str]] = {}
        for account in session.scalars(select(SignInAccount).order_by(SignInAccount.created_at)):
            issuers.setdefault(account.person_id, []).append(account.issuer)
        return [_view(person, sign_ins.get(person.id), issuers.get(person.id, [])) for person in people]


def names_of(session: Session, person_ids: Iterable[str]) -> dict[str, str]:
    """The names of these people by id, also of those who are disabled. Others than people of a team have none."""
    names: dict[str, str] = {}
    for ids in in_chunks(sorted({*person_ids} - {""})):
        names |= dict(session.execute(select(Person.id, Person.name).where(Person.id.in_(ids))).all())
    return names


def name_of(store: Store, person_id: str) -> str:
    """A person's name; their id if they are not in the team, as the user of local mode."""
    with store.reading() as session:
        return names_of(session, [person_id]).get(person_id, person_id)


def members(store: Store) -> dict[str, str]:
    """Name and e-mail address of the people who are not disabled, by id, in alphabetical order."""
    query = select(Person.id, Person.name, Person.email).where(Person.disabled_at.is_(None))
    with store.reading() as session:
        found = session.execute(query.order_by(Person.name, Person.email)).all()
        return {person_id: f"{name} ({email})" for person_id, name, email in found}


@requires("admin")
def set_role(store: Store, actor: Actor, person_id: str, role: Role) -> None:
    """Change a person's role.

    Raises:
        NotFound: there is no such person.
        NotAllowed: they are the last admin.
    """
    if role not in ROLES:
        raise ValueError(role)
    with _changing(store, person_id) as (session, person):
        if role != "admin":
            _keep_an_admin(session, person)
        person.role = role


@requires("admin")
def disable(store: Store, actor: Actor, person_id: str) -> None:
    """End all of a person's sign-ins and refuse new ones. Their work is kept.

    Their runs stop once the requests in flight are answered (`core.generation.run_store.owner_disabled`), and their
    batches are cancelled. Training jobs continue, because they are paid for when they start.

    Raises:
        NotFound: there is no such person.
        NotAllowed: they are the last admin.
    """
    with _changing(store, person_id) as (session, person):
        _keep_an_admin(session, person)
        person.disabled_at = person.disabled_at or utcnow()
        _end_sign_ins(session, person)


@requires("admin")
def enable(store: Store, actor: Actor, person_id: str) -> None:
    """Let a disabled person sign in again.

    Raises:
        NotFound: there is no such person.
    """
    with _changing(store, person_id) as (_session, person):
        person.disabled_at = None


@requires("admin")
def sign_out_everywhere(store: Store, actor: Actor, person_id: str) -> None:
    """End all of a person's sign-ins. They may sign in again.

    Raises:
        NotFound: there is no such person.
    """
    with _changing(store, person_id) as (session, person):
        _end_sign_ins(session, person)


@contextmanager
def _changing(store: Store, person_id: str) -> Iterator[tuple[Session, Person]]:
    """A transaction in which no other process changes people."""
    with store.session() as session:
        advisory_lock(session, LOCK)
        person = session.get(Person, person_id)
        if person is None:
            raise NotFound(msg("This person no longer exists."), msg("Reload the page."))
        yield session, person


def _keep_an_admin(session: Session, person: Person) -> None:
    others = select(func.count()).where(Person.role == "admin", Person.disabled_at.is_(None), Person.id != person.id)
    if person.role == "admin" and person.disabled_at is None and not session.scalar(others):
        raise NotAllowed(msg("This is the only admin. Nothing was changed."), msg("Make someone else an admin first."))


def _end_sign_ins(session: Session, person: Person) -> None:
    person.signed_out_at = utcnow()
    session.execute(
        update(SignIn)
        .where(SignIn.person_id == person.id, SignIn.ended_at.is_(None))
        .values(ended_at=person.signed_out_at)
    )


def _newest_sign_ins() -> Select[str, datetime, str, int]:
    """One row for each person who has ever signed in: the newest sign-in, and how many have not ended."""
    person = SignIn.person_id
    ranked = select(
        SignIn.person_id,
        SignIn.at,
        SignIn.origin,
        func.count(case((SignIn.ended_at.is_(None), 1))).over(partition_by=person).label("open"),
        func.row_number().over(partition_by=person, order_by=(SignIn.at.desc(), SignIn.id)).label("place"),
    ).subquery()
    columns = (ranked.c.person_id, ranked.c.at, ranked.c.origin, ranked.c.open)
    return select(*columns).where(ranked.c.place == 1)


def _view(person: Person, newest: Row[str, datetime, str, int] | None, issuers: list[str]) -> PersonView:
    return PersonView(
        id=person.id,
        email=person.email,
        name=person.name,
        role=role_of(person.role),
        disabled=person.disabled_at is not None,
        created_at=person.created_at,
        issuers=tuple(issuers),
        last_sign_in=newest.at if newest else None,
        last_origin=newest.origin if newest else "",
        open_sign_ins=newest.open if newest else 0,
    )
