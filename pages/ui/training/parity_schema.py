"""The JSON Schema of a parity card: what it accepts, where answers break it, and its form."""

from __future__ import annotations

import json

import streamlit as st

from core.evaluation.evaluations import EvaluationView
from core.parity import from_evaluations
from core.parity.json_schema import MAX_CHARS
from core.parity.report import ParityReport
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.components.fields import fits
from pages.ui.i18n import _, code, number
from pages.ui.sign_in import current_actor

_KEY = "training_parity_schema"


def show(tuned: EvaluationView, found: ParityReport) -> None:
    """Render the most frequent errors of the new model's answers, and the form for the schema."""
    if found.new.schema is not None and found.new.schema.errors:
        st.table(
            {
                _("The new model breaks the schema at"): [
                    code(error.path) if error.path else _("the whole answer") for error in found.new.schema.errors
                ],
                _("Rule"): [code(error.rule) for error in found.new.schema.errors],
                _("Rows"): [number(error.n) for error in found.new.schema.errors],
            },
            border="horizontal",
            alt=_("Where answers break the schema"),
        )
    with st.popover(_("JSON Schema"), icon=":material/data_object:", key=f"{_KEY}_form"):
        _form(tuned)


def _form(tuned: EvaluationView) -> None:
    """Render the schema as text, an upload, and the button that uses it."""
    st.caption(
        _("The share of answers that follow this schema is shown for both models. References to other documents "
          "are refused: nothing is fetched.")
    )  # fmt: skip
    key = f"{_KEY}_text_{tuned.id}"
    if state.get(key) is None:
        current = from_evaluations.schema_of(cache.store(), tuned)
        state.set_value(key, "" if current is None else json.dumps(current, ensure_ascii=False, indent=1))
    text = st.text_area(_("JSON Schema, or a response_format with one"), height=220, key=key)
    st.file_uploader(_("Or a file"), type=["json"], key=f"{_KEY}_file", max_upload_size=1, on_change=_read, args=(key,))
    st.button(
        _("Check the answers"), type="primary", icon=":material/rule:", key=f"{_KEY}_apply",
        disabled=not fits(text, MAX_CHARS), on_click=_apply, args=(tuned.id, key),
    )  # fmt: skip


def _read(key: str) -> None:
    file = state.get(f"{_KEY}_file")
    if file is not None:
        state.set_value(key, file.getvalue().decode("utf-8", errors="replace"))


def _apply(evaluation_id: str, key: str) -> None:
    with cards.keep_errors():
        from_evaluations.set_schema(cache.store(), current_actor(), evaluation_id, str(state.get(key) or ""))
