"""Upload a file: show what was read, assign the columns, save it as a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.importers import column_mapping, decoding, table_reader
from core.datasets.loading import MAX_NAME
from core.errors import BadFile
from pages.ui import cached, cards, state
from pages.ui.dataset import upload_columns, upload_form
from pages.ui.lang import _, as_markdown, localized, n_
from pages.ui.limited_fields import text_field

_SHOWN_PROBLEMS = 20
_FEW_NOTES = 2  # more of them are one click away
_SHOWN_ROWS = 5
TYPES = [
    "csv",
    "tsv",
    "txt",
    "jsonl",
    "ndjson",
    "json",
    "parquet",
    "xlsx",
    "xlsm",
    "xls",
    "ods",
    "zip",
    "gz",
    "bz2",
    "xz",
    "zst",
]
_AUTO = ""  # the detected encoding


def form(page: str, opened: Callable[[str], None]) -> None:
    """Draw upload, findings, column roles and the save button. `opened` gets the id of the new data set."""
    file = st.file_uploader(upload_form.label(), type=TYPES, key=f"{page}_file", max_upload_size=upload_form.MOST_MB)
    if file is None:
        st.caption(upload_form.accepted())
        return
    with cards.show_errors():
        try:
            imported = _imported(page, file)
        except BadFile:
            _read_otherwise(page, file, None)
            raise
        _findings(page, file, imported)
        _keep(page, file, imported, opened)


def _imported(page: str, file: UploadedFile) -> table_reader.Imported:
    """The imported file, read once per upload and import option."""
    studio = state.studio()
    encoding, sheet = state.get(_key(page, "encoding", file), _AUTO), state.get(_key(page, "sheet", file))
    as_table = upload_form.wants_table(_key(page, "form", file))
    read_key = f"{file.file_id} {encoding} {as_table}"
    cached_result = studio.imported[1] if studio.imported is not None and studio.imported[0] == read_key else None
    if cached_result is None or (
        sheet is not None and isinstance(cached_result, table_reader.Imported) and cached_result.sheet != sheet
    ):
        with st.spinner(_("Reading the file"), show_time=True):
            try:
                cached_result = table_reader.read_table(
                    file, file.name, encoding=encoding or None, sheet=sheet, as_table=as_table
                )
            except BadFile as problem:
                cached_result = problem  # cached too, so that an unreadable file is not parsed again on every click
        studio.imported = (read_key, cached_result)
    if isinstance(cached_result, BadFile):
        raise cached_result.with_traceback(None)
    found: table_reader.Imported = cached_result
    return found


def _key(page: str, name: str, file: UploadedFile) -> str:
    """The key of a widget whose value belongs to this file."""
    return f"{page}_{name}_{file.file_id}"


def _findings(page: str, file: UploadedFile, imported: table_reader.Imported) -> None:
    """What was read and how, and the rows that were left out."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        rows = n_("{n} row read", "{n} rows read", len(imported.frame))
        st.markdown(f"**{rows}** · {upload_form.read_as(imported)}")
        _read_otherwise(page, file, imported)
    upload_form.show(imported, _key(page, "form", file))
    if imported.cut_short:
        st.warning(as_markdown(imported.cut_short), icon=":material/content_cut:")
    if imported.left_out:
        st.warning(
            n_(
                "{n} row can't be used and is left out. The good rows are below.",
                "{n} rows can't be used and are left out. The good rows are below.",
                imported.left_out,
            ),
            icon=":material/report:",
        )
        _sentences(_("Rows left out, and why"), imported.problems)
    if len(imported.notes) > _FEW_NOTES:
        _sentences(n_("{n} note", "{n} notes", len(imported.notes)), imported.notes)
    else:
        for note in imported.notes:
            st.caption(f":material/info: {as_markdown(note)}")
    st.dataframe(imported.frame.head(_SHOWN_ROWS), hide_index=True, row_height=36, alt=_("The first rows of the file"))


def _sentences(title: str, sentences: list[str]) -> None:
    with st.expander(title):
        for sentence in sentences[:_SHOWN_PROBLEMS]:
            st.text(localized(sentence))
        if len(sentences) > _SHOWN_PROBLEMS:
            st.caption(_("and {n} more").format(n=len(sentences) - _SHOWN_PROBLEMS))


def _read_otherwise(page: str, file: UploadedFile, imported: table_reader.Imported | None) -> None:
    """Corrections of a wrong guess: the encoding, or another sheet."""
    if imported is not None and len(imported.sheets) > 1:
        state.set_default(_key(page, "sheet", file), imported.sheet)
        st.selectbox(_("Sheet"), imported.sheets, key=_key(page, "sheet", file), width=220)
        return
    certain = imported is not None and (imported.encoding is None or imported.encoding.startswith("UTF-8"))
    if not certain or state.get(_key(page, "encoding", file)):
        with st.popover(_("Wrong characters?"), icon=":material/translate:"):
            st.selectbox(
                _("Read as"),
                [_AUTO, *decoding.CHOICES],
                format_func=lambda name: name or _("Detect automatically"),
                key=_key(page, "encoding", file),
            )


def _keep(page: str, file: UploadedFile, imported: table_reader.Imported, opened: Callable[[str], None]) -> None:
    """Column roles, the resulting examples, and the button."""
    read_as = f"{imported.sheet}_{imported.recognised.form}"  # different columns have their own choices
    chosen = upload_columns.choose(imported, lambda name: _key(page, f"{name}_{read_as}", file))
    ready = upload_columns.outlook(imported, chosen)
    stem = PurePath(file.name).stem[:MAX_NAME]
    name_key = _key(page, "name_of_file", file)
    state.set_default(name_key, stem)
    name = text_field(_("Name"), name_key, MAX_NAME)
    st.button(
        _("Save as a data set"),
        icon=":material/save:",
        key=f"{page}_keep",
        disabled=not ready,
        type="primary",
        on_click=_save,
        args=(imported, name or file.name, chosen, opened),
    )


def _save(
    imported: table_reader.Imported, name: str, chosen: column_mapping.ColumnMapping, opened: Callable[[str], None]
) -> None:
    with cards.keep_errors():
        dataset_id = datasets.from_frame(
            cached.store(),
            LOCAL,
            name,
            imported.frame,
            chosen.prompts,
            chosen.completion,
            imported.source,
            split_column=chosen.split,
            other_columns=chosen.others([str(column) for column in imported.frame.columns]),
            separator=chosen.separator,
        )
        if system := column_mapping.shared_system(imported.frame, chosen):
            datasets.set_chat_system(cached.store(), LOCAL, dataset_id, system)
        opened(dataset_id)
