"""Which files can be uploaded, how a file was read, and the option to read it as a plain table."""

from __future__ import annotations

import streamlit as st

from core.datasets.importers import table_reader, workbooks
from pages.ui import state
from pages.ui.lang import _, code, mark, number, plain, sentences

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
MOST_MB = 500  # limit of an upload; the server accepts 512, which an uploader would display as 1 GB
_MB = 1_000_000  # bytes
_CONVERSATIONS = ("messages", "sharegpt", "turns", "preference")
_LEARNED = {
    "preference": mark(
        "The chosen answer is the text to learn. The rejected one is kept as a column and is not trained on."
    ),
}
_LAST_ANSWER = mark(
    "The last answer of each conversation is the text to learn. The earlier turns form the "
    "prompt, and the system text gets its own column."
)


def label() -> str:
    """The label of the upload field."""
    return _("Table or conversations: CSV, Excel, Parquet, JSON or JSONL")


def accepted() -> str:
    """The formats in full, and the largest file of each kind."""
    formats = _(
        "Conversations can be OpenAI messages, ShareGPT, Alpaca, Dolly, preference pairs and "
        "others; a table needs a header row. Files can be compressed (.zip, .gz, .bz2, .xz, "
        ".zst). The file is not sent to any provider."
    )
    sizes = _("Up to {most} MB, Excel up to {workbook} MB.").format(
        most=number(MOST_MB), workbook=number(workbooks.MAX_BYTES // _MB)
    )
    return sentences(formats, sizes)


def read_as(imported: table_reader.Imported) -> str:
    """How the file was read, in one line: its kind, the separator, the encoding, the compression."""
    sign = _("tabs") if imported.delimiter == "\t" else code(imported.delimiter)
    parts = (
        _(_KINDS[imported.kind]),
        _("separated by {sign}").format(sign=sign) if imported.delimiter else "",
        plain(imported.encoding or ""),
        imported.compression or "",
    )
    return _(", ").join(part for part in parts if part)


def wants_table(key: str) -> bool:
    """Whether the visitor has chosen to read a file as a plain table; `key`: key of that option."""
    return bool(state.get(key) == _TABLE)


def show(imported: table_reader.Imported, key: str) -> None:
    """The recognised format, what it means for training, and the option if there is one."""
    found = imported.recognised
    sentence = _("Recognised: {form}, {rows} of {total} rows.")
    st.markdown(sentence.format(form=_(_FORMS[found.form]), rows=number(found.rows), total=number(found.of)))
    chosen_table = wants_table(key)
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
