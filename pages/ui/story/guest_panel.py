"""What the creator of a link sees of it: the QR code, the address, and the votes as they arrive."""

from __future__ import annotations

from datetime import timedelta

import streamlit as st

from core.errors import FabulaError
from core.stories import guest_links, guest_votes
from core.stories.arena import LETTERS, Round
from core.stories.guest_links import OpenedLink
from core.stories.guest_votes import VoteCounts
from pages.ui import cache, state
from pages.ui.components import cards, fields
from pages.ui.i18n import _, code, n_, percent
from pages.ui.sign_in import current_actor
from pages.ui.story import guest_address

_HOURS = (1, 3, 24)
_SUGGESTED_PORT = 8600


def may_invite() -> bool:
    """Whether this visitor may create links."""
    return current_actor().has("editor")


def origin() -> str | None:
    """Where phones reach this studio; None if they cannot."""
    return guest_address.origin(cache.settings(), st.context.url or "")


def unreachable() -> None:
    """Say that phones cannot reach this studio, and what to do."""
    if cache.settings().guest_port is None:
        sentence = _(
            "Phones can't reach Fabula, because it listens on this computer only. Set `FABULA_GUEST_PORT={port}` and "
            "restart Fabula. Phones in the same network can then open the voting page, and nothing else."
        ).format(port=_SUGGESTED_PORT)
    else:
        sentence = _(
            "This computer has no address in a network. Connect it to the network of the phones, or set "
            "`FABULA_GUEST_URL` to the address under which they reach it."
        )
    st.info(sentence, icon=":material/wifi_off:")


def options(page: str) -> None:
    """Fields for a new link: how long it is valid, and for how many guests."""
    with st.container(horizontal=True):
        st.selectbox(
            _("Valid for"), _HOURS, index=1, key=f"{page}_link_hours", width=140, persist_state="session",
            format_func=lambda hours: n_("{n} hour", "{n} hours", hours),
        )  # fmt: skip
        fields.number_field(
            _("Maximum guests"), f"{page}_link_guests", 1, guest_links.MOST_GUESTS, guest_links.MAX_GUESTS, width=140,
            persist_state="session",
        )  # fmt: skip


def open_link(page: str, round_: Round | None = None) -> OpenedLink:
    """Create a link with the values of `options`. Call it in a callback.

    Raises:
        FabulaError: it cannot be created.
    """
    hours, guests = state.get(f"{page}_link_hours"), state.get(f"{page}_link_guests")
    return guest_links.open_link(
        cache.store(), current_actor(), round_.id if round_ else None, shown(round_) if round_ else (),
        valid_for=timedelta(hours=hours or _HOURS[1]), max_guests=guests or guest_links.MAX_GUESTS,
    )  # fmt: skip


def shown(round_: Round) -> list[str]:
    """The stories of a round, in the order shown."""
    return [story.id for story in round_.displayed]


def qr_code(link: OpenedLink, *, with_address: bool = False) -> None:
    """The picture to scan, and the address for those who cannot scan it."""
    place = origin()
    if place is None:
        unreachable()
        return
    address = guest_address.address(place, link.token)
    st.image(guest_address.qr_code(address), width="stretch", alt=_("QR code of the page for the audience"))
    if with_address:
        st.caption(code(address))


def votes(link: OpenedLink, round_: Round, *, named: bool) -> None:
    """The votes so far, drawn again every second. `named`: with the names of the models."""
    st.fragment(run_every=cache.POLL_S)(_draw_votes)(link, round_, named=named)


def _draw_votes(link: OpenedLink, round_: Round, *, named: bool) -> None:
    try:
        tally = guest_votes.tally(cache.store(), current_actor(), link.id)
    except FabulaError as error:
        cards.hint(error)
        return
    if tally.expired:
        st.caption(
            f":material/link_off: {_('The link has expired or was revoked. Create another one to continue the vote.')}"
        )
    _bars(tally, round_, named=named)
    if tally.none:
        st.caption(n_("{n} vote for none of them", "{n} votes for none of them", tally.none))
    st.markdown(n_("**{n}** vote", "**{n}** votes", tally.total))


def _bars(tally: VoteCounts, round_: Round, *, named: bool) -> None:
    for place, (story, count) in enumerate(zip(round_.displayed, tally.votes, strict=False)):
        name = [f"**{LETTERS[place]}**", *([code(story.facts.model)] if named else [])]
        st.progress(tally.share(place), text=" · ".join([*name, percent(tally.share(place), 0), str(count)]))
