"""Columns from a file: each chosen column becomes a column of the grid, with the values that occur in it."""

from __future__ import annotations

import streamlit as st

from core.datasets.importers import table_reader
from core.datasets.recipe import unique_values
from pages.ui import cards, state
from pages.ui.dataset import upload, upload_form
from pages.ui.dataset.column_form import take
from pages.ui.lang import _, as_markdown, n_, number, plain

_SHOWN_PROBLEMS = 3
_MOST_VALUES = 100_000  # per column: the maximum that is useful in a grid and that a page can display


def show() -> None:
    """The button and its file dialog."""
    shown = st.popover(_("From a file"), icon=":material/upload_file:", key="dataset_column_file", on_change="rerun")
    if not shown.open:
        return
    with shown, cards.show_errors():
        file = st.file_uploader(
            upload_form.label(), type=upload.TYPES, key="dataset_values_file", width=420,
            max_upload_size=upload_form.MOST_MB,
        )  # fmt: skip
        if file is None:
            st.caption(_("Each column you choose becomes a column of the grid, with every value that occurs in it."))
            return
        found, problems = _columns(file.file_id, file.getvalue(), file.name)
        if problems:
            st.warning("  \n".join(as_markdown(problem) for problem in problems), icon=":material/report:")
        chosen = st.multiselect(
            _("Columns"),
            list(found),
            format_func=lambda name: _("{name} ({values})").format(
                name=name, values=n_("{n} value", "{n} values", len(found[name]))
            ),
            key="dataset_file_columns",
            placeholder=_("Choose at least one"),
        )
        too_many = [name for name in chosen if len(found[name]) > _MOST_VALUES]
        for name in too_many:
            st.warning(
                _("{name} has more than {most} distinct values. Choose another column.").format(
                    name=plain(name), most=number(_MOST_VALUES)
                )
            )
        st.button(
            _("Use these columns"),
            type="primary",
            key="dataset_use_file",
            disabled=not chosen or bool(too_many),
            on_click=_use,
            args=({name: found[name] for name in chosen},),
        )


def _columns(file_id: str, data: bytes, name: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The columns of the file with their different values, and what was left out; read once per upload."""
    studio = state.studio()
    if studio.columns_read is None or studio.columns_read[0] != file_id:
        read = table_reader.read_table(data, name)
        columns = {str(column): unique_values(read.frame[column].tolist()) for column in read.frame.columns}
        studio.columns_read = (file_id, (columns, read.left_out_summary(_SHOWN_PROBLEMS)))
    found: tuple[dict[str, tuple[str, ...]], list[str]] = studio.columns_read[1]
    return found


def _use(columns: dict[str, tuple[str, ...]]) -> None:
    """The values go to a column of the same name, else to an empty, unnamed column, else to a new one."""
    studio = state.studio()
    for name, values in columns.items():
        names = {draft.id: str(state.get(f"dataset_name_{draft.id}") or "") for draft in studio.grid.columns}
        same = next((key for key, name_of_key in names.items() if name_of_key == name), None)
        if same is None:
            same = next((d.id for d in studio.grid.columns if not names[d.id].strip() and not d.values), None)
        if same is None:
            studio.grid = studio.grid.with_column(name, values)
            continue
        take(same, values, values)
        state.set_value(f"dataset_name_{same}", name)
    state.set_value("dataset_column_file", False)
