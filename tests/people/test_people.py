"""What admins change counts for the very next action, and a team keeps an admin."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import event, func, select

from core.actor import Actor
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Dataset, SignIn, utcnow
from core.errors import FabulaError, NotAllowed, NotFound, SignedOut
from core.people import invitations, people
from core.people.sign_in import SignedIn, sign_in, sign_out
from core.settings import Settings
from tests.support.team import arrive, identity, member

_RECIPE = Recipe("n", (Column("n", ("a",)),), "{n}", provider="engine", model="writer")


def _demote(store: Store, admin: Actor, bob: SignedIn) -> None:
    people.set_role(store, admin, bob.person_id, "viewer")


def _disable(store: Store, admin: Actor, bob: SignedIn) -> None:
    people.disable(store, admin, bob.person_id)


def _sign_out_everywhere(store: Store, admin: Actor, bob: SignedIn) -> None:
    people.sign_out_everywhere(store, admin, bob.person_id)


def _sign_out(store: Store, _admin: Actor, bob: SignedIn) -> None:
    sign_out(store, bob.actor(store), bob.sign_in_id)


@pytest.mark.parametrize(
    ("change", "error"),
    [(_demote, NotAllowed), (_disable, SignedOut), (_sign_out_everywhere, SignedOut), (_sign_out, SignedOut)],
)
def test_the_next_action_of_an_open_tab_is_refused(
    store: Store,
    settings: Settings,
    admin: Actor,
    change: Callable[[Store, Actor, SignedIn], None],
    error: type[NotAllowed],
) -> None:
    bob = member(store, settings, admin, "bob@example.org", "editor")
    tab = bob.actor(store)
    datasets.create(store, tab, _RECIPE)
    change(store, admin, bob)
    with pytest.raises(error) as caught:
        datasets.create(store, tab, _RECIPE)
    assert "Nothing was changed" in caught.value.what and caught.value.next_step
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 1


def test_a_new_role_counts_at_once(store: Store, settings: Settings, admin: Actor) -> None:
    bob = member(store, settings, admin, "bob@example.org", "viewer")
    tab = bob.actor(store)
    people.set_role(store, admin, bob.person_id, "admin")
    assert [one.email for one in people.everyone(store, tab)] == ["ann@example.com", "bob@example.org"]


def test_the_only_admin_stays(store: Store, settings: Settings, admin: Actor) -> None:
    for change in (
        lambda: people.set_role(store, admin, admin.id, "editor"),
        lambda: people.disable(store, admin, admin.id),
    ):
        with pytest.raises(NotAllowed, match="only admin"):
            change()
    bob = member(store, settings, admin, "bob@example.org", "admin")
    people.disable(store, admin, bob.person_id)
    with pytest.raises(NotAllowed, match="only admin"):  # a disabled one does not count
        people.set_role(store, admin, admin.id, "editor")


def test_two_admins_who_demote_each_other_at_once_leave_one(store: Store, settings: Settings, admin: Actor) -> None:
    bob = member(store, settings, admin, "bob@example.org", "admin")
    together, refused = threading.Barrier(2), list[FabulaError]()

    def demote(actor: Actor, person_id: str) -> None:
        together.wait()
        try:
            people.set_role(store, actor, person_id, "viewer")
        except NotAllowed as exc:
            refused.append(exc)

    threads = [
        threading.Thread(target=demote, args=pair) for pair in ((admin, bob.person_id), (bob.actor(store), admin.id))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert sorted(current.current().role for current in (admin, bob.actor(store))) == ["admin", "viewer"]


def test_the_list_says_who_signed_in_from_where(store: Store, settings: Settings, admin: Actor) -> None:
    member(store, settings, admin, "bob@example.org", "editor")
    arrive(store, settings, "bob@example.org")
    _ann, bob = people.everyone(store, admin)
    assert (bob.name, bob.role, bob.disabled, bob.open_sign_ins) == ("Bob", "editor", False, 2)
    assert bob.last_origin == "192.0.2.1 · Firefox" and bob.last_sign_in is not None


def test_the_list_reads_one_sign_in_of_each_person(store: Store, settings: Settings, admin: Actor) -> None:
    """However often people have signed in, the list of people does not load their whole history."""
    bob = member(store, settings, admin, "bob@example.org", "editor")
    for browser in range(5):
        sign_in(store, settings, identity("bob@example.org"), f"192.0.2.{browser} · Firefox")
    with store.session() as session:
        for number, row in enumerate(session.scalars(select(SignIn).order_by(SignIn.origin.desc()))):
            row.at = utcnow() - timedelta(minutes=number)
    sign_out(store, bob.actor(store), bob.sign_in_id)
    loaded: list[object] = []

    def note(row: SignIn, _context: object) -> None:
        loaded.append(row)

    event.listen(SignIn, "load", note)
    try:
        ann, found = people.everyone(store, admin)
    finally:
        event.remove(SignIn, "load", note)
    assert loaded == []
    assert (found.last_origin, found.open_sign_ins, ann.open_sign_ins) == ("192.0.2.4 · Firefox", 5, 1)


def test_an_invitation_can_be_changed_and_withdrawn(store: Store, settings: Settings, admin: Actor) -> None:
    first = invitations.invite(store, admin, "bob@example.org", "viewer")
    assert invitations.invite(store, admin, "BOB@example.org", "editor") == first
    [open_one] = invitations.open_invitations(store, admin)
    assert (open_one.email, open_one.role) == ("bob@example.org", "editor")
    invitations.withdraw(store, admin, first)
    with pytest.raises(NotFound):
        invitations.withdraw(store, admin, first)
    with pytest.raises(NotAllowed, match="not invited"):
        arrive(store, settings, "bob@example.org")


@pytest.mark.parametrize("email", ["", "bob", "@example.org", "bob@", "a b@c.d", "a@b,c@d", "x" * 330 + "@e.org"])
def test_what_is_no_address_is_not_invited(store: Store, admin: Actor, email: str) -> None:
    with pytest.raises(FabulaError, match="is not an e-mail address"):
        invitations.invite(store, admin, email, "viewer")


def test_a_person_who_does_not_exist_is_named_as_missing(store: Store, admin: Actor) -> None:
    for change in (people.disable, people.enable, people.sign_out_everywhere):
        with pytest.raises(NotFound):
            change(store, admin, "nobody")
