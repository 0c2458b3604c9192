"""The library: all stories, to search, rate, edit, tag, export and train on."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.db.tables import utcnow
from core.ownership import Thing
from core.stories import library, stream
from core.stories.arena import Round
from core.stories.library import MAX_STARS, SavedStory, StoryFilter
from pages.ui import cache, state, visible
from pages.ui.components import cards, models, sharing, shutdown_notes, story_text, views
from pages.ui.components.fields import fits, text_field
from pages.ui.components.money import cost_fact
from pages.ui.components.story_session import LEAVE_S, story_session
from pages.ui.i18n import _, ago, code, duration, mark, n_, number, plain
from pages.ui.sign_in import current_actor
from pages.ui.story import story_actions

_SHOWN = 10
_LONGEST_SEARCH = 200  # characters
_STATES = {
    "": mark("All"),
    "liked": mark("Liked"),
    "disliked": mark("Disliked"),
    "edited": mark("Edited"),
    "partial": mark("Partial"),
}

_LONG = 700  # characters shown initially
_SETTINGS = {  # parameter of the request → its label
    "endpoint": mark("API format"),
    "system": mark("System text"),
    "temperature": mark("Temperature"),
    "top_p": mark("Top p"),
    "max_tokens": mark("Max tokens per story"),
    "stop": mark("Stop at"),
    "seed": mark("Seed"),
}
_ENDPOINTS = {"chat": mark("Chat"), "completion": mark("Completion")}


def show() -> None:
    """Render the whole section."""
    store = cache.store()
    where = _filters()
    narrowed = where != StoryFilter(reader=where.reader)
    total = library.search(store, where, limit=0).total
    if not total and not narrowed:
        _undo_delete()
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
        _undo_delete()
        story_actions.export_menu(where, total)
    if not total:
        st.info(_("No stories match. Remove a filter."), icon=":material/filter_alt_off:")
        return
    number = _page(pages)
    shown = library.search(store, where, offset=(number - 1) * _SHOWN, limit=_SHOWN).stories
    shutdown_notes.show_all((story.provider, story.requested_model or story.model, None) for story in shown)
    for story in shown:
        story_card(story)
    _editor()


def _page(pages: int) -> int:
    if pages == 1:
        return 1
    if int(state.get("story_page") or 1) > pages:
        state.set_value("story_page", 1)
    return int(st.pagination(pages, key="story_page"))


def _filters() -> StoryFilter:
    reader = current_actor()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = text_field(
            _("Search"), "story_search", _LONGEST_SEARCH, placeholder=_("Words of the story, its prompt or its tags"),
            icon=":material/search:", label_visibility="collapsed", persist_state="session",
        )  # fmt: skip
        provider_of = {one.id: one.provider for one in visible.models().found}
        with st.popover(_("Filter"), icon=":material/filter_alt:"):
            model = st.selectbox(
                _("Model"), ["", *library.models(cache.store(), reader)], key="story_filter_model",
                format_func=lambda name: shutdown_notes.named(provider_of.get(name, ""), name) if name else _("All"),
                persist_state="session",
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
                _("Tag"), ["", *library.tags(cache.store(), reader)], key="story_filter_tag",
                format_func=lambda name: name or _("All"), persist_state="session",
            )  # fmt: skip
            owner = sharing.owner_filter("story_filter_owner")
    return StoryFilter(
        words=str(words or ""),
        model=model or None,
        liked={"liked": True, "disliked": False}.get(str(kind)),
        stars=int(stars) or None,
        tag=tag or None,
        edited=True if kind == "edited" else None,
        partial=True if kind == "partial" else None,
        reader=reader,
        owner_id=reader.id if owner == "mine" else None,
    )


def story_card(story: SavedStory) -> None:
    """Render the story's card."""
    notice = shutdown_notes.notice_of(story.provider, story.requested_model or story.model)
    with st.container(border=True, width=760):
        _words(story)
        views.facts(
            (
                code(story.model),
                "" if notice is None else shutdown_notes.words(notice),
                n_("{n} token", "{n} tokens", story.tokens) if story.tokens else "",
                cost_fact(story.provider, story.cost_usd, story.duration_s),
                "" if story.finish_reason == "stop" else story_text.ending(story.finish_reason),
                _("edited") if story.edited_text is not None else "",
                " ".join(f":gray-badge[{plain(tag)}]" for tag in story.tags),
                ago(story.created_at, utcnow()),
            )
        )
        _rating_row(story)
        with st.expander(_("Prompt and settings"), type="compact"):
            _details(story)


def _words(story: SavedStory) -> None:
    text = story.final.strip()
    if len(text) <= _LONG:
        st.text(text)
        return
    st.text(text[:_LONG].rstrip() + " …")
    with st.expander(_("The whole story"), type="compact"):
        st.text(text)


def _rating_row(story: SavedStory) -> None:
    """Render rating and actions, in one row."""
    with st.container(horizontal=True, vertical_alignment="center"):
        story_actions.rating(story)
        _action_button(_("Edit"), ":material/edit:", f"story_edit_{story.id}", _open, story)
        with st.popover(_("Tags"), icon=":material/sell:", type="tertiary"):
            _tags(story)
        _action_button(_("Delete"), ":material/delete:", f"story_delete_{story.id}", _delete, story)
        sharing.button(Thing("story", story.id), story, type="tertiary")
        if story.partial:
            _action_button(_("Continue"), ":material/play_arrow:", f"story_resume_{story.id}", _continue, story)


