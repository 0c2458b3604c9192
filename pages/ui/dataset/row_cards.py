"""One row of a data set: its card, the dialog with its story and prompt, and the actions, which can be undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import streamlit as st

from core.datasets import dataset_rows
from core.datasets.dataset_rows import RowFilter, RowView
from core.db.store import Store
from core.generation import concurrency, runs
from pages.ui import cache, state
from pages.ui.components import cards, failure_labels, views
from pages.ui.components.fields import fits
from pages.ui.i18n import _, as_markdown, mark, n_, plain
from pages.ui.sign_in import current_actor

STATES = {
    "pending": mark("waiting"),
    "sent": mark("being written"),
    "done": mark("done"),
    "failed": mark("failed"),
    "excluded": mark("left out"),
}
_COLOURS: Mapping[str, Literal["gray", "orange", "blue", "red"]] = {
    "pending": "gray",
    "sent": "orange",
    "done": "blue",
    "failed": "red",
    "excluded": "gray",
}
_NEWEST = 3
_LOOKED_AT = 8 * concurrency.MAX_SHARED  # rows: the maximum of one cell that a single request can write
_MOST = 12  # per square; the table has all
_CARD_HEIGHT = 210  # px: the beginning of a story; the rest scrolls
_EMPTY = 60
_SHORT, _LONG = 120, 600  # characters that a card next to the map, or in a list, shows without scrolling

_TEXT_HEIGHT = 320  # px: a story of 300 characters without scrolling


def newest(dataset_id: str, waiting: bool) -> None:
    """Render the newest stories, newest first; during a run, with space for the next ones."""
    found = latest(cache.store(), dataset_id, more_to_come=waiting)
    if found or waiting:
        st.markdown(f"**{_('Newest texts')}**")
    for row in found:
        with st.container(border=True, height=_CARD_HEIGHT, key=f"dataset_card_{row.id}"):
            views.facts(plain(value) for value in row.values.values())
            st.text((row.text or "").strip())
    for _place in range(_NEWEST - len(found) if waiting else 0):
        with st.container(border=True, height=_CARD_HEIGHT):
            st.markdown(f":gray[:shimmer[{_('Waiting for a text')}]]")


def latest(store: Store, dataset_id: str, *, more_to_come: bool = False) -> list[RowView]:
    """The newest finished row of each of the most recent cells.

    If there are too few cells, more rows of each are included, unless there are `more_to_come`.
    """
    rows = dataset_rows.page(store, dataset_id, RowFilter(states=("done",)), newest=True, limit=_LOOKED_AT)
    cells: dict[tuple[str, ...], RowView] = {}
    for row in rows:
        cells.setdefault(tuple(row.values.values()), row)
    first = list(cells.values())
    others = [] if more_to_come else [row for row in rows if row not in first]
    return [*first, *others][:_NEWEST]


def of_place(dataset_id: str, where: RowFilter) -> int:
    """Render the rows of the clicked square in full; returns their number."""
    store = cache.store()
    found = dataset_rows.page(store, dataset_id, where, limit=_MOST)
    if not found:
        st.caption(_("These rows do not exist yet; they appear as the run reaches them."))
    for row in found:
        card(row)
    return dataset_rows.count(store, dataset_id, where)


def state_badge(row: RowView) -> None:
    """Render a badge with the row's state."""
    st.badge(_(STATES.get(row.state, row.state)), color=_COLOURS.get(row.state, "gray"))
    if row.edited:
        st.badge(_("edited"), color="violet", icon=":material/edit:")


