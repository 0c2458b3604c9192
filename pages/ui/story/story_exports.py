"""Export of stories: as files, or as a data set to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pandas as pd
import streamlit as st

from core.actor import LOCAL
from core.datasets import datasets
from core.db.tables import utcnow
from core.stories import exports, library
from core.stories.library import SavedStory, StoryFilter
from pages.ui import cached, cards, lang, state
from pages.ui.lang import _, n_, sentences
from pages.ui.story.story_session import story_session

_MOST = 10_000  # stories in one file


def menu(where: StoryFilter, total: int) -> None:
    """Two buttons: export the shown stories, train on the liked ones."""
    with st.container(horizontal=True, width="content"):
        with st.popover(_("Export"), icon=":material/download:", disabled=not total):
            _files(where)
        train_button()
        if story_session().liked is not None:
            st.button(
                _("Undo: data set of liked stories"), icon=":material/undo:", type="tertiary", key="story_liked_undo",
                on_click=_undo,
            )  # fmt: skip


def train_button() -> None:
    """A button that opens the training page with a data set of the liked stories; nothing if no story is liked."""
    count = library.search(cached.store(), StoryFilter(liked=True), limit=0).total
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


def _train() -> None:
    """Create a data set of the liked stories and open the training page with it."""
    with cards.show_errors():
        state.set_value("training_dataset", _create_dataset())
        state.set_value("training_part", "new")
        st.switch_page("training.py")


def _create_dataset() -> str:
    """The id of the data set; unchanged stories reuse the last one."""
    store = cached.store()
    columns, rows = exports.examples(reversed(library.search(store, StoryFilter(liked=True), limit=_MOST).stories))
    stamp = hashlib.sha256(repr((columns, rows)).encode()).hexdigest()
    session = story_session()
    if (
        session.liked is None
        or session.liked[1] != stamp
        or all(one.id != session.liked[0] for one in cached.dataset_list())
    ):
        name = _("Liked stories {day}").format(day=f"{utcnow():%Y-%m-%d}")
        dataset_id = datasets.from_frame(store, LOCAL, name, pd.DataFrame(rows), columns, "story")
        session.liked = (dataset_id, stamp)
        cached.refresh()
        sentence = n_("Data set created from {n} liked story.", "Data set created from {n} liked stories.", len(rows))
        state.notify(":material/model_training:", sentences(sentence, _("You can undo this under Earlier stories.")))
    return session.liked[0]


def _undo() -> None:
    session = story_session()
    with cards.keep_errors():
        if session.liked is not None:
            exports.undo_export(cached.store(), LOCAL, session.liked[0])
            state.notify(":material/undo:", _("Data set deleted; the stories are kept."))
    session.liked = None


def _files(where: StoryFilter) -> None:
    """The files, each created when its button is pressed."""

    def found() -> list[SavedStory]:
        return list(library.search(cached.store(), where, limit=_MOST).stories)

    title, language = _("Stories"), lang.language().replace("_", "-")
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
