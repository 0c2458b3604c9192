"""Controls of a run: pause or resume, raise the budget, write missing rows, train, download."""

from __future__ import annotations

import streamlit as st

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.datasets import DatasetSummary
from core.generation import runs
from core.generation.runs import RunProgress
from pages.ui import cached, cards, state
from pages.ui.dataset import extend_grid, run_budget
from pages.ui.lang import _, n_


def is_active(progress: RunProgress | None) -> bool:
    """True while a run is active or about to start."""
    return progress is not None and progress.state in runs.ACTIVE


def show(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """Draw one row of buttons: pause or resume, write more, train, download."""
    open_run = progress is not None and (is_active(progress) or progress.state == "paused")
    with st.container(horizontal=True, vertical_alignment="center"):
        if open_run and progress is not None:
            _pause_buttons(progress)
        else:
            _write_buttons(summary, progress)
        if summary.source == "recipe":
            extend_grid.show(summary, "live" if progress is None else progress.mode)
        if summary.done:
            _use_buttons(summary, ready=not open_run, main=progress is None or not run_budget.is_capped(progress))


def _pause_buttons(progress: RunProgress) -> None:
    if progress.state == "waiting":
        st.button(
            _("Resume now"), icon=":material/play_arrow:", type="primary", key="dataset_resume", on_click=_act,
            args=("resume", progress.run_id),
        )  # fmt: skip
        st.button(
            _("Don't wait"), icon=":material/stop:", key="dataset_stop", on_click=_act, args=("stop", progress.run_id),
            help=_("Ends the run. Written rows are kept; you can write the rest later, or with another model."),
        )  # fmt: skip
        return
    if progress.state == "paused":
        st.button(
            _("Resume"),
            icon=":material/play_arrow:",
            type="primary",
            key="dataset_resume",
            on_click=_act,
            args=("resume", progress.run_id),
        )
    else:
        st.button(
            _("Pause"),
            icon=":material/pause:",
            key="dataset_pause",
            disabled=progress.state in ("pausing", "stopping"),
            on_click=_act,
            args=("pause", progress.run_id),
        )
    st.button(
        _("Stop"),
        icon=":material/stop:",
        key="dataset_stop",
        disabled=progress.state == "stopping",
        on_click=_act,
        args=("stop", progress.run_id),
    )
    if progress.budget_usd is not None:
        run_budget.raise_limit(progress)


def _write_buttons(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """One button for missing rows and one for failed rows: they cost different amounts."""
    if progress is None and summary.source != "recipe":
        return
    capped = progress is not None and run_budget.is_capped(progress)
    if progress is not None and capped:
        run_budget.raise_limit(progress)
    if summary.pending > (progress.remaining if progress is not None and capped else 0):
        label = n_("Resume ({n} left)", "Resume ({n} left)", summary.pending)
        if summary.pending == summary.total:
            label = n_("Write {n} row", "Write {n} rows", summary.pending)
        _start(label, "continue", ":material/play_arrow:", summary.id, progress)
    if summary.failed:
        label = n_("Retry {n} failed", "Retry {n} failed", summary.failed)
        _start(label, "retry", ":material/replay:", summary.id, progress)


def _start(label: str, key: str, icon: str, dataset_id: str, last: RunProgress | None) -> None:
    """A button for a run of the same kind; if the last run had a budget, the new one needs its own first."""
    mode = "live" if last is None else last.mode
    if last is None or last.budget_usd is None:
        st.button(label, icon=icon, key=f"dataset_{key}", on_click=_begin, args=(dataset_id, key, mode, None))
        return
    with st.popover(label, icon=icon):
        amount = run_budget.next_run_limit(last, key)
        st.button(label, key=f"dataset_{key}", on_click=_begin, args=(dataset_id, key, mode, amount))


def _use_buttons(summary: DatasetSummary, *, ready: bool, main: bool) -> None:
    if st.button(
        _("Train on this"),
        icon=":material/model_training:",
        type="primary" if ready and main else "secondary",
        key="dataset_train",
        disabled=not ready,
    ):
        state.set_value("training_dataset", summary.id)
        state.set_value("training_part", "new")
        st.switch_page("training.py")
    st.download_button(
        _("Download CSV"),
        data=lambda: datasets.to_csv(cached.store(), summary.id).encode("utf-8-sig"),
        file_name=f"{summary.name}.csv",
        mime="text/csv",
        icon=":material/download:",
        key="dataset_csv",
        on_click="ignore",
    )


def _act(what: str, run_id: str) -> None:
    act = {"pause": runs.request_pause, "resume": runs.resume, "stop": runs.request_stop}[what]
    with cards.keep_errors():
        act(cached.store(), LOCAL, run_id)


def _begin(dataset_id: str, key: str, mode: runs.Mode, amount: str | None) -> None:
    with cards.keep_errors():
        budget = run_budget.dollars(amount) if amount else None
        if key == "retry":
            runs.retry_failed(cached.store(), LOCAL, dataset_id, budget_usd=budget, mode=mode)
        else:
            runs.enqueue(cached.store(), LOCAL, dataset_id, budget_usd=budget, retry_failed=False, mode=mode)
