"""Team mode without a browser: who sees pages, what a viewer can do, and what admins change in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core import ownership
from core.actor import Actor
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import Dataset, Sharing
from core.ownership import Thing
from core.people import audit, invitations, people
from core.people.audit import AuditFilter
from core.people.sign_in import SignedIn, sign_out
from core.settings import Settings
from core.tours import tour
from pages.ui import open_tabs
from tests.support import ledger_rows, team
from tests.support.app_pages import FRAME, click, field, labels, opened, trouble, visitor, words
from tests.support.fault_server import FaultServer
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


def test_the_home_page_shows_ones_own_tour_only(store: Store, admin: Actor) -> None:
    tour.start(store, admin, "en")
    at, person_id = _opened(store, admin, "bob@example.org", "editor")
    assert "home_tour_stop" not in [button.key for button in at.button]
    tour.start(store, Actor(person_id, "Bob", "editor"), "en")
    assert "home_tour_stop" in [button.key for button in at.run().button]


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


# --- sharing ----------------------------------------------------------------------------------------------------------


def _dataset(store: Store, owner: Actor, name: str, sharing: Sharing) -> str:
    dataset_id = datasets.from_frame(store, owner, name, pd.DataFrame({"x": ["1"], "y": ["one"]}), ["x"], "y")
    ownership.share(store, owner, Thing("dataset", dataset_id), sharing)
    return dataset_id


def test_pages_list_what_a_person_may_read(store: Store, settings: Settings, admin: Actor) -> None:
    eve = member(store, settings, admin, "eve@example.org", "editor").actor(store)
    for number, sharing in enumerate(ownership.SHARINGS):
        _dataset(store, eve, sharing, sharing)
        ledger_rows.put_job(store, name=f"job {sharing}", created_by=eve.id, sharing=sharing)
        ledger_rows.put_story(store, number, actor=eve.id, sharing=sharing, text=f"story {sharing}")
    shown = {
        "dataset": lambda at: set(field(at, "dataset_open").options),
        "training": lambda at: {str(name).removeprefix("job ") for name in at.dataframe[0].value["name"]},
        "story": lambda at: {text.removeprefix("story ") for text in (one.value for one in at.text)},
    }
    parts = {"dataset_part": "rows", "training_part": "jobs", "story_part": "shelf"}
    invitations.invite(store, admin, "bob@example.org", "editor")
    for email, seen in (("bob@example.org", {"team_read", "team_edit"}), (team.ADMIN_EMAIL, set(ownership.SHARINGS))):
        for page, read in shown.items():
            at = _visit(team.claims(email), page, **parts)
            assert read(at) & set(ownership.SHARINGS) == seen, page


@pytest.mark.parametrize(("sharing", "shown"), [("private", False), ("team_read", True)])
def test_an_address_opens_what_one_may_read(
    store: Store, settings: Settings, admin: Actor, sharing: Sharing, shown: bool
) -> None:
    eve = member(store, settings, admin, "eve@example.org", "editor").actor(store)
    dataset_id = _dataset(store, eve, "hers", sharing)
    _dataset(store, eve, "newest", "team_read")
    story_id = ledger_rows.put_story(store, 1, actor=eve.id, sharing=sharing, text="a story of hers")
    invitations.invite(store, admin, "bob@example.org", "editor")
    at = _visit(team.claims("bob@example.org"), "dataset", dataset_part="rows", dataset_open=dataset_id)
    assert (field(at, "dataset_open").value == dataset_id) == shown
    at = _visit(team.claims("bob@example.org"))
    at.query_params["story"] = story_id
    at.switch_page(str(FRAME.with_name("story.py"))).run()
    assert ("a story of hers" in words(at)) == shown and not at.exception


def test_the_address_of_a_private_story_that_was_just_written_opens_it_for_its_writer_only(
    engine_server: FaultServer, store: Store, settings: Settings, admin: Actor
) -> None:
    eve = member(store, settings, admin, "eve@example.org", "editor").actor(store)
    at = _visit(team.claims("eve@example.org"), "story")
    click(at, "story_button")
    story_id, shown = at.session_state["studio"].story.kept_as, {}
    ownership.share(store, eve, Thing("story", story_id), "private")
    invitations.invite(store, admin, "bob@example.org", "editor")
    for email in ("eve@example.org", "bob@example.org"):
        fresh = _visit(team.claims(email))
        fresh.query_params["story"] = story_id
        fresh.switch_page(str(FRAME.with_name("story.py"))).run()
        shown[email] = any(text.value.startswith("从前，") for text in fresh.text)
    assert shown == {"eve@example.org": True, "bob@example.org": False}


def test_the_owner_shares_and_hands_over(store: Store, settings: Settings, admin: Actor) -> None:
    bob = member(store, settings, admin, "bob@example.org", "editor")
    eve = member(store, settings, admin, "eve@example.org", "viewer")
    dataset_id = _dataset(store, bob.actor(store), "rows", "team_read")
    popover = {f"sharing_dataset_{dataset_id}": True, "dataset_part": "rows"}
    at = _visit(team.claims("bob@example.org"), "dataset", **popover)
    field(at, f"sharing_choice_dataset_{dataset_id}").select("private").run()
    assert trouble(at) == ""
    assert _sharing(store, dataset_id) == (bob.person_id, "private")
    field(at, f"sharing_owner_dataset_{dataset_id}").select(eve.person_id).run()
    assert _sharing(store, dataset_id) == (eve.person_id, "private")
    assert "rows" not in words(at)  # it is no longer among what Bob may read


def test_others_see_whose_it_is(store: Store, settings: Settings, admin: Actor) -> None:
    eve = member(store, settings, admin, "eve@example.org", "editor").actor(store)
    dataset_id = _dataset(store, eve, "rows", "team_read")
    popover = {f"sharing_dataset_{dataset_id}": True, "dataset_part": "rows"}
    at, _id = _opened(store, admin, "bob@example.org", "editor", "dataset", **popover)
    assert "Owner: Eve" in words(at) and "Team can read" in words(at)
    assert f"sharing_choice_dataset_{dataset_id}" not in [one.key for one in at.selectbox]


def test_a_list_shows_ones_own_on_request(store: Store, settings: Settings, admin: Actor) -> None:
    eve = member(store, settings, admin, "eve@example.org", "editor").actor(store)
    bob = member(store, settings, admin, "bob@example.org", "editor").actor(store)
    _dataset(store, eve, "hers", "team_read")
    _dataset(store, bob, "his", "team_read")
    at = _visit(team.claims("bob@example.org"), "dataset", dataset_part="rows")
    assert set(field(at, "dataset_open").options) == {"hers", "his"}
    at = _visit(team.claims("bob@example.org"), "dataset", dataset_part="rows", dataset_owner="mine")
    assert field(at, "dataset_open").options == ["his"]


def _sharing(store: Store, dataset_id: str) -> tuple[str, str]:
    with store.reading() as session:
        dataset = session.get_one(Dataset, dataset_id)
        return dataset.owner_id, dataset.sharing


def test_a_private_job_can_be_opened_to_single_people(store: Store, settings: Settings, admin: Actor) -> None:
    bob = member(store, settings, admin, "bob@example.org", "editor")
    eve = member(store, settings, admin, "eve@example.org", "editor")
    job_id = ledger_rows.put_job(store, name="secret", created_by=bob.person_id, sharing="private", status="succeeded")
    assert not _visit(team.claims("eve@example.org"), "training", training_part="jobs").dataframe
    popover = {f"sharing_job_{job_id}": True, "training_part": "jobs"}
    at = _visit(team.claims("bob@example.org"), "training", **popover)
    field(at, f"sharing_readers_{job_id}").select(eve.person_id).run()
    assert trouble(at) == ""
    at = _visit(team.claims("eve@example.org"), "training", training_part="jobs")
    assert list(at.dataframe[0].value["name"]) == ["secret"]


@pytest.mark.parametrize("sharing", ["private", "team_read"])
def test_evaluations_are_for_people_who_may_read_the_rows(
    store: Store, settings: Settings, admin: Actor, sharing: Sharing
) -> None:
    bob = member(store, settings, admin, "bob@example.org", "editor").actor(store)
    invitations.invite(store, admin, "eve@example.org", "editor")
    shared = {"owner_id": bob.id, "sharing": "team_read", "dataset_id": _dataset(store, bob, "rows", sharing)}
    job_id = ledger_rows.put_job(store, status="succeeded", **shared)
    shown = {"training_part": "jobs", "training_tab": "evaluation", "training_open": (job_id,)}
    at = _visit(team.claims("eve@example.org"), "training", **shown)
    assert ("is not shared with you" in words(at)) == (sharing == "private")


def test_a_job_has_the_name_of_the_person_who_started_it(store: Store, settings: Settings, admin: Actor) -> None:
    """Also after that person has left the team."""
    eve = member(store, settings, admin, "eve@example.org", "editor")
    job_id = ledger_rows.put_job(store, created_by=eve.person_id, status="succeeded")
    people.disable(store, admin, eve.person_id)
    at = _visit(team.claims(), "training", training_part="jobs", training_tab="settings", training_open=(job_id,))
    assert at.table[1].value.iloc[:, 0]["Started by"] == "Eve"


# --- audit log --------------------------------------------------------------------------------------------------------


def test_looking_at_pages_leaves_no_entry(store: Store, settings: Settings, admin: Actor) -> None:
    ledger_rows.put_job(store, created_by=admin.id, status="succeeded")
    ledger_rows.put_story(store, 1, actor=admin.id)
    _dataset(store, admin, "rows", "team_read")
    before = {line.number for line in audit.search(store, admin, AuditFilter())}
    for page in ("home", "dataset", "training", "cost", "story", "settings"):
        _visit(team.claims(), page)
    new = [line for line in audit.search(store, admin, AuditFilter()) if line.number not in before]
    assert {line.action for line in new} == {"people.sign_in.sign_in"}


def test_admins_find_in_the_audit_log_who_changed_what(store: Store, settings: Settings, admin: Actor) -> None:
    bob = member(store, settings, admin, "bob@example.org", "editor")
    _dataset(store, bob.actor(store), "his rows", "private")
    people.set_role(store, admin, bob.person_id, "viewer")
    at = _visit(team.claims(), "settings", settings_audit=True)
    field(at, "settings_audit_action").select("people.people.set_role").run()
    shown = at.dataframe[0].value
    assert list(shown["person"]) == ["Ann"] and '["editor", "viewer"]' in shown["changes"][0]
    field(at, "settings_audit_action").select("").run()
    field(at, "settings_audit_words").input("his rows").run()
    field(at, "settings_audit_person").select(bob.person_id).run()
    assert set(at.dataframe[0].value["action"]) == {"datasets.datasets.from_frame"}
    field(at, "settings_audit_words").input("nothing like this").run()
    assert "No entries." in words(at)


@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_the_audit_log_is_for_admins(store: Store, settings: Settings, admin: Actor, role: str) -> None:
    at, _id = _opened(store, admin, "bob@example.org", role, "settings", settings_audit=True)
    assert "settings_audit" not in [one.key for one in at.expander] and not at.dataframe


def test_admins_have_the_controls_that_local_mode_lacks(store: Store, settings: Settings, admin: Actor) -> None:
    """The counterpart of `test_local_mode.py`."""
    made = {
        "dataset": _dataset(store, admin, "rows", "private"),
        "job": ledger_rows.put_job(store, created_by=admin.id, status="succeeded"),
        "story": ledger_rows.put_story(store, 1, actor=admin.id),
    }
    controls = {
        "dataset": ("dataset_part", "rows", ("dataset_owner", f"sharing_dataset_{made['dataset']}")),
        "training": ("training_part", "jobs", ("training_owner", f"sharing_job_{made['job']}")),
        "story": ("story_part", "shelf", ("story_filter_owner", f"sharing_story_{made['story']}")),
        "settings": ("settings_audit", False, ("settings_audit", "settings_invite_email")),
    }
    for page, (key, value, expected) in controls.items():
        at = _visit(team.claims(), page, **{key: value})
        assert [control for control in expected if control not in at.session_state] == [], page
