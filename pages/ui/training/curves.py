"""Curves: training loss and token accuracy, side by side, over the chosen axis, and their meaning in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import streamlit as st

from core.charts import training_curve
from core.charts.training_curve import CurveLabels, CurveSource, Figures
from core.charts.vega_lite import Axis, CurveView, RenderedChart
from core.finetuning.checkpoints import CheckpointView
from core.finetuning.curve_analysis import Observation
from core.finetuning.results import Figure, Results, figure, smoothing_weight
from pages.ui import state
from pages.ui.components import views
from pages.ui.i18n import _, as_markdown, mark, n_, number, percent, plain
from pages.ui.training import cached_training, job_labels
from pages.ui.training.cached_training import CurveName

_BOTH: tuple[Literal["loss", "accuracy"], ...] = ("loss", "accuracy")
_OF_DPO: tuple[CurveName, ...] = ("loss", "rewards/margins", "rewards/accuracies")
_LEAST_CHANGE = 0.0005  # three digits are shown
_AXES: Mapping[Axis, str] = {
    "step": mark("Step"),
    "tokens": mark("Tokens"),
    "epoch": mark("Epoch"),
    "time": mark("Minutes"),
}
_ICONS = {
    "good": ":green[:material/check_circle:]",
    "look": ":orange[:material/visibility:]",
    "bad": ":red[:material/warning:]",
}


def show(
    source: CurveSource, key: str, points: Sequence[CheckpointView] = (), missing: str | None = None
) -> int | None:
    """Render figures, two charts, their controls, and observations. `key` is unique on the page.

    `missing`: shown instead if the curve does not and will not exist.

    Returns:
        The step of the checkpoint whose mark was clicked, or None.
    """
    results = source.results
    if not results.steps:
        yet = _("No step has been measured yet; the curve starts with the first one.")
        st.caption(plain(missing) if missing else yet)
        return None
    if results.has_rewards:
        _reward_figures(results, source.figures)
    else:
        figures(source.figures)
    view = view_of(key, source.axes, results.steps)
    if points:
        words = _("checkpoint at step {step}")
        marks = [training_curve.CurveMark(point.step, words.format(step=number(point.step))) for point in points]
        source = source.marked([*source.marks, *marks])
    clicked = _pair(source, key, view, clickable=bool(points))
    controls(key, source.axes, results.steps)
    observations(cached_training.observations(source, tuple(points)))
    if results.skipped:
        st.caption(n_("{n} line could not be read", "{n} lines could not be read", results.skipped))
    return clicked


def pair(results: Results, key: str) -> None:
    """Render only loss and accuracy, side by side, over steps."""
    view = CurveView(smoothing=smoothing_weight(results.steps))
    for which, place in zip(_BOTH, st.columns(2), strict=True):
        draw = training_curve.loss_chart if which == "loss" else training_curve.accuracy_chart
        words = _labels(which, view.axis, Figures.of(results))
        with place:
            chart = RenderedChart.of(draw(results.frame, view, words))
            st.vega_lite_chart(chart.rows, chart.spec, alt=words.description, key=f"{key}_{which}_chart")


def charts_only(source: CurveSource, key: str) -> None:
    """Render the two charts and their display options, without figures and observations."""
    steps = source.results.steps
    _pair(source, key, view_of(key, source.axes, steps), clickable=False)
    controls(key, source.axes, steps)


def for_file(source: CurveSource) -> dict[str, RenderedChart]:
    """Both charts over steps, for an export; empty before the first step."""
    if not source.results.steps:
        return {}
    view = CurveView(smoothing=smoothing_weight(source.results.steps))
    return {
        which.replace("/", "_"): cached_training.curve_chart(
            which, source, view, _labels(which, view.axis, source.figures)
        )
        for which in _charts_of(source)
    }


def _smoothing_key(key: str, steps: int) -> str:
    """Runs with different default smoothing have separate sliders, because no single value suits both."""
    return f"{key}_smoothing_{round(100 * smoothing_weight(steps))}"


def view_of(key: str, possible: Sequence[Axis], steps: int) -> CurveView:
    """This visitor's display options for curves of this many steps; initially over steps, slightly smoothed."""
    axis = state.get(f"{key}_axis", "step")
    return CurveView(
        axis=axis if axis in possible else "step",
        smoothing=float(state.get(_smoothing_key(key, steps), smoothing_weight(steps))),
        log=bool(state.get(f"{key}_log", False)),
    )


