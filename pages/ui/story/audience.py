"""The audience of a presentation: a QR code leads phones to the page of guests, whose votes are counted live.

While the audience votes, two models write under hidden names. One link serves the whole presentation: it always shows
the round that the presenter has finished last. Its token is in the presenter's URL, so that a reload keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import streamlit as st

from core.stories import guest_links, guest_votes
from core.stories.arena import Round
from core.stories.guest_links import OpenedLink
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.i18n import _
from pages.ui.sign_in import current_actor
from pages.ui.story import guest_panel

IN_ADDRESS = "audience"
_PAGE = "presenter"
_ON = "presenter_audience"
_PANES, _BLIND_PANES = "presenter_panes", 2


@dataclass
class Audience:
    """The link of one presentation.

    Attributes:
        shown: the round that guests see.
        named: rounds whose names are shown.
        opened: the URL has been read.
    """

    link: OpenedLink | None = None
    shown: str = ""
    named: set[str] = field(default_factory=set)
    opened: bool = False

    @property
    def on(self) -> bool:
        """Whether guests have a link."""
        return self.link is not None


def settings(audience: Audience, *, several_models: bool) -> None:
    """A popover with the switch, the QR code and the address; nothing for people who may not invite guests.

    Args:
        audience: of this presentation.
        several_models: whether there is a second model to vote on.
    """
    if not guest_panel.may_invite():
        return
    _follow_address(audience)
    with st.popover(_("Audience"), icon=":material/qr_code_2:", type="tertiary", key="presenter_audience_menu"):
        reachable = guest_panel.origin() is not None
        st.toggle(
            _("Let the audience vote"), key=_ON, on_change=_switch, args=(audience,), persist_state="session",
            help=_("Two models write under hidden names, and phones vote for the better story."),
            disabled=not audience.on and not (reachable and several_models),
        )  # fmt: skip
        if audience.link is not None:
            guest_panel.qr_code(audience.link, with_address=True)
        elif not reachable:
            guest_panel.unreachable()
        elif not several_models:
            st.caption(_("A vote needs a second model."))
        else:
            guest_panel.options(_PAGE)


def invitation(audience: Audience) -> None:
    """The QR code, beside the prompts or the stories."""
    if audience.link is not None:
        guest_panel.qr_code(audience.link)
        st.caption(_("Scan the code to vote for the better story."))


def votes(audience: Audience, round_: Round) -> None:
    """Below the QR code, when both stories have ended: the votes so far, and the button that ends the vote."""
    if audience.link is None or not round_.can_vote:
        return
    _show_round(audience, round_)
    named = round_.id in audience.named
    guest_panel.votes(audience.link, round_, named=named)
    if not named:
        st.button(
            _("End the vote and show the names"), icon=":material/visibility:", key="presenter_reveal",
            width="stretch", on_click=_reveal, args=(audience, round_),
        )  # fmt: skip


def _follow_address(audience: Audience) -> None:
    """After a reload: take up the link in the URL. Then keep the URL up to date."""
    if not audience.opened:
        audience.opened = True
        token = str(st.query_params.get(IN_ADDRESS, ""))
        if token and (link := guest_links.find_link(cache.store(), current_actor(), token)) is not None:
            audience.link, audience.shown = link, link.round_id or ""
            audience.named = {audience.shown} if link.closed else set()
        state.set_value(_ON, audience.on)
    state.keep_in_address(IN_ADDRESS, audience.link.token if audience.link else None)


def _show_round(audience: Audience, round_: Round) -> None:
    """Show a round to the guests, once."""
    if audience.link is not None and audience.shown != round_.id:
        with cards.show_errors():
            guest_votes.show_round(
                cache.store(), current_actor(), audience.link.id, round_.id, guest_panel.shown(round_),
                closed=round_.id in audience.named,
            )  # fmt: skip
            audience.shown = round_.id


def _switch(audience: Audience) -> None:
    with cards.keep_errors():
        link, audience.link, audience.shown = audience.link, None, ""
        if link is not None:
            guest_links.end_link(cache.store(), current_actor(), link.id)
        if state.get(_ON):
            state.set_value(_ON, False)  # stays so if the link cannot be created
            audience.link = guest_panel.open_link(_PAGE)
            state.set_value(_ON, True)
            state.set_value(_PANES, _BLIND_PANES)


def _reveal(audience: Audience, round_: Round) -> None:
    with cards.keep_errors():
        if audience.link is not None:
            guest_votes.close_vote(cache.store(), current_actor(), audience.link.id)
        audience.named.add(round_.id)
