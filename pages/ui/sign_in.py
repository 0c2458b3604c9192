"""Determines who is using a page. Only this module does: pages pass the person on to core, which checks their role.

In team mode, Streamlit gives a tab the sign-in provider's claims once, when it connects, and keeps them until it
closes. So they only identify a row of `core.people`, which decides at every run whether the sign-in is still valid.
"""

from __future__ import annotations

import streamlit as st

from core.actor import LOCAL, Actor
from core.errors import RoleChanged, SignedOut
from core.message import msg
from core.people import sign_in as team
from core.people.identity import Identity
from core.people.sign_in import SignedIn
from pages.ui import cache, open_tabs, server_setup, state

_KEY = "signed_in"


def is_team() -> bool:
    """Whether people sign in here."""
    return cache.settings().mode == "team"


def current_actor() -> Actor:
    """The person who is using this page; in local mode, this machine's only user.

    Call it in the script run or in a callback, not in a background thread, where it is unknown whose page started it.

    Raises:
        SignedOut: this visitor is not signed in. `let_in` shows such a visitor the sign-in page instead of a page.
    """
    if not is_team():
        return LOCAL
    person = signed_in()
    if person is None:
        raise SignedOut(msg("You are not signed in. Nothing was changed."), msg("Reload the page, then sign in."))
    return person.actor(cache.store())


def signed_in() -> SignedIn | None:
    """The person signed in to this tab, with the role that they had at that time."""
    person: SignedIn | None = state.get(_KEY)
    return person


def let_in() -> SignedIn | None:
    """Check at the start of a run that this visitor may see pages. None if they have not signed in at the provider.

    Raises:
        NotAllowed: they are not admitted, or no longer are.
        NewerDatabase: a newer version of Fabula has migrated the database.
        StorageFull: the database, which is needed for the check, cannot be reached.
    """
    if not st.user.get("is_logged_in"):
        return None
    cache.check_version()
    store, settings, person, claims = cache.store(), cache.settings(), signed_in(), dict(st.user)
    client_id = server_setup.client_id(str(claims.get("provider", "")))
    identity = Identity.from_claims(claims, client_id, settings.trusted_email_issuers)
    if person is None or person.sign_in_id != identity.sign_in_id:
        person = team.sign_in(store, settings, identity, _origin())
    elif person.role != team.current_role(store, person.sign_in_id):
        state.set_value(_KEY, None)
        raise RoleChanged(
            msg("An admin has changed your role."),
            msg("Continue with the new one. What you have typed on this page is lost."),
        )
    state.set_value(_KEY, person)
    open_tabs.remember(person.sign_in_id, person.role)
    return person


def sign_out() -> None:
    """End this visitor's sign-in, in all tabs that share it. Call only from a callback.

    Raises:
        NotAllowed: it has ended already.
    """
    if (person := signed_in()) is not None:
        team.sign_out(cache.store(), current_actor(), person.sign_in_id)
    st.logout()


def _origin() -> str:
    """Address and browser, for the list of people."""
    browser = st.context.headers.get("User-Agent", "")
    return f"{st.context.ip_address or 'localhost'} · {browser}"
