"""Run: progress of a run and its batches, the grid as a map of states, and its rows to read, edit and leave out."""

from __future__ import annotations

from datetime import datetime, timedelta

import streamlit as st

from core.datasets import datasets
from core.datasets.datasets import DatasetSummary
from core.db.tables import utcnow
from core.generation import run_progress
from core.generation.batch.batch_store import BatchView
from core.generation.run_progress import RunProgress
from core.pricing.prices import ENGINE
from pages.ui import cache, live_updates, state
from pages.ui.components import cards, views
from pages.ui.components.money import run_price
from pages.ui.dataset import dataset_picker, heat_map, remedies, row_cards, row_table, run_controls
from pages.ui.i18n import _, ago, as_markdown, code, duration, localized, mark, n_, number, plain, row_speed, usd

_RUN_STATES = {
    "queued": mark("Waiting for the worker"),
    "running": mark("Writing"),
    "waiting": mark("Waiting for the provider"),
    "pausing": mark("Pausing"),
    "paused": mark("Paused"),
    "stopping": mark("Stopping"),
    "stopped": mark("Stopped"),
    "done": mark("Finished"),
    "failed": mark("Stopped by an error"),
}

_SHOWN_BATCHES = 4  # at most this many batches are at the provider at the same time; earlier ones have been collected
_BATCH_WINDOW = timedelta(hours=24)  # the provider's own time limit for a batch
_BATCH_STATES = {
    "preparing": (mark("Preparing"), "edit_document"),
    "submitting": (mark("Submitting"), "upload"),
    "validating": (mark("The provider is checking the file"), "rule"),
    "in_progress": (mark("The provider is writing"), "edit_note"),
    "finalizing": (mark("Almost ready"), "inventory_2"),
    "cancelling": (mark("Cancelling the batch"), "cancel"),
    "collecting": (mark("Collecting results"), "download"),
    "done": (mark("Collected"), "check_circle"),
    "expired": (mark("Expired, collected"), "timer_off"),
    "failed": (mark("Failed"), "error"),
    "stranded": (mark("At another account"), "link_off"),
    "cancelled": (mark("Ended early"), "cancel"),
}
_BATCH_NEXT = {
    "preparing": mark("Writing the rows to a file for the provider."),
    "submitting": mark("File uploaded. It will be submitted exactly once."),
    "validating": mark("The provider checks the file for a few minutes, then starts writing."),
    "finalizing": mark("All texts are written. Fabula collects them as soon as the provider's results file is ready."),
    "cancelling": mark("This takes up to ten minutes. Then Fabula collects the finished texts."),
    "collecting": mark("Saving the answers to their rows."),
    "expired": mark("Finished rows are kept; the rest is submitted again."),
    "cancelled": mark("Finished rows are kept; you can write the rest later."),
    "stranded": mark("The provider was edited. Set it back to its earlier address and key, then resume."),
}


def show() -> None:
    """Render the whole section."""
    chosen = dataset_picker.pick()
    if chosen is None:
        return
    _another_one(chosen.id)
    summary, progress = cache.run_of(chosen.id)
    active = run_controls.is_active(progress)
    st.fragment(run_every=cache.POLL_S if active else None)(_watch)(chosen.id, active)
    heat_map.show(summary, active)
    _rows(summary, active)


def _rows(summary: DatasetSummary, active: bool) -> None:
    """Render the table; collapsed during a run, because it shows a snapshot while rows are still arriving."""
    if not active:
        row_table.show(summary)
        return
    table = st.expander(_("All rows"), icon=":material/table_rows:", key="dataset_table", on_change="rerun")
    if table.open:
        with table:
            st.button(_("Refresh"), icon=":material/refresh:", type="tertiary", key="dataset_refresh")
            row_table.show(summary)
    else:
        cards.undo_button()
        row_cards.dialog(summary.id)


def _watch(dataset_id: str, was_active: bool) -> None:
    """Render the live part of the page. Reruns the whole page when a run starts or ends."""
    with cards.show_errors():
        # while nothing is written, the run may be resumed in another tab
        found = cache.run_of(dataset_id) if was_active else live_updates.follow(cache.run_of, dataset_id)
        summary, progress = found
        _panel(summary, progress)
        if was_active != run_controls.is_active(progress):  # after the buttons: before them, a click would be lost
            st.rerun()


def _another_one(dataset_id: str) -> None:
    """Close dialogs and filters of another data set."""
    if state.get("dataset_rows_shown") != dataset_id:
        state.set_value("dataset_rows_shown", dataset_id)
        state.set_value("dataset_filter", "all")
        state.set_value("dataset_words", "")
        row_cards.open_row(None)
        cards.forget_undo()


