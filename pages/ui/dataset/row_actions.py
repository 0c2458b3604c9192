"""Undoable actions on rows: callbacks of the table, the cards and the dialog."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from core.actor import LOCAL
from core.datasets import curation
from core.datasets.row_query import RowView
from core.generation import runs
from pages.ui import cached, cards, state, undo
from pages.ui.lang import _, n_

CENT = Decimal("0.01")  # the smallest budget


def leave_out(row_ids: Sequence[int]) -> bool:
    """Leave rows out of training and export. Returns True if any changed."""
    changed: tuple[int, ...] = ()
    with cards.keep_errors():
        store = cached.store()
        changed = curation.exclude(store, LOCAL, row_ids, curation.BY_HAND)
        if changed:
            sentence = n_("{n} row left out", "{n} rows left out", len(changed))
            undo.offer(":material/remove_circle:", sentence, lambda: curation.restore(store, LOCAL, changed))
    return bool(changed)


def put_back(row_ids: Sequence[int]) -> bool:
    """Restore rows that were left out. Returns True if any changed."""
    changed: tuple[int, ...] = ()
    with cards.keep_errors():
        store = cached.store()
        changed = curation.restore(store, LOCAL, row_ids)
        if changed:
            sentence = n_("{n} row put back", "{n} rows put back", len(changed))
            again = curation.BY_HAND
            undo.offer(":material/add_circle:", sentence, lambda: curation.exclude(store, LOCAL, changed, again))
        else:
            state.notify(":material/info:", _("Add a text before you put this row back."))
    return bool(changed)


def edit(row: RowView, text: str) -> bool:
    """Replace the text of a row; white space around it is kept. Returns True if it changed."""
    changed = False
    with cards.keep_errors():
        store = cached.store()
        changed = curation.edit(store, LOCAL, row.id, with_original_whitespace(row.text or "", text))
        if changed:
            undo.offer(":material/edit:", _("Text changed"), lambda: _restore_text(row))
    return changed


def as_written(row: RowView) -> None:
    """Restore the model's original text."""
    with cards.keep_errors():
        store = cached.store()
        if curation.revert(store, LOCAL, row.id):
            state.studio().table += 1
            undo.offer(
                ":material/history:",
                _("Original text restored"),
                lambda: curation.edit(store, LOCAL, row.id, row.text or ""),
            )


def write_again(dataset_id: str, row_ids: Sequence[int]) -> None:
    """Retry failed rows within the rest of the last run's budget."""
    with cards.keep_errors():
        mode, budget = last_run_settings(dataset_id)
        runs.retry_failed(cached.store(), LOCAL, dataset_id, row_ids, budget_usd=budget, mode=mode)


def last_run_settings(dataset_id: str) -> tuple[runs.Mode, Decimal | None]:
    """The mode of the newest run of a data set, and its remaining budget (at least one cent); None: no budget."""
    last = runs.latest(cached.store(), dataset_id)
    if last is None:
        return "live", None
    if last.budget_usd is None:
        return last.mode, None
    return last.mode, max(last.budget_usd - (last.at_most_usd or Decimal(0)), CENT)


def open_row(row_id: int | None) -> None:
    """Open this row's dialog in the next run; None closes it."""
    state.studio().row_open = row_id


def with_original_whitespace(before: str, text: str) -> str:
    """`text` with the outer white space of `before` (stories of the 2023 article start with two newlines)."""
    bare = before.strip()
    if not bare or not text.strip():
        return text
    start = before.index(bare)
    return before[:start] + text.strip() + before[start + len(bare) :]


def _restore_text(row: RowView) -> None:
    store = cached.store()
    if (row.text or "").strip():
        curation.edit(store, LOCAL, row.id, row.text or "")
    else:
        curation.revert(store, LOCAL, row.id)
