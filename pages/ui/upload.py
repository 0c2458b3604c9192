"""A file of rows: CSV or JSONL, read with its encoding stated and its problems named, kept as a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import streamlit as st

from core.actor import LOCAL
from core.dataset import datasets, importing
from pages.ui import cached, cards, state
from pages.ui.lang import _, n_, plain, told

_SHOWN_PROBLEMS = 20
_SHOWN_ROWS = 5


def form(page: str, opened: Callable[[str], None]) -> None:
    """Upload, look, say which column is which, keep. `opened` gets the id of the new data set."""
    file = st.file_uploader(_("CSV or JSONL"), type=["csv", "tsv", "txt", "jsonl", "json"], key=f"{page}_file")
    if file is None:
        st.caption(
            _(
                "CSV with a header line, in UTF-8, GBK or UTF-16; or JSONL with prompt and completion, "
                "or with messages. Nothing is sent anywhere."
            )
        )
        return
    with cards.errors_shown():
        imported = _imported(file.file_id, file.getvalue(), file.name)
        _findings(imported)
        _keep(page, imported, file.name, opened)


def _imported(file_id: str, data: bytes, name: str) -> importing.Imported:
    """The file as read, once per upload."""
    held = state.studio()
    if held.imported is None or held.imported[0] != file_id:
        held.imported = (file_id, importing.read_table(data, name))
    return held.imported[1]


def _findings(imported: importing.Imported) -> None:
    """What was read, how, and what could not be."""
    rows = n_("{n} row read", "{n} rows read", len(imported.frame))
    st.markdown(
        _("**{rows}** · encoding **{encoding}**").format(rows=rows, encoding=plain(imported.encoding)),
    )
    if imported.problems:
        st.warning(
            n_(
                "{n} line could not be used; the good rows are below.",
                "{n} lines could not be used; the good rows are below.",
                len(imported.problems),
            ),
            icon=":material/report:",
        )
        with st.expander(_("Which lines, and why")):
            for problem in imported.problems[:_SHOWN_PROBLEMS]:
                st.text(told(problem))
            if len(imported.problems) > _SHOWN_PROBLEMS:
                st.caption(_("and {n} more").format(n=len(imported.problems) - _SHOWN_PROBLEMS))
    st.dataframe(imported.frame.head(_SHOWN_ROWS), hide_index=True, alt=_("The first rows of the file"))


def _keep(page: str, imported: importing.Imported, filename: str, opened: Callable[[str], None]) -> None:
    columns = [str(column) for column in imported.frame.columns]
    completion = st.selectbox(
        _("Column with the text to learn"), columns, index=len(columns) - 1, key=f"{page}_completion"
    )
    prompts = st.multiselect(
        _("Columns that make the prompt, in order"),
        [column for column in columns if column != completion],
        default=[column for column in columns if column != completion],
        key=f"{page}_prompts",
        placeholder=_("Choose at least one"),
    )
    name = st.text_input(_("Name"), PurePath(filename).stem, key=f"{page}_name_of_file")
    st.button(
        _("Keep as a data set"),
        icon=":material/save:",
        key=f"{page}_keep",
        disabled=not prompts,
        type="primary",
        on_click=_kept,
        args=(imported, name or filename, list(prompts), str(completion), opened),
    )


def _kept(
    imported: importing.Imported, name: str, prompts: list[str], completion: str, opened: Callable[[str], None]
) -> None:
    with cards.errors_kept():
        opened(datasets.from_frame(cached.store(), LOCAL, name, imported.frame, prompts, completion, imported.source))
