"""Story: write with one or more models and read the text as it arrives; the library; the votes."""

from __future__ import annotations

import streamlit as st

from pages.ui import state
from pages.ui.components import budget_notes, cards, story_session, views
from pages.ui.i18n import _
from pages.ui.story import arena_vote, composer, library, presenter, story_view

with story_session.present(), cards.show_errors():
    if presenter.on():
        presenter.show()
    else:
        with st.container(horizontal=True, horizontal_alignment="distribute"):
            part = views.switch(
                "story_part", _("Part"), {"write": _("Write"), "shelf": _("Earlier stories"), "votes": _("Votes")}
            )
            presenter.button()
        with views.one_of(("write", "shelf", "votes"), part):
            if part == "write":
                budget_notes.show()
                several = bool(state.get("story_compare"))
                left, right = (st.container(), st.container()) if several else st.columns([2, 3], gap="medium")
                with left:
                    shape = composer.form(story_view.button)
                with right:
                    story_view.page(shape)
            elif part == "shelf":
                library.show()
            else:
                arena_vote.tally()
