"""Distribution of the rows: over cells and lengths, and their diversity."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.charts import quality as charts_quality
from core.datasets.quality import QualityReport, Share
from pages.ui import views
from pages.ui.dataset import quality_rows, quality_shared
from pages.ui.lang import _, column_title, n_, number, percent, plain


def coverage(report: QualityReport) -> None:
    """Rows by cell, as a map of two columns."""
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
        named = [" · ".join(plain(value) for value in cell) for cell in covered.missing[: quality_shared.MOST_BARS]]
        st.markdown(f"**{_('Cells without rows')}**")
        st.caption("; ".join(named) + ("; …" if covered.expected - covered.filled > len(named) else ""))


def _cell_map(report: QualityReport) -> None:
    covered = report.coverage
    if len(covered.columns) == 1:
        values = [(value, len(covered.rows_of({covered.columns[0]: value}))) for value in covered.values[0]]
        picked = quality_shared.bars("coverage", values[: quality_shared.MOST_BARS], _("Rows"), _("Rows by value"))
        if picked is not None:
            quality_rows.show("coverage", covered.rows_of({covered.columns[0]: picked}), every=False)
        return
    across, down = covered.columns[1], covered.columns[0]
    if len(covered.columns) > 2:
        with st.container(horizontal=True):
            across = _choice(_("X axis"), covered.columns, 1, "across")
            others = [column for column in covered.columns if column != across]
            down = _choice(_("Y axis"), others, 0, "down")
    spec = charts_quality.cell_map(covered.by_pair(across, down), column_title(across), column_title(down), _("Rows"))
    alt = _("Rows by {across} and {down}").format(across=column_title(across), down=column_title(down))
    mark = quality_shared.clicked("coverage_map", spec, alt)
    if mark:
        quality_rows.show("coverage", covered.rows_of({across: mark["across"], down: mark["down"]}), every=False)
    else:
        st.caption(_("Click a square to see its rows."))


def _choice(label: str, columns: Sequence[str], index: int, axis: str) -> str:
    key = f"dataset_quality_{axis}"
    return st.selectbox(label, columns, index=index, format_func=column_title, key=key, width=220)


def lengths(report: QualityReport) -> None:
    """Five figures, a histogram, and the outliers."""
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
    spec = charts_quality.histogram(found.bins(), title, _("Rows"))
    mark = quality_shared.clicked(f"lengths_{unit}", spec, alt)
    if mark and mark.get("low") is not None:
        low, high = int(mark["low"]), int(mark["high"])
        st.markdown(_("**{low} to {high}**").format(low=number(low), high=number(high)))
        quality_rows.show("lengths_bar", found.between(low, high), every=False)
    else:
        quality_shared.findings("lengths", report)


def diversity(report: QualityReport) -> None:
    """Distinct-n, similarity within cells, and common openings."""
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
        quality_shared.shares("openings", [Share(one.text, one.rows) for one in spread.openings], _("How texts begin"))
    else:
        cells = [Share(f"{' · '.join(one.cell)} ({percent(one.highest, 0)})", one.rows) for one in spread.cells]
        quality_shared.shares("alike", cells, _("Rows of the cells with the most similar texts"))
