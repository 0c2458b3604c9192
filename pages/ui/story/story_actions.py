"""Actions for stories: rate, copy, keep as a training example, continue; export, and training on the liked ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from core.datasets import datasets
from core.db.tables import utcnow
from core.errors import FabulaError
from core.stories import exports, library
from core.stories.library import SavedStory, StoryFilter
from core.stories.stream import StoryStream
from pages.ui import cache, i18n, state, visible
from pages.ui.components import cards, prompt_formats
from pages.ui.components.prompt_formats import PromptFormat
from pages.ui.components.story_session import StoryRequest, story_session
from pages.ui.i18n import _, n_, sentences
from pages.ui.sign_in import current_actor

_FILES = Path(__file__).with_name("components")
_copy_button: Any = st.components.v2.component(
    "fabula_copy",
    js=(_FILES / "copy.js").read_text(encoding="utf-8"),
    css=(_FILES / "copy.css").read_text(encoding="utf-8"),
)

_MOST = 10_000  # stories in one file


def below(story: StoryStream) -> None:
    """Render the row below a story that has just been written. A story that could not be saved can only be copied."""
    text = story.text.strip()
    if not text:
        return
    saved = None
    with suppress(FabulaError):  # the database is lost: the text stays on the page
        saved = library.get(cache.store(), story.id)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if saved is None:
            _copy(story.id, text)
            return
        rating(saved)
        _keep_button(saved)


def rating(story: SavedStory) -> None:
    """Render thumbs, stars and Copy, in the caller's row; the same below every story."""
    state.set_value(f"story_thumb_{story.id}", None if story.liked is None else int(story.liked))
    state.set_value(f"story_stars_{story.id}", None if story.stars is None else story.stars - 1)
    st.feedback("thumbs", key=f"story_thumb_{story.id}", on_change=_liked, args=(story.id,))
    st.feedback("stars", key=f"story_stars_{story.id}", on_change=_starred, args=(story.id,))
    _copy(story.id, story.final.strip())


def onward(prompt_format: PromptFormat | None, write: Callable[[StoryRequest], None]) -> None:
    """Render what follows a story: the same prompt again, the next prompt, and training on liked stories."""
    again = story_session().again()
    with st.container(horizontal=True):
        st.button(
            _("Write again"), icon=":material/replay:", key="story_again", disabled=again is None,
            on_click=write, args=(again,), help=_("Same prompt and settings, another seed"),
        )  # fmt: skip
        if prompt_format is not None:
            st.button(
                _("Next prompt"), icon=":material/arrow_forward:", key="story_next",
                on_click=prompt_formats.advance, args=(prompt_format,),
                help=_("Fills in other values, in or outside the grid"),
            )  # fmt: skip
        train_button()


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
    """Render the button that keeps a story.

    Liked stories are the training examples, so it sets the same rating as the thumb.
    """
    if story.liked:
        st.badge(_("Training example"), icon=":material/check:", color="green")
    else:
        st.button(
            _("Keep as training example"), icon=":material/bookmark_add:", type="tertiary",
            key=f"story_example_{story.id}", on_click=cards.act, args=(library.like, story.id, True),
            help=_("Same as a thumbs-up. Train on all liked stories at once, or edit them first under Earlier "
                   "stories."),
        )  # fmt: skip


def _liked(story_id: str) -> None:
    chosen = state.get(f"story_thumb_{story_id}")
    cards.act(library.like, story_id, None if chosen is None else bool(chosen))


def _starred(story_id: str) -> None:
    chosen = state.get(f"story_stars_{story_id}")
    with cards.keep_errors():
        library.rate(cache.store(), current_actor(), story_id, stars=None if chosen is None else int(chosen) + 1)


def export_menu(where: StoryFilter, total: int) -> None:
    """Render two buttons: export the shown stories, and train on the liked ones."""
    with st.container(horizontal=True, width="content"):
        with st.popover(_("Export"), icon=":material/download:", disabled=not total):
            _file_buttons(where)
        train_button()
        if story_session().liked is not None:
            st.button(
                _("Undo: data set of liked stories"), icon=":material/undo:", type="tertiary", key="story_liked_undo",
                on_click=_undo,
            )  # fmt: skip


def train_button() -> None:
    """Render a button that opens the training page with a data set of the liked stories; nothing if there are none."""
    count = library.search(cache.store(), _liked_stories(), limit=0).total
    if count and st.button(
        n_("Train on {n} liked story", "Train on {n} liked stories", count),
        icon=":material/model_training:",
        key="story_liked",
        help=_(
            "Creates a data set: each story's columns become the prompt, and its text (or your edit of "
            "it) the completion."
        ),
    ):
        _train()


def _liked_stories() -> StoryFilter:
    return StoryFilter(liked=True, reader=current_actor())


def _train() -> None:
    """Create a data set of the liked stories and open the training page with it."""
    with cards.show_errors():
        state.set_value("training_dataset", _create_dataset())
        state.set_value("training_part", "new")
        st.switch_page("training.py")


def _create_dataset() -> str:
    """The id of the data set; if the stories have not changed, the last one is reused."""
    store = cache.store()
    stories = library.search(store, _liked_stories(), limit=_MOST).stories
    columns, rows = exports.examples(reversed(stories))
    stamp = hashlib.sha256(repr((columns, rows)).encode()).hexdigest()
    session = story_session()
    if (
        session.liked is None
        or session.liked[1] != stamp
        or all(one.id != session.liked[0] for one in visible.dataset_list())
    ):
        name = _("Liked stories {day}").format(day=f"{utcnow():%Y-%m-%d}")
        private = any(story.sharing == "private" for story in stories)
        frame = pd.DataFrame(rows)
        dataset_id = datasets.from_frame(store, current_actor(), name, frame, columns, "story", private=private)
        session.liked = (dataset_id, stamp)
        cache.refresh()
        sentence = n_("Data set created from {n} liked story.", "Data set created from {n} liked stories.", len(rows))
        state.notify(":material/model_training:", sentences(sentence, _("You can undo this under Earlier stories.")))
    return session.liked[0]


def _undo() -> None:
    session = story_session()
    with cards.keep_errors():
        if session.liked is not None:
            exports.undo_export(cache.store(), current_actor(), session.liked[0])
            state.notify(":material/undo:", _("Data set deleted; the stories are kept."))
    session.liked = None


def _file_buttons(where: StoryFilter) -> None:
    """Render a button per file; each file is created when its button is pressed."""

    def found() -> list[SavedStory]:
        return list(library.search(cache.store(), where, limit=_MOST).stories)

    title, language = _("Stories"), i18n.language().replace("_", "-")
    kinds: list[tuple[str, str, str, Callable[[], str]]] = [
        ("Markdown", "md", "text/markdown", lambda: exports.markdown(found())),
        ("CSV", "csv", "text/csv", lambda: exports.as_csv(found())),
        ("JSONL", "jsonl", "application/jsonl", lambda: "".join(exports.jsonl(found()))),
        (_("Printable page (HTML)"), "html", "text/html", lambda: exports.page(found(), title, language)),
    ]
    for label, ending, kind, make in kinds:
        st.download_button(
            label, make, f"stories.{ending}", kind, icon=":material/download:", key=f"story_export_{ending}",
            on_click="ignore", width="stretch",
        )  # fmt: skip
