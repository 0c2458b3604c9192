"""Import a sample or the visitor's own file: what was read, the roles of its columns, and saving it as a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from core.datasets import datasets, presets
from core.datasets.datasets import MAX_NAME
from core.datasets.importers import column_mapping, decoding, sandboxed_reader, table_reader
from core.errors import BadFile
from pages.ui import cache, state
from pages.ui.cache import shared
from pages.ui.components import cards
from pages.ui.components.fields import text_field
from pages.ui.dataset import dataset_picker, upload_columns
from pages.ui.i18n import _, as_markdown, code, in_language, language, localized, mark, n_, number, plain, sentences
from pages.ui.sign_in import current_actor

_SHOWN_PROBLEMS = 20
_FEW_NOTES = 2  # more of them are one click away
_SHOWN_ROWS = 5
FILE_TYPES = [
    "csv",
    "tsv",
    "txt",
    "jsonl",
    "ndjson",
    "json",
    "parquet",
    "xlsx",
    "xlsm",
    "xlsb",
    "xls",
    "ods",
    "zip",
    "gz",
    "bz2",
    "xz",
    "zst",
]
_AUTO = ""  # the detected encoding

_TABLE = "table"
_AS_FOUND = "found"
_FORMS = {
    "messages": mark("conversations (messages)"),
    "sharegpt": mark("ShareGPT conversations"),
    "turns": mark("conversations"),
    "preference": mark("preference pairs (chosen and rejected)"),
    "alpaca": mark("Alpaca instructions"),
    "dolly": mark("Dolly instructions"),
    "pairs": mark("pairs of prompt and completion"),
    "table": mark("a table"),
}
_KINDS = {
    "csv": mark("CSV"),
    "jsonl": mark("JSON"),
    "parquet": mark("Parquet"),
    "workbook": mark("Excel workbook"),
}
MAX_FILE_MB = 500  # limit of an upload; the server accepts 512, which an uploader would display as 1 GB
_MB = 1_000_000  # bytes
_CONVERSATIONS = ("messages", "sharegpt", "turns", "preference")
_LEARNED = {
    "preference": mark(
        "The chosen answer is the text to learn. The rejected one is kept for preference training (DPO); other "
        "training does not use it."
    ),
}
_LAST_ANSWER = mark(
    "The last answer of each conversation is the text to learn. The earlier turns form the "
    "prompt, and the system text gets its own column."
)


def show() -> None:
    """Render the whole section."""
    left, right = st.columns([2, 3], gap="medium")
    with left, st.container(border=True):
        st.subheader(_("Samples"), anchor=False)
        st.caption(_("Original samples, ready to train on."))
        for preset in presets.load(language()):
            if preset.sample is not None:
                _sample(preset.sample, in_language(preset.names))
    with right, st.container(border=True):
        st.subheader(_("Your file"), anchor=False)
        upload_form("dataset", dataset_picker.open_part)


def _sample(name: str, title: str) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(f"**{plain(title)}**", width="stretch")  # a long title wraps next to its button
        st.button(
            n_("Load {n} row", "Load {n} rows", _sample_size(name)),
            icon=":material/download:",
            key=f"dataset_sample_{name}",
            on_click=_load,
            args=(name,),
        )


def _load(name: str) -> None:
    with cards.keep_errors():
        dataset_picker.open_part(datasets.load_sample(cache.store(), current_actor(), name))


def upload_form(page: str, opened: Callable[[str], None]) -> None:
    """Render upload, findings, column roles and the save button. `opened` gets the id of the new data set."""
    file = st.file_uploader(file_label(), type=FILE_TYPES, key=f"{page}_file", max_upload_size=MAX_FILE_MB)
    if file is None:
        st.caption(_accepted())
        return
    with cards.show_errors():
        try:
            imported = read_file(page, file)
        except BadFile:
            read_otherwise(page, file, None)
            raise
        _findings(page, file, imported)
        _keep(page, file, imported, opened)


def read_file(page: str, file: UploadedFile, *, as_table: bool = False) -> table_reader.Imported:
    """The imported file, read once per upload and import option.

    Args:
        as_table: read conversations as plain cells, even if the visitor has chosen otherwise.

    Raises:
        BadFile: nothing in it can be used.
    """
    studio = state.studio()
    encoding, sheet = state.get(file_key(page, "encoding", file), _AUTO), state.get(file_key(page, "sheet", file))
    as_table = as_table or _wants_table(file_key(page, "form", file))
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


def file_key(page: str, name: str, file: UploadedFile) -> str:
    """The key of a widget whose value belongs to this file."""
    return f"{page}_{name}_{file.file_id}"


def _findings(page: str, file: UploadedFile, imported: table_reader.Imported) -> None:
    """Render what was read and how, and the rows that were left out."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        rows = n_("{n} row read", "{n} rows read", len(imported.frame))
        st.markdown(f"**{rows}** · {_read_as(imported)}")
        read_otherwise(page, file, imported)
    _recognised(imported, file_key(page, "form", file))
    cut_short(imported)
    if imported.left_out:
        st.warning(
            n_(
                "{n} row can't be used and is left out. The good rows are below.",
                "{n} rows can't be used and are left out. The good rows are below.",
                imported.left_out,
            ),
            icon=":material/report:",
        )
        problem_list(_("Rows left out, and why"), imported.problems)
    if len(imported.notes) > _FEW_NOTES:
        problem_list(n_("{n} note", "{n} notes", len(imported.notes)), imported.notes)
    else:
        for note in imported.notes:
            st.caption(f":material/info: {as_markdown(note)}")
    st.dataframe(imported.frame.head(_SHOWN_ROWS), hide_index=True, row_height=36, alt=_("The first rows of the file"))


