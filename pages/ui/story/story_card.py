"""One story in the library: its text, its settings, its rating."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.actor import LOCAL
from core.db.tables import utcnow
from core.stories import library, stream
from core.stories.arena import Round
from core.stories.library import SavedStory
from pages.ui import cached, cards, models, state, views
from pages.ui.lang import _, ago, code, duration, mark, n_, number, plain
from pages.ui.limited_fields import fits
from pages.ui.money import work_cost
from pages.ui.story import story_actions, story_facts
from pages.ui.story.story_session import LEAVE_S, story_session

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


def show(story: SavedStory) -> None:
    """The card."""
    with st.container(border=True, width=760):
        _words(story)
        views.facts(
            (
                code(story.model),
                n_("{n} token", "{n} tokens", story.tokens) if story.tokens else "",
                work_cost(story.provider, story.cost_usd, story.duration_s),
                "" if story.finish_reason == "stop" else story_facts.ending(story.finish_reason),
                _("edited") if story.edited_text is not None else "",
                " ".join(f":gray-badge[{plain(tag)}]" for tag in story.tags),
                ago(story.at, utcnow()),
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
    """Rating and actions, in one row."""
    with st.container(horizontal=True, vertical_alignment="center"):
        story_actions.rating(story)
        _action_button(_("Edit"), ":material/edit:", f"story_edit_{story.id}", _open, story)
        with st.popover(_("Tags"), icon=":material/sell:", type="tertiary"):
            _tags(story)
        _action_button(_("Delete"), ":material/delete:", f"story_delete_{story.id}", _delete, story)
        if story.partial:
            _action_button(_("Continue"), ":material/play_arrow:", f"story_resume_{story.id}", _continue, story)


def _action_button(label: str, icon: str, key: str, act: Callable[[SavedStory], None], story: SavedStory) -> None:
    st.button(label, icon=icon, type="tertiary", key=key, on_click=act, args=(story,))


def _details(story: SavedStory) -> None:
    """Prompt, settings and facts of the story."""
    st.text(story.prompt)
    parameters = {name: value for name, value in (story.parameters or {}).items() if value not in (None, "", [])}
    rows = {_(_SETTINGS[name]) if name in _SETTINGS else plain(name): _shown(parameters[name]) for name in parameters}
    if story.asked_model and story.asked_model != story.model:
        rows[_("Requested model")] = code(story.asked_model)
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


def editor() -> None:
    """The dialog of the story being edited, if any."""
    session = story_session()
    story = None if session.editing is None else library.get(cached.store(), session.editing)
    if story is None:
        session.editing = None
        return
    st.dialog(_("Edit the story"), width="large", on_dismiss=_close)(_edit)(story)


def _edit(story: SavedStory) -> None:
    """Edit the text; the original is kept."""
    if story_session().editing is None:
        st.rerun()  # a button in a dialog only redraws the dialog
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
        library.edit(cached.store(), LOCAL, story_id, str(state.get(f"story_text_{story_id}") or ""))
        _close()


def _restore_original(story: SavedStory) -> None:
    with cards.keep_errors():
        library.edit(cached.store(), LOCAL, story.id, None)
        _close()


def _tags(story: SavedStory) -> None:
    key = f"story_tags_{story.id}"
    state.set_default(key, list(story.tags))
    tags = dict.fromkeys([*library.tags(cached.store()), *(state.get(key) or ())])
    st.multiselect(
        _("Tags"), list(tags), key=key, accept_new_options=True, placeholder=_("Type a tag"),
        on_change=_save_tags, args=(story.id,),
    )  # fmt: skip


def _save_tags(story_id: str) -> None:
    with cards.keep_errors():
        library.tag(cached.store(), LOCAL, story_id, [str(tag) for tag in state.get(f"story_tags_{story_id}") or ()])


def _delete(story: SavedStory) -> None:
    with cards.keep_errors():
        library.delete(cached.store(), LOCAL, story.id)
        state.notify(":material/delete:", _("The story was deleted."))
        story_session().deleted = story.id


def _continue(story: SavedStory) -> None:
    """Continue the story at the top of the page."""
    with cards.keep_errors():
        round_ = Round(story.id, [], [0])
        round_.stories.append(
            stream.continue_story(
                cached.store(), LOCAL, cached.client(story.provider), story, cached.prices(),
                idle_timeout_s=LEAVE_S, subscribers=round_.subscribers,
            )
        )  # fmt: skip
        session = story_session()
        session.stop()
        session.round, session.chain = round_, None
        state.set_value("story_part", "write")


def bring_back() -> None:
    """The undo button for the story that was deleted last."""
    deleted = story_session().deleted
    if deleted is not None:
        st.button(
            _("Undo: delete"), icon=":material/undo:", type="tertiary", key="story_undo", on_click=_restore,
            args=(deleted,),
        )  # fmt: skip


def _restore(story_id: str) -> None:
    with cards.keep_errors():
        library.restore(cached.store(), LOCAL, story_id)
        story_session().deleted = None