def card(row: RowView, *, listed: bool = False) -> None:
    """Render one row as a card; in a list (`listed`) with its values, because its neighbours have others."""
    with st.container(border=True, key=f"dataset_listed_{row.id}" if listed else f"dataset_card_{row.id}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            state_badge(row)
            named = [plain(value) for value in row.values.values()] if listed else []
            views.facts([*named, _("repeat {n}").format(n=row.repeat + 1), *_card_reason(row)])
        if text := (row.text or "").strip():
            tall = len(text) > (_LONG if listed else _SHORT)
            with st.container(height=_CARD_HEIGHT - _EMPTY if tall else "content", border=False):
                st.text(text)
        _card_buttons(row, "listed_" if listed else "")


def _card_reason(row: RowView) -> Sequence[str]:
    return [as_markdown(reason)] if (reason := failure_labels.row_reason(row)) else []


def _set_left_out(row_id: int, left_out: bool) -> None:
    (leave_out if left_out else put_back)([row_id])


def _card_buttons(row: RowView, place: str) -> None:
    out = row.state == "excluded"
    with st.container(horizontal=True):
        pressed = st.button(
            _("Put back") if out else _("Leave out"),
            icon=":material/add_circle:" if out else ":material/remove_circle:",
            type="tertiary",
            key=f"dataset_{place}out_{row.id}",
            disabled=row.state == "sent",
            on_click=_set_left_out,
            args=(row.id, not out),
        )
        opened = st.button(
            _("Open"),
            icon=":material/open_in_full:",
            type="tertiary",
            key=f"dataset_{place}open_{row.id}",
            on_click=open_row,
            args=(row.id,),
        )
    if pressed or opened:
        st.rerun()  # the action concerns the whole part, not only this card


def dialog(dataset_id: str) -> None:
    """Render the dialog for the open row, if any."""
    row_id = state.studio().row_open
    if row_id is None:
        return
    found = dataset_rows.page(cache.store(), dataset_id, RowFilter(ids=(row_id,)), limit=1)
    if not found:
        open_row(None)
        return
    title = _("Row {row}").format(row=found[0].position + 1)
    st.dialog(title, width="medium", on_dismiss=_close)(_dialog_of)(dataset_id, found[0])


def _close() -> None:
    open_row(None)


def _dialog_of(dataset_id: str, row: RowView) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(row)
        views.facts(
            [
                *(plain(value) for value in row.values.values()),
                _("repeat {n}").format(n=row.repeat + 1),
                n_("{n} token", "{n} tokens", row.completion_tokens) if row.completion_tokens else "",
            ]
        )
    if reason := failure_labels.row_reason(row):
        st.warning(as_markdown(reason), icon=":material/info:")
    writable = row.state in ("done", "failed", "excluded")
    state.set_default(f"dataset_text_{row.id}", (row.text or "").strip())
    text = st.text_area(_("Text"), height=_TEXT_HEIGHT, key=f"dataset_text_{row.id}", disabled=not writable)
    fitting = fits(text, dataset_rows.MAX_CHARACTERS)
    if row.original is not None:
        with st.expander(_("Original text"), icon=":material/history:"):
            st.text(row.original.strip())
    with st.container(horizontal=True):
        if writable and fitting:
            _dialog_button(_("Save the text"), "save", ":material/save:", _save, (row,), primary=True)
        if row.original is not None:
            _dialog_button(_("Original text"), "revert", ":material/history:", _act_and_close, (as_written, row))
        if row.state == "excluded":
            _dialog_button(_("Put back"), "back", ":material/add_circle:", _act_and_close, (put_back, [row.id]))
        elif row.state != "sent":
            _dialog_button(_("Leave out"), "out", ":material/remove_circle:", _act_and_close, (leave_out, [row.id]))
        if row.state == "failed":
            again = (write_again, dataset_id, [row.id])
            _dialog_button(_("Write it again"), "again", ":material/replay:", _act_and_close, again)


def _dialog_button(
    label: str, key: str, icon: str, act: Callable[..., None], args: tuple[object, ...], primary: bool = False
) -> None:
    kind: Literal["primary", "secondary"] = "primary" if primary else "secondary"
    if st.button(label, icon=icon, type=kind, key=f"dataset_row_{key}", on_click=act, args=args):
        st.rerun()


def _save(row: RowView) -> None:
    text = str(state.get(f"dataset_text_{row.id}", row.text or ""))
    if text.strip() != (row.text or "").strip():
        edit(row, text)
        state.studio().table += 1
    _close()


def _act_and_close(act: Callable[..., object], *args: object) -> None:
    act(*args)
    _close()


def leave_out(row_ids: Sequence[int], reason: str = dataset_rows.BY_HAND) -> bool:
    """Leave rows out of training and export, and store the reason with each. Returns True if any changed."""
    changed: tuple[int, ...] = ()
    with cards.keep_errors():
        store = cache.store()
        changed = dataset_rows.exclude(store, current_actor(), row_ids, reason)
        if changed:
            sentence = n_("{n} row left out", "{n} rows left out", len(changed))
            cards.offer_undo(
                ":material/remove_circle:", sentence, lambda: dataset_rows.restore(store, current_actor(), changed)
            )
    return bool(changed)


def put_back(row_ids: Sequence[int]) -> bool:
    """Restore rows that were left out. Returns True if any changed."""
    changed: tuple[int, ...] = ()
    with cards.keep_errors():
        store = cache.store()
        changed = dataset_rows.restore(store, current_actor(), row_ids)
        if changed:
            sentence = n_("{n} row put back", "{n} rows put back", len(changed))
            again = dataset_rows.BY_HAND
            cards.offer_undo(
                ":material/add_circle:", sentence, lambda: dataset_rows.exclude(store, current_actor(), changed, again)
            )
        else:
            state.notify(":material/info:", _("Add a text before you put this row back."))
    return bool(changed)


def edit(row: RowView, text: str) -> bool:
    """Replace the text of a row; white space around it is kept. Returns True if it changed."""
    changed = False
    with cards.keep_errors():
        store = cache.store()
        changed = dataset_rows.edit(
            store, current_actor(), row.id, dataset_rows.with_original_whitespace(row.text or "", text)
        )
        if changed:
            cards.offer_undo(":material/edit:", _("Text changed"), lambda: _restore_text(row))
    return changed


def as_written(row: RowView) -> None:
    """Restore the model's original text."""
    with cards.keep_errors():
        store = cache.store()
        if dataset_rows.revert(store, current_actor(), row.id):
            state.studio().table += 1
            cards.offer_undo(
                ":material/history:",
                _("Original text restored"),
                lambda: dataset_rows.edit(store, current_actor(), row.id, row.text or ""),
            )


def write_again(dataset_id: str, row_ids: Sequence[int]) -> None:
    """Retry failed rows within the rest of the last run's budget."""
    with cards.keep_errors():
        mode, budget = runs.last_settings(cache.store(), dataset_id)
        runs.retry_failed(cache.store(), current_actor(), dataset_id, row_ids, budget_usd=budget, mode=mode)


def open_row(row_id: int | None) -> None:
    """Open this row's dialog in the next run; None closes it."""
    state.studio().row_open = row_id


def _restore_text(row: RowView) -> None:
    store = cache.store()
    if (row.text or "").strip():
        dataset_rows.edit(store, current_actor(), row.id, row.text or "")
    else:
        dataset_rows.revert(store, current_actor(), row.id)
