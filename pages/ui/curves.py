"""The curve of a job: training loss and token accuracy, side by side, from its results file."""

from __future__ import annotations

import streamlit as st

from core import charts
from core.training.results import Results
from pages.ui import state
from pages.ui.lang import _, n_, number, percent

_SMOOTHING = 0.6  # a batch of four stories jumps about; this shows where it goes and hides nothing


def show(results: Results, key: str) -> None:
    """Figures, two charts, and what could not be read. `key` tells curves on one page apart."""
    if not results.steps:
        st.caption(_("No step has been measured yet; the curve starts with the first one."))
        return
    figures(results)
    state.first(f"{key}_smoothing", _SMOOTHING)
    pair(results, key, float(state.get(f"{key}_smoothing")))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.slider(_("Smoothing"), 0.0, 0.95, step=0.05, key=f"{key}_smoothing", width=260, persist_state="session")
        if results.skipped:
            st.caption(n_("{n} line could not be read", "{n} lines could not be read", results.skipped))


def pair(results: Results, key: str, smoothing: float = _SMOOTHING) -> None:
    """Loss and accuracy, side by side."""
    loss, accuracy = st.columns(2)
    with loss:
        words = _labels(
            _("Loss"),
            _("Training loss from {first} to {last}").format(
                first=number(results.first("training_loss"), 2), last=number(results.last("training_loss"), 2)
            ),
        )
        st.vega_lite_chart(
            charts.loss_chart(results.frame, smoothing, words), alt=words.description, key=f"{key}_loss_chart"
        )
    with accuracy:
        words = _labels(
            _("Token accuracy"),
            _("Token accuracy from {first} to {last}").format(
                first=percent(results.first("training_token_accuracy")),
                last=percent(results.last("training_token_accuracy")),
            ),
        )
        st.vega_lite_chart(
            charts.accuracy_chart(results.frame, smoothing, words), alt=words.description, key=f"{key}_accuracy_chart"
        )


def figures(results: Results) -> None:
    """The curve in four numbers."""
    with st.grid(4, min_column_width=150):
        st.metric(_("Steps"), number(results.steps))
        st.metric(
            _("Training loss"),
            number(results.last("training_loss"), 3),
            _change(results, "training_loss"),
            delta_color="inverse",
        )
        st.metric(
            _("Token accuracy"), percent(results.last("training_token_accuracy")), help=_("of the last step measured")
        )
        st.metric(_("Tokens trained on"), number(results.trained_tokens))


def _change(results: Results, column: str) -> str | None:
    first, last = results.first(column), results.last(column)
    return None if first is None or last is None else f"{last - first:+.3f}"


def _labels(value: str, description: str) -> charts.CurveLabels:
    return charts.CurveLabels(
        step=_("Step"), value=value, training=_("Training"), validation=_("Validation"), description=description
    )
