"""`python -m core.admin people`: what an operator changes counts for the very next action."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.admin.__main__ import main
from core.db.store import Store
from core.errors import SignedOut
from core.people import people
from core.settings import Settings
from tests.support import team
from tests.support.installations import set_revision


@pytest.fixture
def settings(home: object) -> Settings:
    return Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(home)})


def run(settings: Settings, *arguments: str) -> int:
    return main(["people", *arguments], {"FABULA_HOME": str(settings.home)})


def test_someone_is_invited_signs_in_and_gets_another_role(
    store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings, "invite", "Bob@example.org", "--role", "editor") == 0
    assert run(settings, "list") == 0
    assert "bob@example.org" in (told := capsys.readouterr().out) and "editor  invited on" in told
    bob = team.arrive(store, settings, "bob@example.org")
    assert run(settings, "role", "BOB@example.org", "viewer") == 0
    assert bob.actor(store).current().role == "viewer"
    assert run(settings, "role", bob.person_id, "admin") == 0
    assert [one.email for one in people.everyone(store, bob.actor(store))] == ["bob@example.org"]
    assert run(settings, "list") == 0
    assert "admin   1 open sign-ins" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["disable", "sign-out"])
def test_open_tabs_are_signed_out(store: Store, settings: Settings, command: str) -> None:
    admin = team.arrive(store, settings).actor(store)
    bob = team.member(store, settings, admin, "bob@example.org", "editor")
    assert run(settings, command, "bob@example.org") == 0
    with pytest.raises(SignedOut):
        bob.actor(store).current()


def test_a_disabled_person_is_let_in_again(store: Store, settings: Settings) -> None:
    admin = team.arrive(store, settings).actor(store)
    team.member(store, settings, admin, "bob@example.org", "editor")
    assert [run(settings, command, "bob@example.org") for command in ("disable", "enable")] == [0, 0]
    assert team.arrive(store, settings, "bob@example.org").role == "editor"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("disable", "nobody@example.com"), "There is no person nobody@example.com. Nothing was changed."),
        (("disable", team.ADMIN_EMAIL), "This is the only admin. Nothing was changed."),
        (("role", "twin@corp.example", "admin"), "is more than one person. Nothing was changed."),
        (("invite", "not an address"), "is not an e-mail address"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(
    store: Store, settings: Settings, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    team.arrive(store, settings)
    for issuer in ("https://one.example", "https://two.example"):
        team.arrive(store, settings, "twin@corp.example", iss=issuer)
    assert run(settings, *arguments) == 1
    assert says in capsys.readouterr().err


def test_a_database_of_another_version_is_left_alone(
    store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_revision(store, "0001_initial")
    assert run(settings, "invite", "bob@example.org") == 1
    assert run(replace(settings, home=settings.home / "empty"), "list") == 1
    assert capsys.readouterr().err.count("core.admin migrate") == 2