def _panel(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """Render the run's progress, or a summary of imported rows."""
    if progress is None:
        _loaded(summary)
    else:
        _bar(summary, progress)
        if progress.mode == "batch" or cache.batches_of(progress.run_id):
            batches(progress)
    run_controls.show(summary, progress)


def _loaded(summary: DatasetSummary) -> None:
    """Render the summary of imported rows, which were not written by a run."""
    parts = [n_("{n} row, all done", "{n} rows, all done", summary.done)]
    if summary.pending:
        parts = [_("{done} of {total}").format(done=number(summary.done), total=number(summary.total))]
    if summary.excluded:
        parts.append(n_("{n} left out", "{n} left out", summary.excluded))
    st.caption(" · ".join(parts))


def _bar(summary: DatasetSummary, progress: RunProgress) -> None:
    over = summary.done + summary.excluded
    share = over / summary.total if summary.total else 1.0
    active = run_controls.is_active(progress)
    parts = [
        _("**{state}**").format(state=_(_RUN_STATES.get(progress.state, progress.state))),
        _("{done} of {total}").format(done=number(summary.done), total=number(summary.total)),
        n_("{n} failed", "{n} failed", summary.failed) if summary.failed else "",
        n_("{n} left out", "{n} left out", summary.excluded) if summary.excluded else "",
        n_("{n} to write again", "{n} to write again", progress.remaining) if progress.failed_only and active else "",
        row_speed(progress.rows_per_s),
        n_("{n} token", "{n} tokens", progress.tokens) if progress.tokens else "",
        _money(progress),
        _("done in {time}").format(time=duration(progress.eta_s)) if progress.eta_s is not None else "",
    ]
    st.progress(min(share, 1.0), text=" · ".join(part for part in parts if part))
    if progress.note and active:
        for line in localized(progress.note).splitlines():
            st.caption(f":material/hourglass_top: {as_markdown(line)}")
    elif not active and (recipe := datasets.recipe(cache.store(), summary.id)) is not None:
        views.parameter_notes(views.rejected_parameters(recipe))
    if progress.state == "waiting":
        remedies.waiting(progress)
    elif not active:
        remedies.ended(summary, progress)
    remedies.failed(summary, progress, idle=not active)


def _money(progress: RunProgress) -> str:
    """Cost so far, the limit, and the projected total."""
    paid = progress.tokens or progress.max_usd
    if progress.provider == ENGINE:
        return run_price(progress.run_id) if paid else ""
    if progress.budget_usd is None and (not paid or progress.cost_usd == 0):
        return ""
    spent = usd(progress.cost_usd) if progress.cost_usd is not None else _("cost unknown")
    if progress.cost_usd is None and progress.max_usd is not None:  # no request has a known cost
        spent = _("up to {most}").format(most=usd(progress.max_usd))
    if progress.budget_usd is not None and progress.cost_usd is None and progress.max_usd is None:
        return _("cost unknown, limit {most}").format(most=usd(progress.budget_usd))
    if progress.budget_usd is not None:
        spent = _("{spent} of at most {most}").format(spent=spent, most=usd(progress.budget_usd))
    if (run_controls.is_active(progress) or run_controls.is_capped(progress)) and progress.projected_usd:
        spent = _("{spent}, about {whole} in total").format(spent=spent, whole=usd(progress.projected_usd))
    return spent


def batches(progress: RunProgress) -> None:
    """Render the panel of a batch run."""
    found = cache.batches_of(progress.run_id)
    going = progress.state in run_progress.UNDER_WAY
    with st.container(border=True):
        st.markdown(f":material/schedule_send: **{_('Written as a batch')}** · {_batch_heading(found, going)}")
        for batch in found[:_SHOWN_BATCHES]:
            _batch(batch)
        if len(found) > _SHOWN_BATCHES:
            earlier = len(found) - _SHOWN_BATCHES
            st.caption(n_("and {n} earlier batch, collected", "and {n} earlier batches, collected", earlier))


def _batch_heading(found: tuple[BatchView, ...], going: bool) -> str:
    """The title, and whether you can close the page."""
    waiting = any(not batch.over and not batch.stranded for batch in found)
    if going and (waiting or not found):
        return _("you can close this page: the worker collects the results")
    if waiting:
        return _("the provider continues with its rows; resume the run to collect them")
    return n_("{n} row collected", "{n} rows collected", sum(batch.completed for batch in found))


def _batch(batch: BatchView) -> None:
    """Render one batch: a progress bar while it runs, a line after the end."""
    where = _batch_state(batch)
    words, icon = _BATCH_STATES.get(where, (plain(where), "hourglass_top"))
    now = utcnow()
    parts = [
        f":material/{icon}: {_(words)}",
        _("{done} of {total}").format(done=number(batch.completed), total=number(batch.total)),
        n_("{n} failed", "{n} failed", batch.failed) if batch.failed else "",
        ago(batch.created_at, now),
        code(batch.remote_id) if batch.remote_id else "",
    ]
    line = " · ".join(part for part in parts if part)
    if batch.over:
        st.markdown(line)
    else:
        share = (batch.completed + batch.failed) / batch.total if batch.total else 0.0
        st.progress(min(share, 1.0), text=line)
    after = _batch_next(batch, where, now)
    if after:
        st.caption(after)


def _batch_state(batch: BatchView) -> str:
    """The batch's state as a key of `_STATES`. A provider's status that is not in it is returned unchanged."""
    if batch.stranded and not batch.over:
        return "stranded"
    if batch.state == "waiting":
        return batch.remote_status or "validating"
    return "expired" if batch.state == "done" and batch.remote_status == "expired" else batch.state


def _batch_next(batch: BatchView, where: str, now: datetime) -> str:
    """What happens next, or the error."""
    if where == "failed":
        return as_markdown(batch.reason) if batch.reason else ""
    if where == "in_progress":
        left = (batch.created_at + _BATCH_WINDOW - now).total_seconds()
        if left > 0:
            return _("Up to {time} left; most batches finish much sooner.").format(time=duration(left))
        return _("The provider's one-day limit has passed; it will end the batch soon.")
    return _(_BATCH_NEXT[where]) if where in _BATCH_NEXT else ""
