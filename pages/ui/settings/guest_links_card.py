"""Links for guests that are valid now, with a button to revoke each: one's own; for admins, everyone's."""

from __future__ import annotations

import streamlit as st

from core.db.tables import utcnow
from core.stories import guest_links
from core.stories.guest_links import GuestLinkView
from pages.ui import cache
from pages.ui.components import cards
from pages.ui.i18n import _, ago, clock, number, plain
from pages.ui.sign_in import current_actor


def card() -> None:
    """The card; nothing without links, or for people who may not end one. Without the database, the cards below it are
    still shown."""
    with cards.show_errors():
        actor = current_actor()
        links = guest_links.valid_links(cache.store(), actor) if actor.has("editor") else []
        if links:
            _list(links)


def _list(links: list[GuestLinkView]) -> None:
    with st.container(border=True, key="settings_guest_links"):
        st.subheader(_("Guest links"), anchor=False)
        for one in links:
            with st.container(border=True, key=f"settings_guest_link_{one.id}"):
                _link(one)
        st.caption(_("Guests need no account. Until a link expires, they can read its stories and vote."))


def _link(one: GuestLinkView) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(gap=None, width="content"):
            st.markdown(f"**{_('Presentation') if one.stage else _('One blind vote')}**")
            st.caption(" · ".join(_facts(one)))
        st.button(
            _("Revoke"), icon=":material/link_off:", key=f"settings_guest_revoke_{one.id}", on_click=cards.act,
            args=(guest_links.end_link, one.id),
        )  # fmt: skip


def _facts(one: GuestLinkView) -> list[str]:
    now = utcnow()
    return [
        *([plain(one.creator)] if one.creator else []),
        ago(one.created_at, now),
        _("expires at {time}").format(time=clock(one.expires_at, now)),
        _("{n} of at most {limit} guests have voted").format(n=number(one.guests), limit=number(one.max_guests)),
    ]
