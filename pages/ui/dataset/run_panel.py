"""The panel of a run: progress bar with a summary, failures by cause, what it is waiting for."""

from __future__ import annotations

import streamlit as st

from core.datasets import datasets
from core.datasets.datasets import DatasetSummary
from core.generation.runs import RunProgress
from core.pricing.prices import ENGINE
from pages.ui import cached, parameter_notes
from pages.ui.dataset import batch_card, remedies, run_budget, run_controls
from pages.ui.lang import _, as_markdown, duration, mark, n_, number, row_speed, usd
from pages.ui.money import run_price

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


def show(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """The panel."""
    if progress is None:
        _loaded(summary)
    else:
        _bar(summary, progress)
        if progress.mode == "batch" or cached.batches_of(progress.run_id):
            batch_card.show(progress)
    run_controls.show(summary, progress)


def _loaded(summary: DatasetSummary) -> None:
    """The summary of imported rows, which were not written by a run."""
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
        for line in progress.note.splitlines():
            st.caption(f":material/hourglass_top: {as_markdown(line)}")
    elif not active and (recipe := datasets.recipe(cached.store(), summary.id)) is not None:
        parameter_notes.show(parameter_notes.of_recipe(recipe))
    if progress.state == "waiting":
        remedies.waiting(progress)
    elif not active:
        remedies.ended(summary, progress)
    remedies.failed(summary, progress, idle=not active)


def _money(progress: RunProgress) -> str:
    """Cost so far, the limit, and the projected total."""
    paid = progress.tokens or progress.at_most_usd
    if progress.provider == ENGINE:
        return run_price(progress.run_id) if paid else ""
    if progress.budget_usd is None and (not paid or progress.cost_usd == 0):
        return ""
    spent = usd(progress.cost_usd) if progress.cost_usd is not None else _("cost unknown")
    if progress.cost_usd is None and progress.at_most_usd is not None:  # no request has a known cost
        spent = _("up to {most}").format(most=usd(progress.at_most_usd))
    if progress.budget_usd is not None and progress.cost_usd is None and progress.at_most_usd is None:
        return _("cost unknown, limit {most}").format(most=usd(progress.budget_usd))
    if progress.budget_usd is not None:
        spent = _("{spent} of at most {most}").format(spent=spent, most=usd(progress.budget_usd))
    if (run_controls.is_active(progress) or run_budget.is_capped(progress)) and progress.projected_usd:
        spent = _("{spent}, about {whole} in total").format(spent=spent, whole=usd(progress.projected_usd))
    return spent
