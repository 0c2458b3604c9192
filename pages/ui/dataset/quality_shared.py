"""Shared by the panels of the quality report: clickable charts, and findings with their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core.charts import quality as charts_quality
from core.datasets.quality import QualityFinding, QualityReport, Share
from pages.ui.dataset import quality_labels, quality_rows
from pages.ui.dataset.quality_figures import CARD_OF
from pages.ui.lang import _, code

MOST_BARS = 30  # maximum per chart, and names per line; more are rare


def findings(card: str, report: QualityReport) -> None:
    """Each finding of a card with its rows; if there are several, one at a time."""
    found = [finding for finding in report.findings if CARD_OF[finding.kind] == card]
    if not found:
        return
    chosen = found[0]
    if len(found) > 1:
        names = {f"{one.kind} {one.detail}": one for one in found}
        labels = {name: quality_labels.counted(one) for name, one in names.items()}
        key = f"dataset_quality_{card}_finding"
        picked = st.pills(
            _("Found"), list(names), format_func=labels.__getitem__, default=next(iter(names)), required=True, key=key
        )
        chosen = names.get(str(picked), chosen)
    else:
        st.markdown(f"**{quality_labels.counted(chosen)}**")
    _rows_of(chosen)


def _rows_of(finding: QualityFinding) -> None:
    quality_rows.show(f"{CARD_OF[finding.kind]}_{finding.kind}", finding.rows, finding.kind)


def shares(key: str, found: Sequence[Share], alt: str) -> None:
    """One bar per share; a click opens its rows, and so does the list next to the chart (for keyboards)."""
    if not found:
        st.markdown(_("Nothing unusual found."))
        return
    shown = list(found[:MOST_BARS])
    picked = bars(key, [(one.name, len(one.rows)) for one in shown], _("Rows"), alt)
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


def bars(
    key: str, values: Sequence[tuple[str, float]], title: str, alt: str, *, shares_of_one: bool = False
) -> str | None:
    """Draw a bar chart; returns the name of the clicked bar."""
    spec = charts_quality.bars(values, charts_quality.BarLabels("", title), percent=shares_of_one)
    mark = clicked(key, spec, alt)
    return None if mark is None else str(mark.get("name") or "") or None


def clicked(key: str, spec: dict[str, Any], alt: str) -> Mapping[str, Any] | None:
    """Draw a chart; returns the fields of the mark that was clicked last."""
    event: Any = st.vega_lite_chart(
        spec, alt=alt, key=f"dataset_quality_{key}_chart", on_select="rerun", selection_mode=charts_quality.PICKED
    )
    selection = event.get("selection") if isinstance(event, dict) else getattr(event, "selection", None)
    points = (selection or {}).get(charts_quality.PICKED) or []
    return points[-1] if points and isinstance(points[-1], Mapping) else None
