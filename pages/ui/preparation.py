"""Preparation for training, as the data-set and the training page show it: format, separator, stop, system text."""

from __future__ import annotations

import json
from typing import Final

import streamlit as st

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.datasets import DatasetSummary
from core.datasets.importers import table_reader
from core.datasets.versions import Version
from core.errors import FabulaError
from core.finetuning.job_form import MAX_MARKER_LENGTH, FileFormat
from pages.ui import cached, cached_rows, cards, state
from pages.ui.cached_rows import TrainingFilePreview, TrainingFormat
from pages.ui.lang import _, as_markdown, mark
from pages.ui.limited_fields import text_field

_COMPLETION: Final = "completion"
_CHAT: Final = "chat"
_FORMATS: dict[FileFormat, str] = {_COMPLETION: mark("Prompt and completion"), _CHAT: mark("Chat")}
_WILL = ("add_separator", "add_space", "add_stop", "roles", "system")
_SYSTEM_TEXT_HEIGHT = 100  # px
_SHOWN_START, _SHOWN_END = 40, 24  # characters of a story


def rows_of(chosen: DatasetSummary, version: Version | None) -> int:
    """Number of training rows: those of a version, or the finished rows that are not held out."""
    if version is not None:
        return version.n_train
    found = cached_rows.parts(chosen.id)
    return found.get(None, 0) + found.get("train", 0)


def marks(page: str, chosen: DatasetSummary, version: Version | None, only: FileFormat | None = None) -> TrainingFormat:
    """Format, separator and stop; the fields start with the proposal for these rows.

    `only`: the only format that the model accepts.
    """
    with st.popover(_("More"), icon=":material/tune:"):
        key = f"{page}_format_{chosen.id}"
        state.set_default(key, _CHAT if chosen.source == table_reader.CHAT else _COMPLETION)
        chat = only or st.segmented_control(
            _("Format of the file"),
            list(_FORMATS),
            required=True,
            format_func=lambda one: _(_FORMATS[one]),
            key=key,
        )
        if chat == _CHAT:
            _system_text(page, chosen.id)
            return TrainingFormat(file_format="chat")
        proposed = _proposed(chosen, version)
        place, start = _place(chosen, version), proposed or TrainingFormat()
        separator = _mark(_("Separator: ends every prompt"), f"{page}_separator_{place}", start.separator)
        stop = _mark(_("Stop: ends every completion"), f"{page}_stop_{place}", start.stop)
        st.caption(_("\\n is a line break. Leave a field empty to use the suggestion."))
    return TrainingFormat(
        None if proposed and separator == proposed.separator else separator,
        None if proposed and stop == proposed.stop else stop,
    )


def carry(chosen: DatasetSummary, version: Version | None, source: str, target: str) -> None:
    """Copy the choices from one page to another."""
    place = _place(chosen, version)
    for name in (f"format_{chosen.id}", f"separator_{place}", f"stop_{place}"):
        if (value := state.get(f"{source}_{name}")) is not None:
            state.set_value(f"{target}_{name}", value)


def put(page: str, chosen: DatasetSummary, version: Version | None, marks: TrainingFormat) -> None:
    """Set the marks in the fields of a page, before they are drawn or in a callback. None keeps the proposal."""
    state.set_value(f"{page}_format_{chosen.id}", _CHAT if marks.file_format == "chat" else _COMPLETION)
    for name, value in (("separator", marks.separator), ("stop", marks.stop)):
        if value is not None:
            state.set_value(f"{page}_{name}_{_place(chosen, version)}", value.replace("\n", "\\n"))


def report(preview: TrainingFilePreview) -> None:
    """Draw checks and changes with reasons, then two lines of the file with separator and stop visible."""
    found = [finding for finding in preview.plan.report if finding.kind not in _WILL]
    done = [finding for finding in preview.plan.report if finding.kind in _WILL]
    for icon, findings in ((":material/check:", found), (":material/edit:", done)):
        for finding in findings:
            why = f" :gray[{as_markdown(finding.why)}]" if finding.why else ""
            st.markdown(f"{icon} {as_markdown(str(finding))}{why}")
    if preview.plan.file_format == "chat":
        st.caption(_("The model reads each row like this: the prompt as the user, the text as the answer."))
    else:
        st.caption(_("The model reads each row like this: the prompt, its separator, the text, its stop."))
    for line in preview.lines:
        st.code(_shortened(line), language=None, wrap_lines=True)


def _proposed(chosen: DatasetSummary, version: Version | None) -> TrainingFormat | None:
    """The available marks; None if no common one is available, so that they must be entered."""
    try:
        version_id = None if version is None else version.id
        preview = cached_rows.written(chosen.id, version_id, rows_of(chosen, version), TrainingFormat()).get()
    except FabulaError:
        return None
    return TrainingFormat(preview.plan.separator, preview.plan.stop) if preview is not None else None


def _place(chosen: DatasetSummary, version: Version | None) -> str:
    return f"{chosen.id}_{chosen.done}" if version is None else f"{chosen.id}_{version.id}"


def _mark(title: str, key: str, proposed: str | None) -> str | None:
    start, before = (proposed or "").replace("\n", "\\n"), f"{key}_proposed"
    if state.get(key) is None or state.get(key) == state.get(before):  # nothing typed here: follow the proposal
        state.set_value(key, start)
    state.set_value(before, start)
    shown = text_field(title, key, MAX_MARKER_LENGTH)
    return shown.replace("\\n", "\n") or None


def _shortened(line: str) -> str:
    """A line of the file with the middle of its story shortened, so that both ends are visible."""
    row = json.loads(line)
    holder, name = (row["messages"][-1], "content") if "messages" in row else (row, "completion")
    text = holder[name]
    if len(text) > _SHOWN_START + _SHOWN_END:
        holder[name] = f"{text[:_SHOWN_START]} … {text[-_SHOWN_END:]}"
    return json.dumps(row, ensure_ascii=False)


def _system_text(page: str, dataset_id: str) -> None:
    """The text area with the stored text; at first the recipe's system text."""
    key, stored = f"{page}_system_{dataset_id}", datasets.chat_system(cached.store(), dataset_id)
    if state.get(key) is None:
        state.set_value(key, stored)
    st.text_area(
        _("System text (optional): begins every conversation of the file"),
        height=_SYSTEM_TEXT_HEIGHT,
        key=key,
        on_change=_keep_system_text,
        args=(key, dataset_id),
        help=_("Use the same one when you call the model."),
    )


def _keep_system_text(key: str, dataset_id: str) -> None:
    with cards.keep_errors():
        datasets.set_chat_system(cached.store(), LOCAL, dataset_id, str(state.get(key) or ""))