def controls(key: str, possible: Sequence[Axis], steps: int) -> None:
    """Render the controls: axis, smoothing, scale."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if len(possible) > 1:
            if state.get(f"{key}_axis") not in possible:
                state.set_value(f"{key}_axis", "step")
            st.segmented_control(
                _("X axis"), list(possible), format_func=lambda one: _(_AXES[one]), required=True, key=f"{key}_axis",
                persist_state="session",
            )  # fmt: skip
        smoothing = _smoothing_key(key, steps)
        state.set_default(smoothing, smoothing_weight(steps))
        st.slider(_("Smoothing"), 0.0, 0.95, step=0.05, key=smoothing, width=260, persist_state="session")
        state.set_default(f"{key}_log", False)
        st.toggle(_("Loss on a log scale"), key=f"{key}_log", persist_state="session")


def axis_title(axis: Axis) -> str:
    """The title of the x axis."""
    return _(_AXES[axis])


def figures(one: Figures) -> None:
    """Render the curve in numbers, each with its definition."""
    held_out = one.held_out_accuracy is not None
    loss, accuracy = job_labels.named(_("Training loss"), one.loss), job_labels.named(_("Token accuracy"), one.accuracy)
    with st.grid(5 if held_out else 4, min_column_width=150):
        views.metric(_("Steps"), number(one.steps))
        views.metric(loss, number(_value(one.loss), 3), _change(one), delta_color="inverse")
        views.metric(accuracy, percent(_value(one.accuracy)))
        if one.held_out_accuracy is not None:
            title = job_labels.named(_("Token accuracy"), one.held_out_accuracy)
            views.metric(title, percent(one.held_out_accuracy.value))
        views.metric(_("Tokens trained on"), number(one.tokens))


def observations(observations: Sequence[Observation]) -> None:
    """Render the observations about the curve, the most serious first."""
    for one in observations:
        st.markdown(f"{_ICONS[one.level]} {as_markdown(one.sentence)}")


def _pair(source: CurveSource, key: str, view: CurveView, *, clickable: bool) -> int | None:
    found: int | None = None
    charts = _charts_of(source)
    for which, place in zip(charts, st.columns(len(charts)), strict=True):
        words = _labels(which, view.axis, source.figures)
        chart = cached_training.curve_chart(which, source, view, words)
        name = f"{key}_{which}_chart"
        with place:
            if not clickable:
                st.vega_lite_chart(chart.rows, chart.spec, alt=words.description, key=name)
                continue
            event = st.vega_lite_chart(
                chart.rows, chart.spec, alt=words.description, key=f"{name}_marked", on_select="rerun",
                selection_mode=training_curve.CHECKPOINT,
            )  # fmt: skip
        found = found if found is not None else _clicked(event)
    return found


def _charts_of(source: CurveSource) -> tuple[CurveName, ...]:
    return _OF_DPO if source.results.has_rewards else _BOTH


def _reward_figures(results: Results, one: Figures) -> None:
    """Render the curve of preference training in numbers."""
    measured = {name: figure(results, f"training_reward_{name}") for name in ("margin", "accuracy")}
    kept = {name: figure(results, f"validation_reward_{name}") for name in ("margin", "accuracy")}
    with st.grid(5, min_column_width=150):
        views.metric(_("Steps"), number(one.steps))
        loss = job_labels.named(_("Training loss"), one.loss)
        views.metric(loss, number(_value(one.loss), 3), _change(one), delta_color="inverse")
        for name, title in (("accuracy", "rewards/accuracies"), ("margin", "rewards/margins")):
            for found in (measured[name], kept[name]):
                if found is not None:
                    value = percent(found.value) if name == "accuracy" else number(found.value, 3)
                    views.metric(job_labels.named(title, found), value)
        views.metric(_("Tokens trained on"), number(one.tokens))
    st.caption(
        _(
            "rewards/accuracies: share of pairs in which the preferred answer gained more probability than the other "
            "one. rewards/margins: how much more, times beta; 0 at the start."
        )
    )


def _clicked(event: Any) -> int | None:
    """The step of the clicked mark."""
    hits = event.selection.get(training_curve.CHECKPOINT) or []
    return int(hits[0]["at"]) if hits and "at" in hits[0] else None


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _change(one: Figures) -> str | None:
    if one.first_loss is None or one.loss is None or one.steps < 2:
        return None
    change = one.loss.value - one.first_loss
    return f"{change:+.3f}" if abs(change) >= _LEAST_CHANGE else None


def _labels(which: str, axis: Axis, one: Figures) -> CurveLabels:
    if which == "loss":
        value = _("Loss")
        description = _("Training loss from {first} to {last}").format(
            first=number(one.first_loss, 3), last=number(_value(one.loss), 3)
        )
    elif which.startswith("rewards/"):
        value = description = which
    else:
        value = _("Token accuracy")
        description = _("Token accuracy from {first} to {last}").format(
            first=percent(one.first_accuracy), last=percent(_value(one.accuracy))
        )
    return CurveLabels(
        x=axis_title(axis), value=value, training=_("Training"), smoothed=_("Smoothed"), validation=_("Validation"),
        step=_("Step"), description=description,
    )  # fmt: skip
