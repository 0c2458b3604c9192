"""Stories in the page's URL: a reload shows them again, even while they are being written."""

from __future__ import annotations

import streamlit as st

from core.stories import library
from core.stories.arena import Round
from core.stories.chain import Chain
from core.stories.library import StoryFilter
from core.stories.readers import Recent
from pages.ui import cached, state
from pages.ui.story.story_session import StoryRequest, StorySession, story_session

_IN_ADDRESS = "story"
_recent: Recent[Round | Chain] = Recent()


def follow() -> None:
    """Open the stories in the URL after a page load; then keep the URL up to date."""
    session = story_session()
    if not session.opened:
        session.opened = True
        _open(session, str(st.query_params.get(_IN_ADDRESS, "")))
    work = session.chain or session.round
    if work is not None:
        _recent.put(session.kept_as, work)
    state.keep_in_address(_IN_ADDRESS, session.kept_as)


def _open(session: StorySession, key: str) -> None:
    """Show the stories with this id; stories of other processes are read from the database."""
    if not key or session.kept_as:
        return
    work = _recent.get(key)
    if isinstance(work, Chain):
        session.chain = work
    elif work is not None:
        session.round = work
    elif (
        library.get(cached.store(), key) is not None or library.search(cached.store(), StoryFilter(round_id=key)).total
    ):
        session.earlier = key
    if (order := session.again()) is not None:
        _fill_in(order)


def _fill_in(order: StoryRequest) -> None:
    """Restore the form that these stories were requested with."""
    names = [f"{entry.provider}/{entry.request.model}" for entry in order.entries]
    first = order.entries[0]
    values = {
        "model": names[0],
        "compare": len(names) > 1,
        "others": names[1:],
        "blind": order.blind,
        "chain": order.chain,
        "mode": "columns" if first.column_values else "free",
        "prompt": "" if first.column_values else first.request.prompt,
        "temperature": first.request.temperature,
        "top_p": first.request.top_p,
        "max_tokens": first.request.max_tokens,
        **{f"column_{name}": value for name, value in (first.column_values or {}).items()},
    }
    for name, value in values.items():
        state.set_default(f"story_{name}", value)
