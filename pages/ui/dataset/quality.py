"""Quality: what the rows are like, before training money is spent on them. A sentence, score cards, the rows behind."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from core.dataset.datasets import DatasetSummary
from core.dataset.quality import Report
from pages.ui import cached, cards, state, undo, views
from pages.ui.dataset import dataset_picker, quality_figures, quality_panels, quality_words
from pages.ui.dataset.quality_job import Board
from pages.ui.lang import _, n_, number

_WAIT_S = 0.7  # a few hundred rows take less: their report is there at once, without a flicker
_OPEN = "dataset_quality_card"
_GOING_ON = ("queued", "running", "pausing", "stopping")


def show() -> None:
    """The whole part."""
    chosen = dataset_picker.pick()
    if chosen is None:
        return
    with cards.errors_shown():
        going_on = _look(chosen.id, wait=True).going_on
        st.fragment(run_every=cached.POLL_S if going_on else None)(_watch)(chosen.id, going_on)


@dataclass(frozen=True)
class _Now:
    """A data set as it is at this moment."""

    summary: DatasetSummary
    board: Board
    fingerprint: str
    active: bool  # rows are still coming

    @property
    def going_on(self) -> bool:
        return self.active or self.board.measuring


def _look(dataset_id: str, *, wait: bool) -> _Now:
    """The data set, its rows being measured if they have changed; `wait` a moment for that."""
    summary, progress = cached.run_of(dataset_id)
    active = progress is not None and progress.state in _GOING_ON
    board, fingerprint = cached.quality_of(dataset_id)
    board.ask(fingerprint, calm=active)
    if wait:
        board.wait(_WAIT_S)
    return _Now(summary, board, fingerprint, active)


def _watch(dataset_id: str, was_going_on: bool) -> None:
    """What changes while rows come or are measured. When that begins or ends, the page is drawn once more."""
    with cards.errors_shown():
        now = _look(dataset_id, wait=not was_going_on)
        if now.going_on != was_going_on:
            st.rerun()
        board, report = now.board, now.board.report
        if board.measuring:
            _progress(board)
        elif board.error is not None:
            cards.error_card(board.error)
            _again(now)
        elif report is None or not board.fresh(now.fingerprint):
            st.caption(_("Rows have changed since this was measured."))
            _again(now)
        if report is not None:
            _report(report, now)


def _progress(board: Board) -> None:
    share = min(board.read / board.total, 1.0) if board.total else 0.0
    text = _("Measuring: {read} of {total} rows").format(read=number(board.read), total=number(board.total))
    st.progress(share, text=text if board.total else _("Measuring"))


def _again(now: _Now) -> None:
    if st.button(_("Measure again"), icon=":material/refresh:", key="dataset_quality_again"):
        now.board.ask(now.fingerprint, again=True)
        st.rerun()


def _report(report: Report, now: _Now) -> None:
    """Verdict, cards, and the one that is open."""
    if not report.total:
        coming, none = _("No finished rows yet. Rows are checked as they arrive."), _("No finished rows to check yet.")
        with cards.empty(coming if now.active else none, icon=":material/fact_check:"):
            st.button(_("Go to the run"), type="primary", key="dataset_quality_run", on_click=_go, args=("rows",))
        return
    st.markdown(quality_words.verdict(report))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(quality_words.behind(report), width="content")
        if now.summary.excluded:
            st.caption(n_("{n} row is left out.", "{n} rows are left out.", now.summary.excluded), width="content")
        undo.way_back()
    shown = quality_words.cards(report)
    if state.get(_OPEN) not in shown:
        state.put(_OPEN, _first(report, shown))
    opened = str(state.get(_OPEN))
    _score_cards(report, shown, opened)
    with st.container(border=True):
        quality_panels.show(opened, report)


def _score_cards(report: Report, shown: list[str], opened: str) -> None:
    """A figure each, and the button that opens it below."""
    with st.grid(5, min_column_width=150):
        for card in shown:
            icon, name = quality_words.CARDS[card]
            figure = quality_figures.of(card, report)
            with st.container(border=True, gap="xsmall", height="stretch"):
                views.metric(f"{icon} {_(name)}", figure.value, help=figure.help or None)
                st.caption(figure.about)
                st.button(
                    _("Open") if card == opened else _("Show"),
                    icon=":material/expand_more:" if card == opened else ":material/chevron_right:",
                    type="tertiary",
                    key=f"dataset_quality_open_{card}",
                    disabled=card == opened,
                    on_click=state.put,
                    args=(_OPEN, card),
                )


def _first(report: Report, shown: list[str]) -> str:
    """The card that is open to begin with: the one of the gravest finding."""
    found = (quality_figures.CARD_OF[finding.kind] for finding in report.findings)
    return next((card for card in found if card in shown), shown[0])


def _go(part: str) -> None:
    state.put("dataset_part", part)
