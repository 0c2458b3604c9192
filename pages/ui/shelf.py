"""The shelf: stories that were told before, newest first."""

from __future__ import annotations

import streamlit as st

from core.db.tables import utcnow
from core.story import stream
from pages.ui import cached, cards, state, views
from pages.ui.lang import _, ago, code, n_

_SHOWN = 20


def show() -> None:
    """The whole part."""
    found = stream.recent(cached.store(), _SHOWN)
    if not found:
        with cards.empty(
            _("No story has been told yet. Write one, and it stays here."), icon=":material/auto_stories:"
        ):
            st.button(
                _("Write a story"), type="primary", key="story_first", on_click=state.put, args=("story_part", "write")
            )
        return
    now = utcnow()
    for story in found:
        with st.container(border=True, width=760):
            st.text(story.text.strip())
            views.facts(
                (
                    code(story.model),
                    n_("{n} token", "{n} tokens", story.tokens) if story.tokens else "",
                    "" if story.finish_reason else _("partial"),
                    ago(story.at, now),
                )
            )
            with st.expander(_("Prompt"), type="compact"):
                st.text(story.prompt)
