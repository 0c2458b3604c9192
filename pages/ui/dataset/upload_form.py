"""What a file was recognised as, in a sentence, and the choice to read it as a plain table."""

from __future__ import annotations

import streamlit as st

from core.dataset.intake import importing
from pages.ui import state
from pages.ui.lang import _, mark, number

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
_CONVERSATIONS = ("messages", "sharegpt", "turns", "preference")
_LEARNED = {
    "preference": mark(
        "The chosen answer is the text to learn. The rejected one is kept as a column and is not trained on."
    ),
}
_LAST_ANSWER = mark(
    "The last answer of each conversation is the text to learn; the turns before it make the prompt, and a system text "
    "is a column of its own."
)


def wants_table(key: str) -> bool:
    """Whether the visitor has chosen to read a file as a plain table; `key` is that of the choice."""
    return state.get(key) == _TABLE


def show(imported: importing.Imported, key: str) -> None:
    """The sentence, what it means for training, and the choice where there is one."""
    found = imported.recognised
    sentence = _("Recognised: {form}, {rows} of {total} rows.")
    st.markdown(sentence.format(form=_(_FORMS[found.form]), rows=number(found.rows), total=number(found.of)))
    chosen_table = wants_table(key)
    if found.form in _CONVERSATIONS:
        st.caption(_(_LEARNED.get(found.form, _LAST_ANSWER)))
    elif not chosen_table:
        return
    st.segmented_control(
        _("Read it as"),
        [_AS_FOUND, _TABLE],
        format_func={_AS_FOUND: _("Conversations"), _TABLE: _("A plain table")}.__getitem__,
        default=_AS_FOUND,
        required=True,
        key=key,
    )
