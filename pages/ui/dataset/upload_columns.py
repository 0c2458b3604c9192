"""The roles of a file's columns, and the resulting examples."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.datasets.importers import column_mapping, table_reader
from core.errors import BadFile
from core.message import msg
from pages.ui.components import cards, views
from pages.ui.i18n import _, listed, mark, n_, plain

_SHOWN_TEXT = 240  # characters of an example: enough to recognise it
_FEWEST_COLUMNS = 2  # minimum for a file with prompts and completions
_SEPARATORS = {
    ",": mark("Comma"),
    "\n": mark("New line"),
    "\n\n": mark("Blank line"),
    " ": mark("Space"),
    "\t": mark("Tab"),
    "": mark("Nothing"),
}


def choose(imported: table_reader.Imported, key: Callable[[str], str]) -> column_mapping.ColumnMapping:
    """Render the choice of each column's role, initially guessed from its name. `key` is a prefix of widget keys."""
    columns = [str(column) for column in imported.frame.columns]
    guess = column_mapping.guess(imported.frame)
    left_half, right_half = st.columns(2)
    completion = str(
        left_half.selectbox(
            _("Completion column"),
            columns,
            index=columns.index(guess.completion),
            key=key("completion"),
        )
    )
    left = [column for column in columns if column != completion]
    prompts = st.multiselect(
        _("Prompt columns, in order"),
        left,
        default=[column for column in guess.prompts if column in left],
        key=key("prompts"),
        placeholder=_("Choose at least one"),
    )
    free = [column for column in left if column not in prompts]
    split = None
    if free:
        split = right_half.selectbox(
            _("Split column (train, validation, held out)"),
            free,
            index=free.index(guess.split) if guess.split in free else None,
            key=key("split"),
            placeholder=_("None: decide later"),
            help=_("Allowed values: train, validation, held out (test). An empty cell leaves the row undecided."),
        )
    separator = _separator(guess.separator, key("separator")) if len(prompts) > 1 else guess.separator
    rejected = _rejected([column for column in free if column != split], guess.rejected, key("rejected"))
    return column_mapping.ColumnMapping(tuple(map(str, prompts)), completion, split, separator, rejected)


def _rejected(free: list[str], guess: str | None, key: str) -> str | None:
    """Render the choice of the column with rejected answers, if a name suggests that there is one."""
    if guess is None and not any(map(column_mapping.is_rejected_answer, free)):
        return None
    return st.selectbox(
        _("Rejected answer, for preference training (DPO)"), free, index=free.index(guess) if guess in free else None,
        key=key, placeholder=_("None: these are no preferences"),
    )  # fmt: skip


def _separator(guess: str, key: str) -> str:
    chosen = st.selectbox(
        _("Separator between prompt columns"),
        list(_SEPARATORS),
        index=list(_SEPARATORS).index(guess),
        format_func=lambda one: _(_SEPARATORS[one]),
        key=key,
        help=_("Empty cells add no separator."),
        width=260,
    )
    return str(chosen)


def outlook(imported: table_reader.Imported, chosen: column_mapping.ColumnMapping) -> bool:
    """Render the number of examples and the first one; False, with the reason, if the roles cannot be used."""
    if len(imported.frame.columns) < _FEWEST_COLUMNS:
        cards.error_card(
            BadFile(
                msg("There is only one column; prompts and answers need two."),
                msg("Add a column with the answers."),
            )
        )
        return False
    if not chosen.prompts:
        message = _("Choose at least one prompt column; it can't be the completion column.")
        st.caption(f":material/info: {message}")
        return False
    try:
        found = column_mapping.mapping_preview(imported.frame, chosen)
    except BadFile as problem:
        cards.error_card(problem)
        return False
    parts = (_rows(part, count) for part, count in found.splits.items())
    empty = n_("{n} row without a completion", "{n} rows without a completion", found.empty) if found.empty else ""
    views.facts((n_("{n} example", "{n} examples", found.examples), *parts, empty))
    if system := column_mapping.shared_system(imported.frame, chosen):
        message = plain(system[:_SHOWN_TEXT])
        st.caption(_("System text of every conversation: {text}").format(text=message))
    st.caption(_trained_on(chosen))
    if column_mapping.holds_json(imported.frame, chosen.completion):
        st.warning(
            _(
                "Most cells in **{column}** contain JSON, so the model would learn to write JSON. Choose "
                "another column if you don't want that."
            ).format(column=plain(chosen.completion)),
            icon=":material/data_object:",
        )
    st.code(column_mapping.example(imported.frame, chosen, 0, _SHOWN_TEXT), language="json", wrap_lines=True)
    return True


def _trained_on(chosen: column_mapping.ColumnMapping) -> str:
    """How a row is used for training, as a sentence."""
    prompts = listed(f"**{plain(column)}**" for column in chosen.prompts)
    completion = f"**{plain(chosen.completion)}**"
    if len(chosen.prompts) == 1:
        return _("Prompt: {prompt}. Completion (the text to learn): {completion}.").format(
            prompt=prompts, completion=completion
        )
    return _("Prompt: {prompts}, joined by {separator}. Completion (the text to learn): {completion}.").format(
        prompts=prompts, separator=_(_SEPARATORS[chosen.separator]), completion=completion
    )


def _rows(part: str | None, count: int) -> str:
    """How many rows belong to a part."""
    if part == "held_out":
        return n_("{n} row held out", "{n} rows held out", count)
    if part == "train":
        return n_("{n} row to train on", "{n} rows to train on", count)
    if part == "validation":
        return n_("{n} row for validation", "{n} rows for validation", count)
    return n_("{n} row undecided", "{n} rows undecided", count)
