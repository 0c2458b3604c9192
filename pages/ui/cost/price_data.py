"""The date of the prices, and a button to fetch newer ones. The packaged prices need no network."""

from __future__ import annotations

import streamlit as st

from core.actor import LOCAL
from core.errors import FabulaError
from core.pricing import bundled_prices
from pages.ui import cache, cards, state
from pages.ui.cost import cached_cost
from pages.ui.lang import _, ago, as_markdown, n_, sentences


def show(stale: int) -> None:
    """One line with its button. `stale`: how many of the shown rows were last checked over three months ago."""
    now = bundled_prices.current(cache.settings().home)
    if now.fetched is None:
        line = _("Bundled price list (no network used): base models from {source}, {day}.").format(
            source=now.source, day=now.day
        )
    else:
        line = _("Base model prices from {source}, fetched {time}.").format(
            source=now.source, time=ago(now.fetched, cached_cost.now())
        )
    if stale:
        old = n_(
            "{n} row was last checked over three months ago.",
            "{n} rows were last checked over three months ago.",
            stale,
        )
        line = sentences(line, old)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f":material/info: {line}", width="content")
        pressed = st.button(
            _("Fetch newer prices"), icon=":material/sync:", type="tertiary", key="cost_fetch",
            help=_("Downloads the price list once. Your own prices and Fabula's price file still override it."),
        )  # fmt: skip
        if now.fetched is not None:
            st.button(
                _("Use the bundled prices"), icon=":material/undo:", type="tertiary", key="cost_packaged",
                on_click=_forget,
            )  # fmt: skip
    if pressed:
        _fetch()


def _fetch() -> None:
    try:
        with st.spinner(_("Fetching prices")):
            bundled_prices.fetch(LOCAL, cached_cost.now(), cache.settings().home)
    except FabulaError as problem:
        st.warning(sentences(as_markdown(problem.what), as_markdown(problem.next_step)), icon=":material/cloud_off:")
        return
    cached_cost.forget()
    state.notify(":material/sync:", _("Now using the newest prices."))
    st.rerun()


def _forget() -> None:
    with cards.keep_errors():
        bundled_prices.use_packaged(LOCAL, cache.settings().home)
        state.notify(":material/undo:", _("Now using the bundled prices."))
    cached_cost.forget()
