"""Your data sets: one run's progress, its rows as they come, and what to do with them."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from core.actor import LOCAL
from core.dataset import datasets, runs
from core.dataset.datasets import DatasetSummary, RowView
from core.dataset.runs import RunProgress
from pages.ui import cached, cards, dataset_picker, state, views
from pages.ui.lang import _, duration, mark, n_, number, plain, told, usd

ACTIVE = ("queued", "running", "stopping")
_NEWEST = 3  # stories shown in full while they come
_FEW_ROWS = 12
_TABLE_ROWS = 200  # the newest ones; the download has them all
STATES = {
    "pending": mark("waiting"),
    "sent": mark("being written"),
    "done": mark("done"),
    "failed": mark("failed"),
    "excluded": mark("left out"),
}
_RUN_STATES = {
    "queued": mark("Waiting for the worker"),
    "running": mark("Writing"),
    "stopping": mark("Stopping"),
    "stopped": mark("Stopped"),
    "done": mark("Finished"),
    "failed": mark("Stopped on a problem"),
}


def show() -> None:
    """The whole part."""
    chosen = dataset_picker.pick()
    if chosen is None:
        return
    _summary, progress = cached.run_of(chosen.id)
    active = progress is not None and progress.state in ACTIVE
    st.fragment(run_every=cached.POLL_S if active else None)(_watch)(chosen.id, active)


def _watch(dataset_id: str, was_active: bool) -> None:
    """What changes while a run goes on. When it ends, the whole page is drawn once more."""
    with cards.errors_shown():
        summary, progress = cached.run_of(dataset_id)
        active = progress is not None and progress.state in ACTIVE
        if was_active and not active:
            st.rerun()
        _progress(summary, progress)
        _controls(summary, progress)
        _stories(summary, active)


def _progress(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """One wide bar with its sentence under it."""
    if progress is None:
        st.caption(n_("{n} row, all there", "{n} rows, all there", summary.done))
        return
    share = summary.done / summary.total if summary.total else 1.0
    parts = [
        _("**{state}**").format(state=_(_RUN_STATES.get(progress.state, progress.state))),
        _("{done} of {total}").format(done=number(summary.done), total=number(summary.total)),
        n_("{n} failed", "{n} failed", summary.failed) if summary.failed else "",
        _("{rate} rows/s").format(rate=number(progress.rows_per_s, 2)) if progress.rows_per_s else "",
        n_("{n} token", "{n} tokens", progress.tokens) if progress.tokens else "",
        usd(progress.cost_usd) if progress.tokens else "",
        _("done in {time}").format(time=duration(progress.eta_s)) if progress.eta_s is not None else "",
    ]
    st.progress(min(share, 1.0), text=" · ".join(part for part in parts if part))
    if progress.note:
        st.caption(f":material/hourglass_top: {plain(told(progress.note))}")
    if progress.state == "failed" and progress.reason:
        st.error(plain(told(progress.reason)), icon=":material/error:")


def _controls(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """One row: stop or go on, train, take away."""
    active = progress is not None and progress.state in ACTIVE
    with st.container(horizontal=True):
        if active and progress is not None:
            st.button(
                _("Stop"),
                icon=":material/stop:",
                key="dataset_stop",
                disabled=progress.state == "stopping",
                on_click=_stop,
                args=(progress.run_id,),
            )
        elif summary.pending + summary.failed:
            st.button(
                n_("Write the missing {n}", "Write the missing {n}", summary.pending + summary.failed),
                icon=":material/play_arrow:",
                key="dataset_continue",
                on_click=_continue,
                args=(summary.id,),
            )
        if summary.done:
            if st.button(
                _("Train on this"),
                icon=":material/model_training:",
                type="primary",
                key="dataset_train",
                disabled=active,
            ):
                state.put("training_dataset", summary.id)
                state.put("training_part", "new")
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


def _stories(summary: DatasetSummary, active: bool) -> None:
    """The newest in full while they come; otherwise a table of all that fits."""
    if active:
        _newest(datasets.rows(cached.store(), summary.id, states=("done",), newest=True, limit=_NEWEST))
        return
    found = datasets.rows(cached.store(), summary.id, limit=_TABLE_ROWS)
    frame = pd.DataFrame([_record(row) for row in found])
    if summary.done == summary.total:
        frame = frame.drop(columns=["state", "reason"])
    st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(frame) < _FEW_ROWS else 480,
        column_config={
            "state": st.column_config.TextColumn(_("State"), width="small"),
            "text": st.column_config.TextColumn(_("Story"), width="large"),
            "reason": st.column_config.TextColumn(_("Reason")),
        },
        placeholder="",
        alt=_("Rows of the data set"),
    )
    if summary.total > _TABLE_ROWS:
        st.caption(_("The first {n} rows; the download has all.").format(n=_TABLE_ROWS))


def _newest(found: list[RowView]) -> None:
    """Three cards of one height from the start, so that nothing jumps when a story comes."""
    with st.grid(_NEWEST, min_column_width=280):
        for row in [*found, *[None] * (_NEWEST - len(found))]:
            with st.container(border=True, height=300):
                if row is None:
                    st.markdown(f":gray[:shimmer[{_('Waiting for a story')}]]")
                else:
                    views.facts(plain(value) for value in row.values.values())
                    st.text((row.text or "").strip())


def _record(row: RowView) -> dict[str, str]:
    return {
        **row.values,
        "text": (row.text or "").strip(),
        "state": _(STATES.get(row.state, row.state)),
        "reason": told(row.reason) if row.reason else "",
    }


def _stop(run_id: str) -> None:
    with cards.errors_kept():
        runs.request_stop(cached.store(), LOCAL, run_id)


def _continue(dataset_id: str) -> None:
    with cards.errors_kept():
        runs.enqueue(cached.store(), LOCAL, dataset_id)
