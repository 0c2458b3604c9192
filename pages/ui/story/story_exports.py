"""Stories leave the shelf: as files, or as a data set to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pandas as pd
import streamlit as st

from core.actor import LOCAL
from core.dataset import datasets
from core.db.tables import utcnow
from core.story import exports, liked, shelf
from core.story.shelf import KeptStory, Where
from pages.ui import cached, cards, lang, state
from pages.ui.lang import _, n_
from pages.ui.story.story_desk import desk

_MOST = 10_000  # stories in one file


def menu(where: Where, total: int) -> None:
    """Two buttons: take the shown ones away, and train on the liked ones."""
    with st.container(horizontal=True, width="content"):
        with st.popover(_("Export"), icon=":material/download:", disabled=not total):
            _files(where)
        train_button()
        if desk().liked is not None:
            st.button(
                _("Undo: data set of liked stories"), icon=":material/undo:", type="tertiary", key="story_liked_undo",
                on_click=_take_back,
            )  # fmt: skip


def train_button() -> None:
    """Opens the training page with a data set of the liked stories; nothing while no story is liked."""
    count = shelf.look(cached.store(), Where(liked=True), limit=0).total
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
    """A data set of the liked stories, chosen on the training page, which opens."""
    with cards.errors_shown():
        state.put("training_dataset", _made())
        state.put("training_part", "new")
        st.switch_page("training.py")


def _made() -> str:
    """Its id; the same stories as at the last press are the same data set."""
    store = cached.store()
    columns, rows = exports.examples(reversed(shelf.look(store, Where(liked=True), limit=_MOST).stories))
    stamp = hashlib.sha256(repr((columns, rows)).encode()).hexdigest()
    held = desk()
    if held.liked is None or held.liked[1] != stamp or all(one.id != held.liked[0] for one in cached.dataset_list()):
        name = _("Liked stories {day}").format(day=f"{utcnow():%Y-%m-%d}")
        made = datasets.from_frame(store, LOCAL, name, pd.DataFrame(rows), columns, "story")
        held.liked = (made, stamp)
        cached.look_again()
        sentence = n_("{n} liked story is a data set now.", "{n} liked stories are a data set now.", len(rows))
        state.notify(":material/model_training:", f"{sentence} {_('You can undo this under Earlier stories.')}")
    return held.liked[0]


def _take_back() -> None:
    held = desk()
    with cards.errors_kept():
        if held.liked is not None:
            liked.take_back(cached.store(), LOCAL, held.liked[0])
            state.notify(":material/undo:", _("Data set deleted; the stories are kept."))
    held.liked = None


def _files(where: Where) -> None:
    """The files, each made when it is asked for."""

    def found() -> list[KeptStory]:
        return list(shelf.look(cached.store(), where, limit=_MOST).stories)

    title, language = _("Stories"), lang.language().replace("_", "-")
    kinds: list[tuple[str, str, str, Callable[[], str]]] = [
        ("Markdown", "md", "text/markdown", lambda: exports.markdown(found())),
        ("CSV", "csv", "text/csv", lambda: exports.as_csv(found())),
        ("JSONL", "jsonl", "application/jsonl", lambda: "".join(exports.jsonl(found()))),
        (_("Page to print (HTML)"), "html", "text/html", lambda: exports.page(found(), title, language)),
    ]
    for label, ending, kind, make in kinds:
        st.download_button(
            label, make, f"stories.{ending}", kind, icon=":material/download:", key=f"story_export_{ending}",
            on_click="ignore", width="stretch",
        )  # fmt: skip