def _action_button(label: str, icon: str, key: str, act: Callable[[SavedStory], None], story: SavedStory) -> None:
    st.button(label, icon=icon, type="tertiary", key=key, on_click=act, args=(story,))


def _details(story: SavedStory) -> None:
    """Render prompt, settings and facts of the story."""
    st.text(story.prompt)
    parameters = {name: value for name, value in (story.parameters or {}).items() if value not in (None, "", [])}
    rows = {_(_SETTINGS[name]) if name in _SETTINGS else plain(name): _shown(parameters[name]) for name in parameters}
    if story.requested_model and story.requested_model != story.model:
        rows[_("Requested model")] = code(story.requested_model)
    rows[_("Provider")] = plain(models.provider_name(story.provider))
    if story.first_text_s is not None:
        rows[_("First words")] = _("after {seconds} s").format(seconds=number(story.first_text_s, 1))
    if story.duration_s is not None:
        rows[_("Duration")] = duration(story.duration_s)
    st.table(rows, border="horizontal", alt=_("How this story was made"))
    if story.error:
        st.text(story.error)


def _shown(value: object) -> str:
    """The value of a setting."""
    if isinstance(value, list):
        return " ".join(code(one) for one in value)
    return _(_ENDPOINTS[value]) if isinstance(value, str) and value in _ENDPOINTS else code(value)


def _editor() -> None:
    """Render the dialog of the story being edited, if any."""
    session = story_session()
    story = None if session.editing is None else library.get(cache.store(), session.editing, current_actor())
    if story is None:
        session.editing = None
        return
    st.dialog(_("Edit the story"), width="large", on_dismiss=_close)(_edit)(story)


def _edit(story: SavedStory) -> None:
    """Edit the text; the original is kept."""
    if story_session().editing is None:
        st.rerun()  # a button in a dialog only re-renders the dialog
    cards.show_last_action()
    state.set_default(f"story_text_{story.id}", story.final)
    text = st.text_area(_("Text"), height=420, key=f"story_text_{story.id}")
    saved = fits(text, library.MAX_TEXT_LENGTH)
    with st.container(horizontal=True):
        st.button(
            _("Save"), type="primary", key=f"story_keep_{story.id}", disabled=not saved, on_click=_keep,
            args=(story.id,),
        )  # fmt: skip
        if story.edited_text is not None:
            _action_button(_("Original"), ":material/history:", f"story_unedit_{story.id}", _restore_original, story)


def _open(story: SavedStory) -> None:
    state.drop(f"story_text_{story.id}")
    story_session().editing = story.id


def _close() -> None:
    story_session().editing = None


def _keep(story_id: str) -> None:
    with cards.keep_errors():
        library.edit(cache.store(), current_actor(), story_id, str(state.get(f"story_text_{story_id}") or ""))
        _close()


def _restore_original(story: SavedStory) -> None:
    with cards.keep_errors():
        library.edit(cache.store(), current_actor(), story.id, None)
        _close()


def _tags(story: SavedStory) -> None:
    key = f"story_tags_{story.id}"
    state.set_default(key, list(story.tags))
    tags = dict.fromkeys([*library.tags(cache.store(), current_actor()), *(state.get(key) or ())])
    st.multiselect(
        _("Tags"), list(tags), key=key, accept_new_options=True, placeholder=_("Type a tag"),
        on_change=_save_tags, args=(story.id,),
    )  # fmt: skip


def _save_tags(story_id: str) -> None:
    with cards.keep_errors():
        library.tag(
            cache.store(), current_actor(), story_id, [str(tag) for tag in state.get(f"story_tags_{story_id}") or ()]
        )


def _delete(story: SavedStory) -> None:
    with cards.keep_errors():
        library.delete(cache.store(), current_actor(), story.id)
        state.notify(":material/delete:", _("The story was deleted."))
        story_session().deleted = story.id


def _continue(story: SavedStory) -> None:
    """Continue the story at the top of the page."""
    with cards.keep_errors():
        round_ = Round(story.id, [], [0])
        round_.stories.append(
            stream.continue_story(
                cache.store(), current_actor(), cache.client(story.provider), story, cache.prices(),
                idle_timeout_s=LEAVE_S, subscribers=round_.subscribers,
            )
        )  # fmt: skip
        session = story_session()
        session.stop()
        session.round, session.chain = round_, None
        state.set_value("story_part", "write")


def _undo_delete() -> None:
    """Render the undo button for the story that was deleted last."""
    deleted = story_session().deleted
    if deleted is not None:
        st.button(
            _("Undo: delete"), icon=":material/undo:", type="tertiary", key="story_undo", on_click=_restore,
            args=(deleted,),
        )  # fmt: skip


def _restore(story_id: str) -> None:
    with cards.keep_errors():
        library.restore(cache.store(), current_actor(), story_id)
        story_session().deleted = None
