"""One column of the grid: name, values as chips, a list to paste, undo for a removed column; columns from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import streamlit as st

from core.datasets.importers import table_reader
from core.datasets.recipe import COLUMN_TYPES, Column, ColumnType, parse_values, unique_values
from pages.ui import state
from pages.ui.components import cards
from pages.ui.dataset import importing
from pages.ui.i18n import _, as_markdown, column_name, label, listed, mark, n_, number, plain
from pages.ui.state import ColumnDraft

_MOST_CHIPS = 60  # more values are shown as a list
_SHOWN = 12
_LIST_HEIGHT = 320  # pixels
_TYPES: Mapping[ColumnType, str] = {
    "auto": mark("Automatic"),
    "word": mark("Must appear"),
    "style": mark("Need not appear"),
}

_SHOWN_PROBLEMS = 3
_MOST_VALUES = 100_000  # per column: the maximum that is useful in a grid and that a page can display


def column(draft: ColumnDraft) -> Column:
    """Render the column and return its current name and values."""
    name_key = f"dataset_name_{draft.id}"
    state.set_default(name_key, draft.name)
    left, right = st.columns([4, 9])
    with left, st.container(horizontal=True, vertical_alignment="bottom", gap="xxsmall"):
        name = st.text_input(_label(draft.name), key=name_key, placeholder=_("Name"), persist_state="session")
        st.button(
            ":material/delete:",
            type="tertiary",
            help=_("Remove this column"),
            key=f"dataset_remove_{draft.id}",
            on_click=_remove,
            args=(draft.id,),
        )
    with right:
        values = _chips(draft) if len(draft.values) <= _MOST_CHIPS else _value_summary(draft)
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.text_input(
                _("Add values"),
                key=f"dataset_add_{draft.id}",
                placeholder=_("Add values, separated by commas"),
                label_visibility="collapsed",
                on_change=_add,
                args=(draft.id,),
            )
            _list(draft)
    return Column(name=(name or "").strip(), values=values, type=draft.type)


def _label(name: str) -> str:
    """ "Column", with the translated column name if a preset has one."""
    shown = column_name(name)
    return _("Column") if shown == name else f"{_('Column')} · {label(shown)}"


def removed() -> None:
    """Render the most recently removed column, with an undo button."""
    last_removed = state.studio().grid.removed
    if last_removed is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        values = n_("{n} value", "{n} values", len(last_removed[1].values))
        st.caption(
            _("Removed: {column}, {values}").format(column=plain(last_removed[1].name or _("a column")), values=values)
        )
        st.button(_("Undo"), icon=":material/undo:", type="tertiary", key="dataset_undo_remove", on_click=_bring_back)


def take(column_id: int, values: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    """Give a column these values, with the chosen ones switched on. Call only from a callback."""
    studio = state.studio()
    studio.grid = studio.grid.with_values(column_id, values)
    state.set_value(f"dataset_values_{column_id}", list(chosen))


def _chips(draft: ColumnDraft) -> tuple[str, ...]:
    """A chip for each value; returns the values that are switched on."""
    key = f"dataset_values_{draft.id}"
    state.set_default(key, list(draft.values))
    chosen = st.pills(_("Values"), draft.values, selection_mode="multi", key=key, persist_state="session", wrap=True)
    on = set(chosen or ())
    return tuple(value for value in draft.values if value in on)


def _value_summary(draft: ColumnDraft) -> tuple[str, ...]:
    """Render the number of values and the first few, if there are too many for chips. All are used."""
    first = listed(plain(value) for value in draft.values[:_SHOWN])
    count = n_("{n} value", "{n} values", len(draft.values))
    st.markdown(_("**{values}**: {first}, …").format(values=count, first=first))
    return draft.values


def _list(draft: ColumnDraft) -> None:
    """Render all values as text, one per line, to paste, sort or remove."""
    shown = st.popover(_("List"), icon=":material/list:", key=f"dataset_list_{draft.id}", on_change="rerun")
    if not shown.open:
        return
    with shown:
        key = f"dataset_pasted_{draft.id}"
        state.set_default(key, "\n".join(draft.values))
        text = st.text_area(
            _("One value per line; in a single line, separate values with commas or tabs"),
            key=key,
            height=_LIST_HEIGHT,
            width=420,
        )
        found = parse_values(text or "", draft.values)
        st.button(
            n_("Use {n} value", "Use {n} values", len(found)),
            key=f"dataset_use_{draft.id}",
            type="primary",
            disabled=found == draft.values,
            on_click=_use,
            args=(draft.id, found),
        )
        _type(draft)


def _type(draft: ColumnDraft) -> None:
    """Render the picker for the column's type: how its values appear in the texts."""
    key = f"dataset_type_{draft.id}"
    state.set_value(key, draft.type)
    st.segmented_control(
        _("The values in the texts"),
        COLUMN_TYPES,
        format_func=lambda column_type: _(_TYPES[column_type]),
        required=True,
        key=key,
        help=_(
            "A name or a thing must appear in each text; the quality report lists texts without it. A mood or an "
            "instruction need not appear. Automatic: decided from the finished texts."
        ),
        on_change=_set_type,
        args=(draft.id, key),
    )


