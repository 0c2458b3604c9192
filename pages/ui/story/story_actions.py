"""Actions for a finished story: rate, copy, keep as a training example, continue."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import streamlit as st

from core.actor import LOCAL
from core.errors import FabulaError
from core.stories import library
from core.stories.library import SavedStory
from core.stories.stream import StoryStream
from pages.ui import cached, cards, state
from pages.ui.lang import _
from pages.ui.story import next_prompt, story_exports
from pages.ui.story.story_model import PromptFormat
from pages.ui.story.story_session import StoryRequest, story_session

_FILES = Path(__file__).with_name("components")
_copy_button: Any = st.components.v2.component(
    "fabula_copy",
    js=(_FILES / "copy.js").read_text(encoding="utf-8"),
    css=(_FILES / "copy.css").read_text(encoding="utf-8"),
)


def below(story: StoryStream) -> None:
    """The row below a story that has just been written. A story that could not be saved can only be copied."""
    text = story.text.strip()
    if not text:
        return
    saved = None
    with suppress(FabulaError):  # the database is lost: the text stays on the page
        saved = library.get(cached.store(), story.id)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if saved is None:
            _copy(story.id, text)
            return
        rating(saved)
        _keep_button(saved)


def rating(story: SavedStory) -> None:
    """Thumbs, stars and Copy, in the caller's row; the same below every story."""
    state.set_value(f"story_thumb_{story.id}", None if story.liked is None else int(story.liked))
    state.set_value(f"story_stars_{story.id}", None if story.stars is None else story.stars - 1)
    st.feedback("thumbs", key=f"story_thumb_{story.id}", on_change=_liked, args=(story.id,))
    st.feedback("stars", key=f"story_stars_{story.id}", on_change=_starred, args=(story.id,))
    _copy(story.id, story.final.strip())


def onward(prompt_format: PromptFormat | None, write: Callable[[StoryRequest], None]) -> None:
    """After the story: the same prompt again, the next prompt, and training on liked stories."""
    again = story_session().again()
    with st.container(horizontal=True):
        st.button(
            _("Write again"), icon=":material/replay:", key="story_again", disabled=again is None,
            on_click=write, args=(again,), help=_("Same prompt and settings, another seed"),
        )  # fmt: skip
        if prompt_format is not None:
            st.button(
                _("Next prompt"), icon=":material/arrow_forward:", key="story_next",
                on_click=next_prompt.advance, args=(prompt_format,),
                help=_("Fills in other values, in or outside the grid"),
            )  # fmt: skip
        story_exports.train_button()


def _copy(story_id: str, text: str) -> None:
    _copy_button(
        key=f"story_copy_{story_id}",
        width="content",
        data={
            "text": text,
            "labels": {
                "copy": _("Copy"),
                "copied": _("Copied"),
                "blocked": _("The browser blocked copying. Select the text and press Ctrl+C."),
            },
        },
    )


def _keep_button(story: SavedStory) -> None:
    """Liked stories are the training examples: the thumb and this button set the same rating."""
    if story.liked:
        st.badge(_("Training example"), icon=":material/check:", color="green")
    else:
        st.button(
            _("Keep as training example"), icon=":material/bookmark_add:", type="tertiary",
            key=f"story_example_{story.id}", on_click=_like, args=(story.id, True),
            help=_("Same as a thumbs-up. Train on all liked stories at once, or edit them first under Earlier "
                   "stories."),
        )  # fmt: skip


def _liked(story_id: str) -> None:
    chosen = state.get(f"story_thumb_{story_id}")
    _like(story_id, None if chosen is None else bool(chosen))


def _like(story_id: str, liked: bool | None) -> None:
    with cards.keep_errors():
        library.like(cached.store(), LOCAL, story_id, liked)


def _starred(story_id: str) -> None:
    chosen = state.get(f"story_stars_{story_id}")
    with cards.keep_errors():
        library.rate(cached.store(), LOCAL, story_id, stars=None if chosen is None else int(chosen) + 1)
