"""Team mode without a browser: who sees pages, what a viewer can do, and what admins change in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import Actor
from core.db.store import Store
from core.people import invitations, people
from core.people.sign_in import SignedIn, sign_out
from core.settings import Settings
from pages.ui import open_tabs
from tests.support import team
from tests.support.app_pages import click, field, labels, opened, trouble, visitor, words
from tests.support.team import arrive, member

_AUTH = {"google": {"client_id": "c"}, "okta": {"client_id": "c"}}


@pytest.fixture(autouse=True)
def team_mode(monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[None]:
    """Settings of a team."""
    for name, value in team.TEAM_VARIABLES.items():
        monkeypatch.setenv(name, value)
    yield
    open_tabs._tabs.clear()


@pytest.fixture
def settings(home: object) -> Settings:
    """The same settings as the pages have."""
    return Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(home)})


@pytest.fixture
def admin(store: Store, settings: Settings) -> Actor:
    """The first admin, in another browser."""
    return arrive(store, settings).actor(store)


def _visit(claims: dict[str, Any] | None, page: str = "home", **state: object) -> AppTest:
    """A visitor with these claims; None: not signed in at a provider."""
    at = visitor()
    at.secrets["auth"] = _AUTH
    at.user = {"is_logged_in": False} if claims is None else {"is_logged_in": True, **claims}
    return opened(at, page, **state)


def _opened(
    store: Store, admin: Actor, email: str, role: str, page: str = "home", **state: object
) -> tuple[AppTest, str]:
    """The tab of someone who was invited, and the id of the person."""
    invitations.invite(store, admin, email, role)  # type: ignore[arg-type]  # a table's column
    at = _visit(team.claims(email), page, **state)
    return at, next(one.id for one in people.everyone(store, admin) if one.email == email)


@pytest.mark.parametrize("page", ["home", "dataset", "settings"])
def test_a_stranger_sees_the_sign_in_page_only(page: str) -> None:
    at = _visit(None, page)
    assert labels(at) == ["Sign in with Google", "Sign in with Okta"]
    assert "members of a team" in words(at) and "Data set" not in words(at)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"email": "eve@evil.example", "sub": "eve"}, "not invited"),
        ({"email_verified": False}, "has not verified"),
        ({"sub": None}, "did not identify you"),
        ({"iss": "https://other.example.com"}, "not invited"),
    ],
)
def test_who_may_not_come_in_is_told_why(admin: Actor, changes: dict[str, Any], told: str) -> None:
    at = _visit(team.claims(**changes), "settings")
    assert told in at.warning[0].value
    assert labels(at) == ["Sign in with Google", "Sign in with Okta"]


def test_a_person_sees_pages_and_their_own_name(store: Store, admin: Actor) -> None:
    at, _id = _opened(store, admin, "bob@example.org", "editor")
    assert "sign_in_out" in [button.key for button in at.button]
    assert "bob@example.org" in words(at) and "Your role: editor" in words(at)


@pytest.mark.parametrize("page", ["home", "dataset", "training", "cost", "story", "settings"])
def test_a_viewer_can_look_at_every_page(store: Store, admin: Actor, page: str) -> None:
    at, _id = _opened(store, admin, "bob@example.org", "viewer", page)
    assert "You may not do this" not in trouble(at) and "Sign in with Google" not in labels(at)


def test_a_viewer_cannot_act(store: Store, admin: Actor) -> None:
    at, _id = _opened(store, admin, "bob@example.org", "viewer", "dataset", dataset_part="bring")
    click(at, next(str(one.key) for one in at.button if str(one.key).startswith("dataset_sample_")))
    assert "Viewers can't do this. Nothing was changed." in trouble(at)


@pytest.mark.parametrize("change", ["disable", "sign_out_everywhere"])
def test_the_next_run_of_an_open_tab_shows_the_sign_in_page(store: Store, admin: Actor, change: str) -> None:
    at, person_id = _opened(store, admin, "bob@example.org", "editor", "dataset")
    getattr(people, change)(store, admin, person_id)
    at.run()
    assert "You have been signed out" in at.warning[0].value
    assert labels(at) == ["Sign in with Google", "Sign in with Okta"]


def test_a_changed_role_closes_the_tab_until_the_person_goes_on(store: Store, admin: Actor) -> None:
    at, person_id = _opened(store, admin, "bob@example.org", "editor")
    people.set_role(store, admin, person_id, "viewer")
    at.run()
    assert "changed your role" in at.warning[0].value and labels(at) == ["Continue"]
    click(at, "sign_in_continue")
    assert "Your role: viewer" in words(at)


def test_signing_out_ends_the_sign_in_for_every_tab_of_the_browser(store: Store, admin: Actor) -> None:
    invitations.invite(store, admin, "bob@example.org", "editor")
    same = team.claims("bob@example.org")
    one, other = _visit(same), _visit(same)
    click(one, "sign_in_out")
    other.run()
    assert "You have been signed out" in other.warning[0].value
    replayed = _visit(same)  # the same cookie, kept by someone
    assert "You have been signed out" in replayed.warning[0].value


def test_an_admin_invites_changes_a_role_and_disables(store: Store, settings: Settings, admin: Actor) -> None:
    at = _visit(team.claims(), "settings")
    field(at, "settings_invite_email").input("Bob@Example.org")
    field(at, "settings_invite_role").select("editor")
    click(at, "settings_invite_send")
    assert "bob@example.org" in words(at) and trouble(at) == ""
    bob = arrive(store, settings, "bob@example.org")
    at.run()
    field(at, f"settings_role_{bob.person_id}").select("viewer").run()
    assert _member(store, admin, bob).role == "viewer"
    click(at, f"settings_disable_{bob.person_id}")
    assert _member(store, admin, bob).disabled and "disabled" in words(at)
    click(at, f"settings_enable_{bob.person_id}")
    assert not _member(store, admin, bob).disabled


def test_the_only_admin_is_told_that_they_stay(store: Store, admin: Actor) -> None:
    at = _visit(team.claims(), "settings")
    field(at, f"settings_role_{admin.id}").select("viewer").run()
    assert "only admin" in trouble(at)
    assert field(at, f"settings_role_{admin.id}").value == "admin"


def test_people_who_are_no_admins_do_not_see_the_list(store: Store, settings: Settings, admin: Actor) -> None:
    member(store, settings, admin, "eve@example.org", "viewer")
    at, _id = _opened(store, admin, "bob@example.org", "editor", "settings")
    assert "eve@example.org" not in words(at) and "settings_invite_send" not in [one.key for one in at.button]


def test_a_tab_whose_person_has_changed_is_found(store: Store, settings: Settings, admin: Actor) -> None:
    bob, eve = (member(store, settings, admin, f"{name}@example.org", "editor") for name in ("bob", "eve"))
    tabs = {"b": (bob.sign_in_id, bob.role), "e": (eve.sign_in_id, eve.role), "a": ("unknown", "admin")}
    assert open_tabs._changed(lambda: store, tabs) == ["a"]
    people.set_role(store, admin, bob.person_id, "viewer")
    sign_out(store, eve.actor(store), eve.sign_in_id)
    assert open_tabs._changed(lambda: store, tabs) == ["b", "e", "a"]


def _member(store: Store, admin: Actor, person: SignedIn) -> people.PersonView:
    return next(one for one in people.everyone(store, admin) if one.id == person.person_id)
