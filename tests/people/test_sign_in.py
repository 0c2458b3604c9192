"""Signing in: who is let in, as whom, and what ends a sign-in."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from core.actor import Actor
from core.db.store import Store
from core.db.tables import SignInAccount, utcnow
from core.errors import SignedOut, SignInRefused
from core.people import invitations, people
from core.people.identity import Identity
from core.people.sign_in import SignedIn, current_role, sign_in, sign_out
from core.settings import Settings
from tests.support.team import ADMIN_EMAIL, TEAM_VARIABLES, arrive, claims, identity, member


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"email_verified": False}, "not verified"),
        ({"email_verified": None}, "does not say whether"),
        ({"email_verified": "true"}, "not verified"),
        ({"email": None}, "did not identify you"),
        ({"email": "ann"}, "did not identify you"),
        ({"email": "ann@evil.example, ann@example.com"}, "did not identify you"),
        ({"email": ["ann@example.com"]}, "did not identify you"),
        ({"sub": None}, "did not identify you"),
        ({"sub": ""}, "did not identify you"),
        ({"sub": "s" * 256}, "did not identify you"),
        ({"iss": None}, "did not identify you"),
    ],
)
def test_claims_that_identify_nobody_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SignInRefused, match=told) as caught:
        Identity.from_claims(claims(**changes))
    assert caught.value.next_step


_ENTRA = "https://login.microsoftonline.com/tenant/v2.0"


@pytest.mark.parametrize(
    ("issuer", "said", "verified"),
    [
        (_ENTRA, None, False),  # trusted by the setting, and the row says that the provider did not
        (_ENTRA, True, True),
        (_ENTRA, False, None),
        (f"{_ENTRA}/", None, None),
        ("https://login.microsoftonline.com/other/v2.0", None, None),
        ("https://LOGIN.microsoftonline.com/tenant/v2.0", None, None),
    ],
)
def test_the_addresses_of_a_trusted_issuer_count_without_email_verified(
    store: Store, issuer: str, said: bool | None, verified: bool | None
) -> None:
    said_of_bob = claims("bob@corp.example", iss=issuer, email_verified=said)
    if verified is None:
        with pytest.raises(SignInRefused):
            Identity.from_claims(said_of_bob, trusted_issuers=[_ENTRA])
        return
    found = Identity.from_claims(said_of_bob, trusted_issuers=[_ENTRA])
    assert found.email_verified is verified
    variables = {**TEAM_VARIABLES, "FABULA_TRUSTED_EMAIL_ISSUERS": _ENTRA}
    sign_in(store, Settings.from_env(variables), found, "x")
    with store.reading() as session:
        assert [one.email_verified for one in session.scalars(select(SignInAccount))] == [verified]


@pytest.mark.parametrize(
    ("audience", "accepted"),
    [("fabula", True), (["fabula"], True), (["other", "fabula"], True), ("other", False), ([], False), (None, False)],
)
def test_a_token_for_another_application_is_refused(audience: object, accepted: bool) -> None:
    said = claims(aud=audience)
    if accepted:
        assert Identity.from_claims(said, "fabula").email == ADMIN_EMAIL
    else:
        with pytest.raises(SignInRefused, match="another application"):
            Identity.from_claims(said, "fabula")


def test_the_first_admin_is_named_by_a_setting(store: Store, settings: Settings) -> None:
    assert arrive(store, settings, ADMIN_EMAIL.upper()).role == "admin"


@pytest.mark.parametrize(
    ("email", "role"),
    [
        ("bob@corp.example", "viewer"),
        ("bob@PARTNER.example", "viewer"),
        ("bob@sub.corp.example", None),
        ("bob@notcorp.example", None),
        ("bob@corp.example.evil.example", None),
        ("ann@example.com.evil.example", None),
        ("bob@\u212a.example", None),  # the Kelvin sign: k in lower case
    ],
)
def test_who_comes_in_without_an_invitation(store: Store, settings: Settings, email: str, role: str | None) -> None:
    if role is not None:
        assert arrive(store, settings, email).role == role
        return
    with pytest.raises(SignInRefused, match="not invited"):
        arrive(store, settings, email)


def test_an_invitation_lets_one_account_in(store: Store, settings: Settings, admin: Actor) -> None:
    invitations.invite(store, admin, " Bob@Example.org ", "editor")
    assert arrive(store, settings, "bob@example.org").role == "editor"
    assert invitations.open_invitations(store, admin) == []
    with pytest.raises(SignInRefused, match="not invited"):
        arrive(store, settings, "bob@example.org", iss="https://other.example.com")


def test_the_same_address_at_two_issuers_is_two_people(store: Store, settings: Settings, admin: Actor) -> None:
    bob = arrive(store, settings, "bob@corp.example")
    other = arrive(store, settings, "bob@corp.example", iss="https://other.example.com")
    assert bob.person_id != other.person_id
    people.set_role(store, admin, bob.person_id, "editor")
    assert arrive(store, settings, "bob@corp.example", iss="https://other.example.com").role == "viewer"


def test_the_admins_address_at_a_second_issuer_is_no_admin(store: Store, settings: Settings, admin: Actor) -> None:
    with pytest.raises(SignInRefused, match="not invited"):
        arrive(store, settings, ADMIN_EMAIL, iss="https://other.example.com")


def test_invited_at_both_providers_by_name_two_accounts_are_one_person(
    store: Store, settings: Settings, admin: Actor
) -> None:
    for provider in ("google", "okta"):
        invitations.invite(store, admin, "bob@example.org", "editor", provider)
    one = arrive(store, settings, "bob@example.org", provider="google")
    with pytest.raises(SignInRefused, match="not invited"):
        arrive(store, settings, "bob@example.org", provider="github", iss="https://github.example.com")
    two = arrive(store, settings, "bob@example.org", provider="okta", iss="https://okta.example.com")
    assert one.person_id == two.person_id
    [_ann, bob] = people.everyone(store, admin)
    assert bob.issuers == ("https://id.example.com", "https://okta.example.com") and bob.open_sign_ins == 2


def test_two_tabs_of_one_browser_share_a_sign_in(store: Store, settings: Settings, admin: Actor) -> None:
    invitations.invite(store, admin, "bob@example.org", "editor")
    same, found, together = identity("bob@example.org"), list[SignedIn](), threading.Barrier(4)

    def open_tab() -> None:
        together.wait()
        found.append(sign_in(store, settings, same, "a tab"))

    tabs = [threading.Thread(target=open_tab) for _ in range(4)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(found) == 4 and len(set(found)) == 1
    sign_out(store, found[0].actor(store), found[0].sign_in_id)
    with pytest.raises(SignInRefused, match="signed out"):
        sign_in(store, settings, same, "the same cookie, later")
    assert arrive(store, settings, "bob@example.org").person_id == found[0].person_id


def test_nobody_ends_the_sign_in_of_someone_else(store: Store, settings: Settings, admin: Actor) -> None:
    ann, bob = arrive(store, settings), member(store, settings, admin, "bob@example.org", "editor")
    sign_out(store, bob.actor(store), ann.sign_in_id)
    assert current_role(store, ann.sign_in_id) == "admin"


@pytest.mark.parametrize(("minutes", "refused"), [(-60, True), (-1, False), (5, False)])
def test_a_cookie_from_before_signing_out_everywhere_is_refused_when_it_comes_late(
    store: Store, settings: Settings, admin: Actor, minutes: int, refused: bool
) -> None:
    """The provider's clock may differ by two minutes."""
    bob = member(store, settings, admin, "bob@example.org", "editor")
    people.sign_out_everywhere(store, admin, bob.person_id)
    late = identity("bob@example.org", iat=int((utcnow() + timedelta(minutes=minutes)).timestamp()))
    if refused:
        with pytest.raises(SignInRefused, match="signed out"):
            sign_in(store, settings, late, "x")
    else:
        assert sign_in(store, settings, late, "x").person_id == bob.person_id


def test_a_disabled_person_is_refused_with_every_cookie(store: Store, settings: Settings, admin: Actor) -> None:
    bob = member(store, settings, admin, "bob@example.org", "editor")
    people.disable(store, admin, bob.person_id)
    with pytest.raises(SignedOut):
        current_role(store, bob.sign_in_id)
    with pytest.raises(SignInRefused, match="disabled"):
        arrive(store, settings, "bob@example.org")
    people.enable(store, admin, bob.person_id)
    assert arrive(store, settings, "bob@example.org").role == "editor"
    with pytest.raises(SignedOut):  # the old tab stays closed
        current_role(store, bob.sign_in_id)
