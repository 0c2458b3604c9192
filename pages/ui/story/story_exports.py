"""Stories leave the shelf: as files, or as a data set to train on."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from core.actor import LOCAL
from core.dataset import datasets
from core.db.tables import utcnow
from core.story import exports, shelf
from core.story.shelf import KeptStory, Where
from pages.ui import cached, cards, lang, state
from pages.ui.lang import _, n_
from pages.ui.story.story_desk import desk

_MOST = 10_000  # stories in one file
_LONGEST_NAME = 200


def menu(where: Where, total: int) -> None:
    """Two buttons: take the shown ones away, and train on the liked ones."""
    with st.container(horizontal=True, width="content"):
        with st.popover(_("Export"), icon=":material/download:", disabled=not total):
            _files(where)
        count = shelf.look(cached.store(), Where(liked=True), limit=0).total
        if count:
            st.button(
                n_("Train on {n} liked story", "Train on {n} liked stories", count),
                icon=":material/model_training:",
                key="story_liked",
                on_click=_open,
            )


def liked() -> None:
    """The dialog that makes a data set of the stories one likes, while it is open."""
    if desk().training:
        st.dialog(_("A data set of the stories you like"), on_dismiss=_close)(_data_set)()


def _open() -> None:
    desk().training = True


def _close() -> None:
    desk().training = False


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


def _data_set() -> None:
    """What becomes of it, its name, and the button."""
    stories = list(shelf.look(cached.store(), Where(liked=True), limit=_MOST).stories)
    edited = sum(story.edited_text is not None for story in stories)
    columns, rows = exports.examples(reversed(stories))
    st.markdown(
        _("Each liked story becomes an example: its {columns} as the prompt, its text as the completion.").format(
            columns=", ".join(lang.code(column) for column in columns)
        )
    )
    if edited:
        st.caption(n_("{n} of them counts with your edit.", "{n} of them count with your edits.", edited))
    name = st.text_input(
        _("Name"), _("Liked stories {day}").format(day=f"{utcnow():%Y-%m-%d}"), max_chars=_LONGEST_NAME,
        key="story_liked_name",
    )  # fmt: skip
    if st.button(_("Make it, and look at it"), type="primary", key="story_liked_make"):
        made = None
        with cards.errors_shown():
            made = datasets.from_frame(cached.store(), LOCAL, name or "stories", pd.DataFrame(rows), columns, "story")
        if made is not None:
            _close()
            cached.look_again()
            state.put("dataset_open", made)
            state.put("dataset_part", "use")
            st.switch_page("dataset.py")
