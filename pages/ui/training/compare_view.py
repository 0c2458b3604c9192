"""Several jobs side by side: overlaid curves, settings with their differences marked, figures with the best marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from core.charts import comparison, vega_lite
from core.charts.comparison import Column, OverlayLabels, RunCurve
from core.finetuning.job_comparison import JobColumn, JobComparison
from core.finetuning.job_views import JobView
from core.finetuning.results import Figure
from core.pricing.prices import ENGINE
from pages.ui import visible
from pages.ui.components import models, shutdown_notes
from pages.ui.components.money import local_amount
from pages.ui.i18n import _, as_markdown, duration, listed, mark, number, percent, plain, usd
from pages.ui.training import cached_training, curves, evaluation_results, job_labels
from pages.ui.training.job_details import HYPERPARAMETERS

_SETTINGS = {
    "base_model": mark("Started from"),
    "provider": mark("Provider"),
    **HYPERPARAMETERS,
    **job_labels.OPTIONS,
    "seed": mark("Seed"),
    "suffix": mark("Suffix"),
    "n_examples": mark("Rows"),
    "dataset_id": mark("Data set"),
    "version_id": mark("Version"),
    "file_format": mark("Format of the file"),
    "validation_share": mark("Kept for validation"),
}
_FIGURES = {
    "last_loss": mark("Training loss"),
    "valid_loss": mark("Validation loss"),
    "accuracy": mark("Token accuracy"),
    "valid_accuracy": mark("Validation accuracy"),
    "tokens": mark("Tokens trained on"),
    "cost_usd": mark("Cost"),
    "training_s": mark("Training time"),
    "points": mark("Points of accuracy gained"),
    "usd_per_point": mark("Cost per point of accuracy"),
}
_COLUMNS: dict[Column, str] = {
    "training_loss": mark("Training loss"),
    "training_token_accuracy": mark("Token accuracy"),
    "validation_loss": mark("Validation loss"),
    "validation_token_accuracy": mark("Validation accuracy"),
}
_KEY = "training_compare"
_COSTS = ("cost_usd", "usd_per_point")
_BETWEEN = re.compile(r"(?<=[^\x00-\x7f])(?=[^\x00-\x7f])")
_JOINER = "\u2060"  # no line breaks here: next to long names a browser would put one Chinese character per line


def show(opened: Sequence[JobView]) -> None:
    """Render the comparison. The page's URL opens it again."""
    names = job_labels.names(opened)
    found = cached_training.compared(opened, names)
    st.markdown(f":material/compare_arrows: **{as_markdown(found.sentence)}**")
    st.caption(_("Share this page's address to show someone the same comparison."))
    shutdown_notes.show_all((job.provider, job.fine_tuned_model or job.base_model, job.base_model) for job in opened)
    _overlays(opened, names)
    figures, settings = st.columns(2)
    with figures:
        st.markdown(f"**{_('Results')}**")
        _figures(found, names)
    with settings:
        st.markdown(f"**{_('Settings')}**")
        _settings(found, names)


def _overlays(opened: Sequence[JobView], names: Mapping[str, str]) -> None:
    """Render one chart per metric that any job has, two per row."""
    sources = [cached_training.source(job) for job in opened]
    possible = [axis for axis in vega_lite.AXES if all(axis in one.axes for one in sources)] or ["step"]
    longest = max(one.results.steps for one in sources)
    view = curves.view_of(_KEY, possible, longest)
    shown = [
        column for column in _COLUMNS if any(column in one.frame and one.frame[column].notna().any() for one in sources)
    ]
    if not shown:
        st.caption(_("None of these jobs has measured a step yet."))
        return
    runs = [RunCurve(names[job.id], one.frame) for job, one in zip(opened, sources, strict=True)]
    with st.grid(2, min_column_width=420):
        for column in shown:
            labels = OverlayLabels(curves.axis_title(view.axis), _(_COLUMNS[column]), _("Job"))
            key = (column, view, labels, tuple(one.key for one in sources), tuple(names[job.id] for job in opened))
            chart = cached_training.cached_chart(key, partial(comparison.overlay, runs, column, view, labels))
            words = _("{what} of {jobs}").format(what=_(_COLUMNS[column]), jobs=listed(names.values()))
            st.vega_lite_chart(chart.rows, chart.spec, alt=words, key=f"{_KEY}_{column}")
    curves.controls(_KEY, possible, longest)