def cut_short(imported: table_reader.Imported) -> None:
    """Render a warning if the file has more rows than were read."""
    if imported.cut_short:
        st.warning(as_markdown(imported.cut_short), icon=":material/content_cut:")


def problem_list(title: str, sentences: Sequence[str]) -> None:
    """Render sentences about rows, one click away."""
    with st.expander(title):
        for sentence in sentences[:_SHOWN_PROBLEMS]:
            st.text(localized(sentence))
        if len(sentences) > _SHOWN_PROBLEMS:
            st.caption(_("and {n} more").format(n=len(sentences) - _SHOWN_PROBLEMS))


def read_otherwise(page: str, file: UploadedFile, imported: table_reader.Imported | None) -> None:
    """Render corrections for a wrong guess: the encoding, or another sheet."""
    if imported is not None and len(imported.sheets) > 1:
        state.set_default(file_key(page, "sheet", file), imported.sheet)
        st.selectbox(_("Sheet"), imported.sheets, key=file_key(page, "sheet", file), width=220)
        return
    certain = imported is not None and (imported.encoding is None or imported.encoding.startswith("UTF-8"))
    if not certain or state.get(file_key(page, "encoding", file)):
        with st.popover(_("Wrong characters?"), icon=":material/translate:"):
            st.selectbox(
                _("Read as"),
                [_AUTO, *decoding.CHOICES],
                format_func=lambda name: name or _("Detect automatically"),
                key=file_key(page, "encoding", file),
            )


def _keep(page: str, file: UploadedFile, imported: table_reader.Imported, opened: Callable[[str], None]) -> None:
    """Render column roles, the resulting examples, and the button."""
    read_as = f"{imported.sheet}_{imported.recognised.form}"  # different columns get their own choices
    chosen = upload_columns.choose(imported, lambda name: file_key(page, f"{name}_{read_as}", file))
    ready = upload_columns.outlook(imported, chosen)
    stem = PurePath(file.name).stem[:MAX_NAME]
    name_key = file_key(page, "name_of_file", file)
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
            cache.store(),
            current_actor(),
            name,
            imported.frame,
            chosen.prompts,
            chosen.completion,
            imported.source,
            split_column=chosen.split,
            other_columns=chosen.others([str(column) for column in imported.frame.columns]),
            separator=chosen.separator,
            rejected_column=chosen.rejected,
        )
        if system := column_mapping.shared_system(imported.frame, chosen):
            datasets.set_system_message(cache.store(), current_actor(), dataset_id, system)
        opened(dataset_id)


def file_label() -> str:
    """The label of the upload field."""
    return _("Table or conversations: CSV, Excel, Parquet, JSON or JSONL")


def _accepted() -> str:
    """The formats in full, and the largest file of each kind."""
    formats = _(
        "Conversations can be OpenAI messages, ShareGPT, Alpaca, Dolly, preference pairs and "
        "others; a table needs a header row. Files can be compressed (.zip, .gz, .bz2, .xz, "
        ".zst). The file is not sent to any provider."
    )
    sizes = _("Up to {most} MB, Excel up to {workbook} MB.").format(
        most=number(MAX_FILE_MB), workbook=number(sandboxed_reader.MAX_WORKBOOK_BYTES // _MB)
    )
    return sentences(formats, sizes)


def _read_as(imported: table_reader.Imported) -> str:
    """How the file was read, in one line: its kind, the separator, the encoding, the compression."""
    sign = _("tabs") if imported.delimiter == "\t" else code(imported.delimiter)
    parts = (
        _(_KINDS[imported.kind]),
        _("separated by {sign}").format(sign=sign) if imported.delimiter else "",
        plain(imported.encoding or ""),
        imported.compression or "",
    )
    return _(", ").join(part for part in parts if part)


def _wants_table(key: str) -> bool:
    """Whether the visitor has chosen to read a file as a plain table; `key`: key of that option."""
    return bool(state.get(key) == _TABLE)


def _recognised(imported: table_reader.Imported, key: str) -> None:
    """Render the recognised format, what it means for training, and the option if there is one."""
    found = imported.recognised
    sentence = _("Recognised: {form}, {rows} of {total} rows.")
    st.markdown(sentence.format(form=_(_FORMS[found.form]), rows=number(found.rows), total=number(found.of)))
    chosen_table = _wants_table(key)
    if found.form in _CONVERSATIONS:
        st.caption(_(_LEARNED.get(found.form, _LAST_ANSWER)))
    elif not chosen_table:
        return
    st.segmented_control(
        _("Read as"),
        [_AS_FOUND, _TABLE],
        format_func={_AS_FOUND: _("Conversations"), _TABLE: _("Plain table")}.__getitem__,
        default=_AS_FOUND,
        required=True,
        key=key,
    )


@shared(max_entries=8)
def _sample_size(name: str) -> int:
    """How many stories a sample has."""
    path = presets.DATA / "samples" / f"{name}.csv"
    return len(table_reader.read_table(path.read_bytes(), path.name).frame)
