"""The batches of a run: the state of each, since when, and what happens next."""

from __future__ import annotations

from datetime import datetime, timedelta

import streamlit as st

from core.db.tables import utcnow
from core.generation.batch.batch_store import BatchView
from core.generation.runs import RunProgress
from pages.ui import cached
from pages.ui.lang import _, ago, as_markdown, code, duration, mark, n_, number, plain

_SHOWN = 4  # at most this many are at the provider at the same time; earlier ones are collected
_WINDOW = timedelta(hours=24)  # the provider's own time limit for a batch
_GOING = ("queued", "running", "pausing", "stopping")
_STATES = {
    "preparing": (mark("Preparing"), "edit_document"),
    "submitting": (mark("Submitting"), "upload"),
    "validating": (mark("The provider is checking the file"), "rule"),
    "in_progress": (mark("The provider is writing"), "edit_note"),
    "finalizing": (mark("Almost ready"), "inventory_2"),
    "cancelling": (mark("Cancelling the batch"), "cancel"),
    "collecting": (mark("Collecting results"), "download"),
    "done": (mark("Collected"), "check_circle"),
    "expired": (mark("Expired, collected"), "timer_off"),
    "failed": (mark("Rejected by the provider"), "error"),
    "cancelled": (mark("Ended early"), "cancel"),
}
_NEXT = {
    "preparing": mark("Writing the rows to a file for the provider."),
    "submitting": mark("File uploaded. It will be submitted exactly once."),
    "validating": mark("The provider checks the file for a few minutes, then starts writing."),
    "finalizing": mark("All texts are written. Fabula collects them as soon as the provider's results file is ready."),
    "cancelling": mark("This takes up to ten minutes. Then Fabula collects the finished texts."),
    "collecting": mark("Saving the answers to their rows."),
    "expired": mark("Finished rows are kept; the rest is submitted again."),
    "cancelled": mark("Finished rows are kept; you can write the rest later."),
}


def show(progress: RunProgress) -> None:
    """The panel of a batch run."""
    found = cached.batches_of(progress.run_id)
    going = progress.state in _GOING
    with st.container(border=True):
        st.markdown(f":material/schedule_send: **{_('Written as a batch')}** · {_heading(found, going)}")
        for batch in found[:_SHOWN]:
            _one(batch)
        if len(found) > _SHOWN:
            earlier = len(found) - _SHOWN
            st.caption(n_("and {n} earlier batch, collected", "and {n} earlier batches, collected", earlier))


def _heading(found: tuple[BatchView, ...], going: bool) -> str:
    """The title, and whether you can close the page."""
    waiting = any(not batch.over for batch in found)
    if going and (waiting or not found):
        return _("you can close this page: the worker collects the results")
    if waiting:
        return _("the provider continues with its rows; resume the run to collect them")
    return n_("{n} row collected", "{n} rows collected", sum(batch.completed for batch in found))


def _one(batch: BatchView) -> None:
    """One batch: a progress bar while it runs, a line after the end."""
    where = _where(batch)
    words, icon = _STATES.get(where, (plain(where), "hourglass_top"))
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
    after = _next(batch, where, now)
    if after:
        st.caption(after)


def _where(batch: BatchView) -> str:
    """The batch's state as a key of `_STATES`. A provider's status that is not in it is returned unchanged."""
    if batch.state == "waiting":
        return batch.status or "validating"
    return "expired" if batch.state == "done" and batch.status == "expired" else batch.state


def _next(batch: BatchView, where: str, now: datetime) -> str:
    """What happens next, or the error."""
    if where == "failed":
        return as_markdown(batch.reason) if batch.reason else ""
    if where == "in_progress":
        left = (batch.created_at + _WINDOW - now).total_seconds()
        if left > 0:
            return _("Up to {time} left; most batches finish much sooner.").format(time=duration(left))
        return _("The provider's one-day limit has passed; it will end the batch soon.")
    return _(_NEXT[where]) if where in _NEXT else ""
