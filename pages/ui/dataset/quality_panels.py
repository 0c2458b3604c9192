"""The panel of a score card: its clickable chart, its findings and their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from core.charts.dataset import PICKED, BarLabels, bars, cell_map, histogram
from core.datasets.quality.grid_fit import Adherence
from core.datasets.quality.report import QualityFinding, QualityReport, Share
from pages.ui.components import views
from pages.ui.dataset import quality_report, quality_rows
from pages.ui.dataset.quality_report import CARD_OF
from pages.ui.i18n import _, code, column_name, column_title, listed, n_, number, percent, plain

_MOST_BARS = 30  # maximum per chart, and names per line; more are rare


def show(card: str, report: QualityReport) -> None:
    """Render the panel of one card."""
    icon, name = quality_report.CARDS[card]
    st.markdown(f"#### {icon} {_(name)}")
    _PANELS[card](report)


def _duplicates(report: QualityReport) -> None:
    st.caption(
        _("Near-duplicates are found by MinHash and may differ in a few words. The first of each group is kept.")
    )
    surplus = [*report.find("exact"), *report.find("near")]
    if not surplus:
        st.markdown(_("No duplicates."))
        return
    marks: dict[int, str] = {}
    for place, group in enumerate(report.clusters, start=1):
        alike = _("the same") if group.exact else percent(group.similarity, 0)
        marks |= {row: f"{place} · {alike}" for row in group.rows[1:]}
        marks[group.rows[0]] = f"{place} · {_('kept')}"
    views.facts([quality_report.counted(finding) for finding in surplus])
    rows = [row for finding in surplus for row in finding.rows]
    shown = [row for group in report.clusters for row in group.rows]
    kind = "exact" if len(surplus) == 1 and surplus[0].kind == "exact" else "near"
    quality_rows.show("duplicates", rows, kind, marks=marks, also=shown)


def _adherence(report: QualityReport) -> None:
    st.caption(_("How many texts contain the exact value that their cell asked for."))
    clicked = False
    for one in report.adherence:
        column = f"**{plain(column_name(one.column))}**"
        if one.share is None:
            st.markdown(_("{column}: free text, not measured").format(column=column))
        elif not one.literal:
            sentence = _(
                "{column}: {share} contain it. Its values rarely appear as words, so a missing value is not a problem"
            )
            st.markdown(sentence.format(column=column, share=percent(one.share, 0)))
        else:
            by_chance = _("; {share} of other texts contain it by chance").format(share=percent(one.chance, 0))
            contained = _("{column}: {share} contain it").format(column=column, share=percent(one.share, 0))
            st.markdown(contained + (by_chance if one.chance is not None else ""))
            clicked = _values(one) or clicked
    if not clicked:
        _findings("adherence", report)


def _values(column: Adherence) -> bool:
    """Render one bar per value, most often missing first; returns True if one was clicked and its rows are shown."""
    shown = column.values[:_MOST_BARS]
    picked = _bars(
        f"adherence_{column.column}",
        [(one.value, one.found / one.requested) for one in shown],
        _("Texts that contain their value"),
        _("Most often missing from {column}: {value}").format(column=column.column, value=shown[0].value),
        shares_of_one=True,
    )
    rows = next((one.missing for one in shown if one.value == picked), ())
    if rows:
        st.markdown(f"**{_('Without {value}').format(value=plain(picked))}**")
        quality_rows.show(f"adherence_{column.column}_value", rows, "missing")
    return bool(rows)


def _remains(report: QualityReport) -> None:
    if not any(CARD_OF[finding.kind] == "remains" for finding in report.findings):
        st.markdown(_("No refusals, repeated prompts, template leftovers, loops or empty texts."))
    _findings("remains", report)


def _endings(report: QualityReport) -> None:
    named = [Share(quality_report.ending(one.name), one.rows) for one in report.endings]
    _shares("endings", named, _("Rows by finish reason"))
    _findings("endings", report)


def _languages(report: QualityReport) -> None:
    named = [Share(_(quality_report.LANGUAGES[one.name]), one.rows) for one in report.languages]
    _shares("languages", named, _("Rows by language"))
    _findings("languages", report)


def _stops(report: QualityReport) -> None:
    st.caption(_("A model stops at the first stop sequence. If a text contains it, the model learns to stop there."))
    if not report.stops:
        st.markdown(_("None of the common stop sequences occurs in the texts."))
        return
    _shares("stops", [Share(repr(one.name), one.rows) for one in report.stops], _("Rows that contain the stop"))


def _labels(report: QualityReport) -> None:
    _shares("labels", report.labels, _("Rows by label"))
    _findings("labels", report)


def _coverage(report: QualityReport) -> None:
    """Render rows by cell, as a map of two columns."""
    covered = report.coverage
    if not covered.columns:
        st.markdown(_("Every row has its own values, so there are no cells to fill."))
        return
    views.facts(
        [
            _("{filled} of {expected} cells have a row").format(
                filled=number(covered.filled), expected=number(covered.expected)
            ),
            n_("{n} row expected per cell", "{n} rows expected per cell", covered.per_cell) if covered.per_cell else "",
        ]
    )
    if covered.cells:
        _cell_map(report)
    if covered.missing:
        named = [" · ".join(plain(value) for value in cell) for cell in covered.missing[:_MOST_BARS]]
        st.markdown(f"**{_('Cells without rows')}**")
        more = ["…"] if covered.expected - covered.filled > len(named) else []
        st.caption(listed([*named, *more], semicolons=True))


def _cell_map(report: QualityReport) -> None:
    covered = report.coverage
    if len(covered.columns) == 1:
        values = [(value, len(covered.rows_of({covered.columns[0]: value}))) for value in covered.values[0]]
        picked = _bars("coverage", values[:_MOST_BARS], _("Rows"), _("Rows by value"))
        if picked is not None:
            quality_rows.show("coverage", covered.rows_of({covered.columns[0]: picked}), every=False)
        return
    across, down = covered.columns[1], covered.columns[0]
    if len(covered.columns) > 2:
        with st.container(horizontal=True):
            across = _choice(_("X axis"), covered.columns, 1, "across")
            others = [column for column in covered.columns if column != across]
            down = _choice(_("Y axis"), others, 0, "down")
    spec = cell_map(covered.by_pair(across, down), column_title(across), column_title(down), _("Rows"))
    alt = _("Rows by {across} and {down}").format(across=column_title(across), down=column_title(down))
    mark = _clicked("coverage_map", spec, alt)
    if mark:
        quality_rows.show("coverage", covered.rows_of({across: mark["across"], down: mark["down"]}), every=False)
    else:
        st.caption(_("Click a square to see its rows."))


def _choice(label: str, columns: Sequence[str], index: int, axis: str) -> str:
    key = f"dataset_quality_{axis}"
    return st.selectbox(label, columns, index=index, format_func=column_title, key=key, width=220)


def _lengths(report: QualityReport) -> None:
    """Render five figures, a histogram, and the outliers."""
    unit = st.segmented_control(
        _("Measured in"),
        ["characters", "tokens"],
        format_func={"characters": _("Characters"), "tokens": _("Tokens")}.__getitem__,
        default="characters",
        required=True,
        key="dataset_quality_unit",
        label_visibility="collapsed",
    )
    found = report.tokens if unit == "tokens" else report.characters
    title = _("Tokens") if unit == "tokens" else _("Characters")
    with st.grid(5, min_column_width=110):
        for name, value in (
            (_("Shortest"), found.shortest),
            (_("5th percentile"), found.lower),
            (_("Median"), found.median),
            (_("95th percentile"), found.upper),
            (_("Longest"), found.longest),
        ):
            views.metric(name, number(value))
    total = n_("{n} token in all", "{n} tokens in all", report.tokens.total)
    approximate = "" if report.tokens_exact else _("estimated where the provider reports no token count")
    views.facts([total, approximate])
    alt = _("Rows by length, most around {median}").format(median=number(found.median))
    spec = histogram(found.bins(), title, _("Rows"))
    mark = _clicked(f"lengths_{unit}", spec, alt)
    if mark and mark.get("low") is not None:
        low, high = int(mark["low"]), int(mark["high"])
        st.markdown(_("**{low} to {high}**").format(low=number(low), high=number(high)))
        quality_rows.show("lengths_bar", found.between(low, high), every=False)
    else:
        _findings("lengths", report)


def _diversity(report: QualityReport) -> None:
    """Render distinct-n, similarity within cells, and common openings."""
    spread = report.diversity
    with st.grid(4, min_column_width=140):
        for n, share in enumerate(spread.distinct, start=1):
            views.metric(_("Distinct-{n}").format(n=n), number(share, 2))
        views.metric(_("Similar within a cell"), "–" if spread.median is None else percent(spread.median, 0))
    views.facts([n_("distinct-n over {n} text", "distinct-n over {n} texts", spread.sampled)])
    view_names = {"openings": _("Common openings"), "cells": _("Cells with the most similar texts")}
    view = st.segmented_control(
        _("Show"), list(view_names), format_func=view_names.__getitem__, default="openings", required=True,
        key="dataset_quality_ways", label_visibility="collapsed",
    )  # fmt: skip
    if view == "openings":
        _shares("openings", [Share(one.text, one.rows) for one in spread.openings], _("How texts begin"))
    else:
        cells = [Share(f"{' · '.join(one.cell)} ({percent(one.highest, 0)})", one.rows) for one in spread.cells]
        _shares("alike", cells, _("Rows of the cells with the most similar texts"))


def _findings(card: str, report: QualityReport) -> None:
    """Render each finding of a card with its rows; if there are several, one at a time."""
    found = [finding for finding in report.findings if CARD_OF[finding.kind] == card]
    if not found:
        return
    chosen = found[0]
    if len(found) > 1:
        names = {f"{one.kind} {one.detail}": one for one in found}
        labels = {name: quality_report.counted(one) for name, one in names.items()}
        key = f"dataset_quality_{card}_finding"
        picked = st.pills(
            _("Found"), list(names), format_func=labels.__getitem__, default=next(iter(names)), required=True, key=key
        )
        chosen = names.get(str(picked), chosen)
    else:
        st.markdown(f"**{quality_report.counted(chosen)}**")
    _rows_of(chosen)


def _rows_of(finding: QualityFinding) -> None:
    quality_rows.show(f"{CARD_OF[finding.kind]}_{finding.kind}", finding.rows, finding.kind)


def _shares(key: str, found: Sequence[Share], alt: str) -> None:
    """Render one bar per share; a click opens its rows, and so does the list next to the chart (for keyboard users)."""
    if not found:
        st.markdown(_("Nothing unusual found."))
        return
    shown = list(found[:_MOST_BARS])
    picked = _bars(key, [(one.name, len(one.rows)) for one in shown], _("Rows"), alt)
    by_name = {one.name: one for one in shown}
    names = ["", *by_name]
    chosen = picked or st.selectbox(
        _("Show rows of"),
        names,
        format_func=lambda name: name or _("choose one, or click its bar"),
        key=f"dataset_quality_{key}_rows_of",
        width=320,
    )
    if chosen in by_name:
        st.markdown(f"**{code(chosen)}**")
        quality_rows.show(key, by_name[chosen].rows, every=False)


def _bars(
    key: str, values: Sequence[tuple[str, float]], title: str, alt: str, *, shares_of_one: bool = False
) -> str | None:
    """Render a bar chart; returns the name of the clicked bar."""
    spec = bars(values, BarLabels("", title), percent=shares_of_one)
    mark = _clicked(key, spec, alt)
    return None if mark is None else str(mark.get("name") or "") or None


def _clicked(key: str, spec: dict[str, Any], alt: str) -> Mapping[str, Any] | None:
    """Render a chart; returns the fields of the mark that was clicked last."""
    event: Any = st.vega_lite_chart(
        spec, alt=alt, key=f"dataset_quality_{key}_chart", on_select="rerun", selection_mode=PICKED
    )
    selection = event.get("selection") if isinstance(event, dict) else getattr(event, "selection", None)
    points = (selection or {}).get(PICKED) or []
    return points[-1] if points and isinstance(points[-1], Mapping) else None


_PANELS: dict[str, Callable[[QualityReport], None]] = {
    "labels": _labels,
    "duplicates": _duplicates,
    "adherence": _adherence,
    "coverage": _coverage,
    "lengths": _lengths,
    "diversity": _diversity,
    "remains": _remains,
    "endings": _endings,
    "languages": _languages,
    "stops": _stops,
}