def _figures(found: JobComparison, names: Mapping[str, str]) -> None:
    """Render one row per figure, with the best one marked; then evaluation results, if any."""
    rows = {}
    for name, title in _FIGURES.items():
        values = [getattr(column, name) for column in found.columns]
        if any(value is not None for value in values):
            shared = _shared(values)
            cells = [_marked(found, name, column, alone=shared is None) for column in found.columns]
            rows[job_labels.named(_(title), shared)] = cells
    judged = evaluation_results.newest(list(names))
    if judged:
        shares = {one: evaluation_results.share(evaluation_results.judged(view)) for one, view in judged.items()}
        rows[_("Correct on held-out rows")] = [shares.get(one, _("not evaluated")) for one in names]
    _table(rows, names, _("Results"))
    if found.best:
        st.caption(_("★ marks the best of these runs. Unknown values are not compared."))
    elif not found.comparable:
        st.caption(_("No ★: the best is marked only for runs with the same data set and split."))


def _shared(values: Sequence[object]) -> Figure | None:
    """The common definition of a figure, for the title of its row."""
    figures = [value for value in values if isinstance(value, Figure)]
    return figures[0] if len({one.definition for one in figures}) == 1 else None


def _marked(found: JobComparison, name: str, column: JobColumn, *, alone: bool) -> str:
    """A cell; `alone`: with its definition, because its neighbours have different ones."""
    value = getattr(column, name)
    priced = value is not None or name not in _COSTS or column.provider != ENGINE
    text = _written(name, value) if priced else local_amount(None)
    if alone and isinstance(value, Figure):
        text = job_labels.named(text, value)
    return f"**{text}** ★" if found.best.get(name) == column.job_id else text


def _written(name: str, value: object) -> str:
    if value is None:
        return _("unknown")
    if name in _COSTS:
        return usd(value)  # type: ignore[arg-type]  # a Decimal, see compare
    amount = float(value.value if isinstance(value, Figure) else value)  # type: ignore[arg-type]  # a number
    if name == "training_s":
        return duration(amount)
    if name in ("accuracy", "valid_accuracy"):
        return percent(amount)
    return number(amount) if name == "tokens" else number(amount, 1 if name == "points" else 3)


def _settings(found: JobComparison, names: Mapping[str, str]) -> None:
    """Render one row per setting; different ones come first and are marked."""
    datasets = {one.id: one.name for one in visible.dataset_list()}
    rows = {}
    for one in sorted(found.rows, key=lambda row: not row.differs):
        title = _BETWEEN.sub(_JOINER, _(_SETTINGS[one.name])) if one.name in _SETTINGS else plain(one.name)
        names_by_id = datasets if one.name == "dataset_id" else {}
        short = models.short_name if one.name == "base_model" else str
        if one.name in job_labels.OPTIONS:
            values = [job_labels.option(one.name, value) for value in one.values]
        else:
            values = [_value(short(names_by_id.get(value, value))) for value in one.values]
        rows[f":orange[≠] **{title}**" if one.differs else title] = values
    _table(rows, names, _("Settings"))


def _value(text: str) -> str:
    """A setting as displayed: numbers unchanged, anything else as plain text."""
    return text if text.replace(".", "", 1).isdecimal() else plain(text) or "–"


def _table(rows: Mapping[str, Sequence[str]], names: Mapping[str, str], alt: str) -> None:
    columns = [plain(name) for name in names.values()]
    st.table(pd.DataFrame(list(rows.values()), index=list(rows), columns=columns), border="horizontal", alt=alt)
