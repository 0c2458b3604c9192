"""A team's people, for admins: invite, change roles, disable, sign out."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import streamlit as st

from core.actor import ROLES, Actor
from core.db.store import Store
from core.db.tables import utcnow
from core.errors import NotAllowed
from core.people import invitations, people
from core.people.invitations import InvitationView
from core.people.people import PersonView
from core.team_mode import sign_in_providers
from pages.ui import cache, server_setup, state
from pages.ui.components import cards
from pages.ui.components.entrance import role_name
from pages.ui.i18n import _, ago, code, n_, plain
from pages.ui.sign_in import current_actor, is_team

_EMAIL, _ROLE, _PROVIDER = "settings_invite_email", "settings_invite_role", "settings_invite_provider"
_ANY = ""


def card() -> None:
    """Render the card; nothing in local mode or for people who are not admins."""
    if not is_team() or not current_actor().has("admin"):
        return
    store, actor = cache.store(), current_actor()
    try:
        members, invited = people.everyone(store, actor), invitations.open_invitations(store, actor)
    except NotAllowed as exc:  # no longer an admin since this run began
        cards.error_card(exc)
        return
    with st.container(border=True, key="settings_people"):
        st.subheader(_("People"), anchor=False)
        for one in members:
            with st.container(border=True, key=f"settings_person_{one.id}"):
                _person(one, actor)
        for invitation in invited:
            with st.container(border=True, key=f"settings_invitation_{invitation.id}"):
                _invitation(invitation)
        _invite_form()


def _person(one: PersonView, actor: Actor) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(gap=None, width="stretch"):  # its facts wrap, so that the buttons stay beside them
            badges = [_(":orange-badge[:material/block: disabled]")] if one.disabled else []
            badges += [_(":gray-badge[you]")] if one.id == actor.id else []
            st.markdown(" ".join([f"**{plain(one.name)}**", *badges]))
            st.caption(_facts(one))
        with st.container(horizontal=True, gap="small", width="content", vertical_alignment="center"):
            key = f"settings_role_{one.id}"
            state.set_value(key, one.role)
            st.selectbox(
                _("Role"), ROLES, format_func=role_name, key=key, label_visibility="collapsed", width=120,
                on_change=_set_role, args=(one, key),
            )  # fmt: skip
            if one.open_sign_ins:
                _button(_("Sign out"), ":material/logout:", "settings_sign_out", one, people.sign_out_everywhere)
            if one.disabled:
                _button(_("Enable"), ":material/check:", "settings_enable", one, people.enable)
            else:
                _button(_("Disable"), ":material/block:", "settings_disable", one, people.disable)


def _button(label: str, icon: str, key: str, one: PersonView, action: Callable[[Store, Actor, str], object]) -> None:
    st.button(label, icon=icon, key=f"{key}_{one.id}", on_click=cards.act, args=(action, one.id))


def _facts(one: PersonView) -> str:
    accounts = ", ".join(code(urlsplit(issuer).hostname or issuer) for issuer in one.issuers)
    facts = [plain(one.email), accounts]
    if one.last_sign_in is not None:
        facts.append(_("last sign-in {time}").format(time=ago(one.last_sign_in, utcnow())))
        facts.append(plain(one.last_origin.partition(" · ")[0]))
    if one.open_sign_ins:
        facts.append(n_("signed in on {n} browser", "signed in on {n} browsers", one.open_sign_ins))
    return " · ".join(facts)


def _invitation(one: InvitationView) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(gap=None, width="content"):
            st.markdown(f"{plain(one.email)} {_(':blue-badge[:material/mail: invited]')}")
            facts = [role_name(one.role), ago(one.created_at, utcnow())]
            if one.provider:
                facts.append(_("only with {provider}").format(provider=code(one.provider)))
            st.caption(" · ".join(facts))
        st.button(
            _("Withdraw"), icon=":material/close:", key=f"settings_withdraw_{one.id}",
            on_click=cards.act, args=(invitations.withdraw, one.id),
        )  # fmt: skip


def _invite_form() -> None:
    providers = sign_in_providers(server_setup.auth_section())
    with st.form("settings_invite", border=False, enter_to_submit=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.text_input(_("E-mail address"), key=_EMAIL)
            st.selectbox(_("Role"), ROLES, format_func=role_name, key=_ROLE, width=140)
            if len(providers) > 1:
                st.selectbox(
                    _("Sign-in provider"), [_ANY, *providers], key=_PROVIDER, width=180,
                    format_func=lambda name: name or _("Any"),
                    help=_("An address that is invited for two providers by name is one person with two accounts."),
                )  # fmt: skip
            st.form_submit_button(
                _("Invite"), icon=":material/person_add:", key="settings_invite_send", on_click=_invite
            )
        st.caption(_("Fabula sends no e-mail. Tell the person to sign in here with this address."))


def _invite() -> None:
    email, role = str(state.get(_EMAIL) or ""), state.get(_ROLE, "viewer")
    with cards.keep_errors():
        invitations.invite(cache.store(), current_actor(), email, role, str(state.get(_PROVIDER) or _ANY))
        state.set_value(_EMAIL, "")


def _set_role(one: PersonView, key: str) -> None:
    cards.act(people.set_role, one.id, state.get(key))
