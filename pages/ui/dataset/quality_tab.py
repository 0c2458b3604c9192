"""Quality: a check of the rows before you pay for training. A verdict, score cards, and their rows."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from core.datasets.datasets import DatasetSummary
from core.datasets.quality.report import QualityReport
from core.generation import run_progress
from pages.ui import background, cache, state
from pages.ui.background import RefreshedReport
from pages.ui.components import cards, views
from pages.ui.dataset import dataset_picker, quality_panels, quality_report
from pages.ui.i18n import _, n_

_OPEN = "dataset_quality_card"


def show() -> None:
    """Render the whole section."""
    chosen = dataset_picker.pick()
    if chosen is None:
        return
    with cards.show_errors():
        going_on = _current_view(chosen.id, wait=True).in_progress
        st.fragment(run_every=cache.POLL_S if going_on else None)(_watch)(chosen.id, going_on)


@dataclass(frozen=True)
class _QualityView:
    """The current state of a data set."""

    summary: DatasetSummary
    measurement: RefreshedReport[QualityReport]
    fingerprint: str
    active: bool  # whether a run is adding rows
    measuring: bool  # a measurement may end while it is drawn; then the page has to be drawn again

    @property
    def in_progress(self) -> bool:
        return self.active or self.measuring


def _current_view(dataset_id: str, *, wait: bool) -> _QualityView:
    """The data set; starts a measurement if its rows changed, and waits `wait` seconds for it."""
    summary, progress = cache.run_of(dataset_id)
    active = progress is not None and progress.state in run_progress.UNDER_WAY
    measurement, fingerprint = quality_report.quality_of(dataset_id)
    measurement.ask(fingerprint, calm=active)
    if wait:
        measurement.wait(background.REPORT_WAIT_S)
    return _QualityView(summary, measurement, fingerprint, active, measurement.running)


def _watch(dataset_id: str, was_going_on: bool) -> None:
    """Render the progress of the run or measurement. Reruns the page when it starts or ends."""
    with cards.show_errors():
        now = _current_view(dataset_id, wait=not was_going_on)
        measurement, report = now.measurement, now.measurement.report
        if now.measuring:
            quality_report.progress_bar(measurement)
        elif measurement.error is not None:
            cards.error_card(measurement.error)
            _measure_again(now)
        elif report is None or not measurement.fresh(now.fingerprint):
            st.caption(_("Rows have changed since this was measured."))
            _measure_again(now)
        if report is not None:
            _report(report, now)
        if now.in_progress != was_going_on:  # after the buttons: before them, a click would be lost
            st.rerun()


def _measure_again(now: _QualityView) -> None:
    if st.button(_("Measure again"), icon=":material/refresh:", key="dataset_quality_again"):
        now.measurement.ask(now.fingerprint, again=True)
        st.rerun()


def _report(report: QualityReport, now: _QualityView) -> None:
    """Render the verdict, the cards, and the open card's panel."""
    if not report.total:
        coming, none = _("No finished rows yet. Rows are checked as they arrive."), _("No finished rows to check yet.")
        with cards.empty(coming if now.active else none, icon=":material/fact_check:"):
            st.button(_("Go to the run"), type="primary", key="dataset_quality_run", on_click=_go, args=("rows",))
        return
    st.markdown(quality_report.verdict(report))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(quality_report.basis(report), width="content")
        if now.summary.excluded:
            st.caption(n_("{n} row is left out.", "{n} rows are left out.", now.summary.excluded), width="content")
        cards.undo_button()
    shown = quality_report.shown_cards(report)
    if state.get(_OPEN) not in shown:
        state.set_value(_OPEN, _first(report, shown))
    opened = str(state.get(_OPEN))
    _score_cards(report, shown, opened)
    with st.container(border=True):
        quality_panels.show(opened, report)


def _score_cards(report: QualityReport, shown: list[str], opened: str) -> None:
    """Render one figure per card, and the button that opens its panel below."""
    with st.grid(5, min_column_width=150):
        for card in shown:
            icon, name = quality_report.CARDS[card]
            figure = quality_report.score_figure(card, report)
            with st.container(border=True, gap="xsmall", height="stretch"):
                views.metric(f"{icon} {_(name)}", figure.value, help=figure.help or None)
                st.caption(figure.about)
                st.button(
                    _("Open") if card == opened else _("Show"),
                    icon=":material/expand_more:" if card == opened else ":material/chevron_right:",
                    type="tertiary",
                    key=f"dataset_quality_open_{card}",
                    disabled=card == opened,
                    on_click=state.set_value,
                    args=(_OPEN, card),
                )


def _first(report: QualityReport, shown: list[str]) -> str:
    """The card that is open at first: that of the most serious finding."""
    found = (quality_report.CARD_OF[finding.kind] for finding in report.findings)
    return next((card for card in found if card in shown), shown[0])


def _go(part: str) -> None:
    state.set_value("dataset_part", part)
