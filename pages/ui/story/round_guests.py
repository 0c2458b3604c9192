"""A link for one blind vote of the story page: guests vote on this round by phone, and on nothing else."""

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

_PAGE = "story"


@dataclass
class RoundLinks:
    """This visitor's links by round, and the rounds whose vote they have ended."""

    links: dict[str, OpenedLink] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)


def menu(round_: Round, *, named: bool) -> None:
    """A popover with a link for this round; nothing for people who may not invite guests, or for a round with names.

    Args:
        round_: it has ended and can be voted on. If a story of it has no text, guests do not vote: their letters would
            not be those on this page.
        named: whether this visitor sees the names.
    """
    if not round_.blind or not all(story.text for story in round_.displayed) or not guest_panel.may_invite():
        return
    mine = _links()
    link = mine.links.get(round_.id)
    with st.popover(_("Let guests vote"), icon=":material/qr_code_2:", key="story_guests"):
        if link is not None:
            _open(link, round_, named=named)
        elif guest_panel.origin() is None:
            guest_panel.unreachable()
        else:
            st.caption(
                _("Guests see these stories without model names and vote on their phones. They need no account.")
            )
            guest_panel.options(_PAGE)
            st.button(
                _("Create link"), icon=":material/add_link:", type="primary", key="story_guests_open", on_click=_create,
                args=(round_,),
            )  # fmt: skip


def _open(link: OpenedLink, round_: Round, *, named: bool) -> None:
    """The code, the votes, and how to end the vote or the link."""
    guest_panel.qr_code(link, with_address=True)
    guest_panel.votes(link, round_, named=named)
    with st.container(horizontal=True):
        if round_.id not in _links().closed:
            st.button(
                _("End the vote"), icon=":material/how_to_vote:", key="story_guests_close", on_click=_close,
                args=(link, round_), help=_("Guests then see the names and the result."),
            )  # fmt: skip
        st.button(
            _("Revoke link"), icon=":material/link_off:", key="story_guests_revoke", on_click=_revoke,
            args=(link, round_),
        )  # fmt: skip


def _links() -> RoundLinks:
    return state.get_or_create("round_links", RoundLinks)


def _create(round_: Round) -> None:
    with cards.keep_errors():
        _links().links[round_.id] = guest_panel.open_link(_PAGE, round_)


def _close(link: OpenedLink, round_: Round) -> None:
    with cards.keep_errors():
        guest_votes.close_vote(cache.store(), current_actor(), link.id)
        _links().closed.add(round_.id)


def _revoke(link: OpenedLink, round_: Round) -> None:
    with cards.keep_errors():
        guest_links.end_link(cache.store(), current_actor(), link.id)
        _links().links.pop(round_.id, None)
        _links().closed.discard(round_.id)