def _set_type(column_id: int, key: str) -> None:
    state.studio().grid = state.studio().grid.with_type(column_id, state.get(key))


def _use(column_id: int, values: tuple[str, ...]) -> None:
    """Apply the edited list; chips that were off stay off."""
    draft = _draft(column_id)
    chosen = state.get(f"dataset_values_{column_id}")
    off = set() if chosen is None else set(draft.values) - set(chosen)
    take(column_id, values, tuple(value for value in values if value not in off))
    state.set_value(f"dataset_list_{column_id}", False)
    state.drop(f"dataset_pasted_{column_id}")


def _add(column_id: int) -> None:
    """Add the typed values, switched on."""
    key = f"dataset_add_{column_id}"
    draft = _draft(column_id)
    new = unique_values(parse_values(state.get(key) or ""), draft.values)
    values = tuple(dict.fromkeys((*draft.values, *new)))
    before = state.get(f"dataset_values_{column_id}")
    chosen = set(draft.values if before is None else before) | set(new)
    take(column_id, values, tuple(value for value in values if value in chosen))
    state.set_value(key, "")
    state.drop(f"dataset_pasted_{column_id}")


def _remove(column_id: int) -> None:
    studio = state.studio()
    draft = replace(_draft(column_id), name=str(state.get(f"dataset_name_{column_id}") or ""))
    columns = tuple(draft if column.id == column_id else column for column in studio.grid.columns)
    studio.grid = replace(studio.grid, columns=columns).without(column_id)
    state.set_value(f"dataset_kept_{column_id}", state.get(f"dataset_values_{column_id}"))


def _bring_back() -> None:
    studio = state.studio()
    if studio.grid.removed is None:
        return
    draft = studio.grid.removed[1]
    studio.grid = studio.grid.with_removed()
    state.set_value(f"dataset_name_{draft.id}", draft.name)
    chosen = state.get(f"dataset_kept_{draft.id}")
    state.set_value(f"dataset_values_{draft.id}", list(draft.values if chosen is None else chosen))


def _draft(column_id: int) -> ColumnDraft:
    return next(column for column in state.studio().grid.columns if column.id == column_id)


def from_file() -> None:
    """Render the button and its file dialog."""
    shown = st.popover(_("From a file"), icon=":material/upload_file:", key="dataset_column_file", on_change="rerun")
    if not shown.open:
        return
    with shown, cards.show_errors():
        file = st.file_uploader(
            importing.file_label(), type=importing.FILE_TYPES, key="dataset_values_file", width=420,
            max_upload_size=importing.MAX_FILE_MB,
        )  # fmt: skip
        if file is None:
            st.caption(_("Each column you choose becomes a column of the grid, with every value that occurs in it."))
            return
        found, problems = _columns_of_file(file.file_id, file.getvalue(), file.name)
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
            on_click=_use_columns,
            args=({name: found[name] for name in chosen},),
        )


def _columns_of_file(file_id: str, data: bytes, name: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The columns of the file with their different values, and what was left out; read once per upload."""
    studio = state.studio()
    if studio.columns_read is None or studio.columns_read[0] != file_id:
        read = table_reader.read_table(data, name)
        columns = {str(column): unique_values(read.frame[column].tolist()) for column in read.frame.columns}
        studio.columns_read = (file_id, (columns, read.left_out_summary(_SHOWN_PROBLEMS)))
    found: tuple[dict[str, tuple[str, ...]], list[str]] = studio.columns_read[1]
    return found


def _use_columns(columns: dict[str, tuple[str, ...]]) -> None:
    """Put the values into the column of the same name, else into an empty, unnamed column, else into a new one."""
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
