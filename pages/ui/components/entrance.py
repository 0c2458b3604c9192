"""The sign-in page in team mode, and the signed-in person at the top of every other page."""

from __future__ import annotations

import streamlit as st

from core.actor import Role
from core.errors import FabulaError, NewerDatabase, NotAllowed, RoleChanged
from core.people.sign_in import SignedIn
from core.team_mode import sign_in_providers
from pages.ui import cache, server_setup, sign_in
from pages.ui.components import cards
from pages.ui.i18n import _, as_markdown, mark, plain

_ROLES: dict[Role, str] = {"viewer": mark("viewer"), "editor": mark("editor"), "admin": mark("admin")}


def role_name(role: Role) -> str:
    """A role in the visitor's language."""
    return _(_ROLES[role])


class Entrance:
    """Whether this run's visitor may see pages. Determined once, when the run begins.

    Attributes:
        open: True in local mode, or for a person who is admitted.
        person: the signed-in person; None in local mode, or without a sign-in.
        problem: why the visitor is not admitted; also in local mode, if a newer version has migrated the database.
    """

    def __init__(self) -> None:
        self.person: SignedIn | None = None
        self.problem: FabulaError | None = None
        try:
            if sign_in.is_team():
                self.person = sign_in.let_in()
            else:
                cache.check_version()
        except NewerDatabase as exc:
            self.problem = exc
        except FabulaError as exc:
            if sign_in.is_team():  # in local mode, each page says it where it needs the database
                self.problem = exc
        self.open = self.person is not None or not (sign_in.is_team() or self.problem)

    def draw(self) -> None:
        """Render the sign-in page."""
        with st.container(horizontal_alignment="center"), st.container(width=480, border=True):
            if self.problem is not None and not isinstance(self.problem, NotAllowed):
                cards.error_card(self.problem)
                return
            st.subheader(_("Sign in"), anchor=False)
            if self.problem is not None:
                st.warning(
                    f"{as_markdown(self.problem.what)}\n\n{as_markdown(self.problem.next_step)}",
                    icon=":material/lock:",
                )
            else:
                st.markdown(_("This studio is for the members of a team."))
            if isinstance(self.problem, RoleChanged):  # the sign-in itself is valid; the next run uses the new role
                st.button(_("Continue"), type="primary", key="sign_in_continue")
                return
            for name in sign_in_providers(server_setup.auth_section()):
                st.button(
                    _("Sign in") if name == "default" else _("Sign in with {name}").format(name=plain(name.title())),
                    type="primary", icon=":material/login:", key=f"sign_in_{name}", width="stretch",
                    on_click=st.login, args=() if name == "default" else (name,),
                )  # fmt: skip

    def who_am_i(self) -> None:
        """Render the signed-in person's name; a click on it opens their address, role and sign-out button."""
        if self.person is None:
            return
        with st.popover(plain(self.person.name), icon=":material/account_circle:", key="sign_in_menu"):
            st.markdown(plain(self.person.email))
            st.caption(_("Your role: {role}").format(role=role_name(self.person.role)))
            st.button(_("Sign out"), icon=":material/logout:", key="sign_in_out", on_click=_sign_out)


def _sign_out() -> None:
    with cards.keep_errors():
        sign_in.sign_out()
