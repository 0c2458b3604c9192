"""The library: all stories, to search, rate, edit, tag, export and train on."""

from __future__ import annotations

import streamlit as st

from core.stories import library
from core.stories.library import MAX_STARS, StoryFilter
from pages.ui import cached, cards, state
from pages.ui.lang import _, mark, n_
from pages.ui.limited_fields import text_field
from pages.ui.story import story_card, story_exports

_SHOWN = 10
_LONGEST_SEARCH = 200  # characters
_STATES = {
    "": mark("All"),
    "liked": mark("Liked"),
    "disliked": mark("Disliked"),
    "edited": mark("Edited"),
    "partial": mark("Partial"),
}


def show() -> None:
    """Draw the whole part."""
    store = cached.store()
    where = _filters()
    narrowed = where != StoryFilter()
    total = library.search(store, where, limit=0).total
    if not total and not narrowed:
        story_card.bring_back()
        with cards.empty(_("No stories yet. Write one and it appears here."), icon=":material/auto_stories:"):
            st.button(
                _("Write a story"),
                type="primary",
                key="story_first",
                on_click=state.set_value,
                args=("story_part", "write"),
            )
        return
    pages = max(1, -(-total // _SHOWN))
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(n_("{n} story", "{n} stories", total))
        story_card.bring_back()
        story_exports.menu(where, total)
    if not total:
        st.info(_("No stories match. Remove a filter."), icon=":material/filter_alt_off:")
        return
    number = _page(pages)
    for story in library.search(store, where, offset=(number - 1) * _SHOWN, limit=_SHOWN).stories:
        story_card.show(story)
    story_card.editor()


def _page(pages: int) -> int:
    if pages == 1:
        return 1
    if int(state.get("story_page") or 1) > pages:
        state.set_value("story_page", 1)
    return int(st.pagination(pages, key="story_page"))


def _filters() -> StoryFilter:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = text_field(
            _("Search"), "story_search", _LONGEST_SEARCH, placeholder=_("Words of the story, its prompt or its tags"),
            icon=":material/search:", label_visibility="collapsed", persist_state="session",
        )  # fmt: skip
        with st.popover(_("Filter"), icon=":material/filter_alt:"):
            model = st.selectbox(
                _("Model"), ["", *library.models(cached.store())], key="story_filter_model",
                format_func=lambda name: name or _("All"), persist_state="session",
            )  # fmt: skip
            stars = st.selectbox(
                _("Stars"), list(range(MAX_STARS + 1)), key="story_filter_stars",
                format_func=lambda n: _("All") if n == 0 else _("{stars} and more").format(stars="★" * n),
                persist_state="session",
            )  # fmt: skip
            kind = st.selectbox(
                _("State"), list(_STATES), key="story_filter_state", format_func=lambda name: _(_STATES[name]),
                persist_state="session",
            )  # fmt: skip
            tag = st.selectbox(
                _("Tag"), ["", *library.tags(cached.store())], key="story_filter_tag",
                format_func=lambda name: name or _("All"), persist_state="session",
            )  # fmt: skip
    return StoryFilter(
        words=str(words or ""),
        model=model or None,
        liked={"liked": True, "disliked": False}.get(str(kind)),
        stars=int(stars) or None,
        tag=tag or None,
        edited=True if kind == "edited" else None,
        partial=True if kind == "partial" else None,
    )
