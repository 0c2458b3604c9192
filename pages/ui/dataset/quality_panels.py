"""The panel of a score card: its chart and its rows."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.datasets.quality import Adherence, QualityReport, Share
from pages.ui import views
from pages.ui.dataset import quality_labels, quality_rows, quality_shared, quality_spread
from pages.ui.dataset.quality_figures import CARD_OF
from pages.ui.lang import _, column_name, percent, plain


def show(card: str, report: QualityReport) -> None:
    """The panel of one card."""
    icon, name = quality_labels.CARDS[card]
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
    views.facts([quality_labels.counted(finding) for finding in surplus])
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
        quality_shared.findings("adherence", report)


def _values(column: Adherence) -> bool:
    """One bar per value, most often missing first; returns True if one was clicked and its rows are shown."""
    shown = column.values[: quality_shared.MOST_BARS]
    picked = quality_shared.bars(
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
    quality_shared.findings("remains", report)


def _endings(report: QualityReport) -> None:
    named = [Share(quality_labels.ending(one.name), one.rows) for one in report.endings]
    quality_shared.shares("endings", named, _("Rows by finish reason"))
    quality_shared.findings("endings", report)


def _languages(report: QualityReport) -> None:
    named = [Share(_(quality_labels.LANGUAGES[one.name]), one.rows) for one in report.languages]
    quality_shared.shares("languages", named, _("Rows by language"))
    quality_shared.findings("languages", report)


def _stops(report: QualityReport) -> None:
    st.caption(_("A model stops at the first stop sequence. If a text contains it, the model learns to stop there."))
    if not report.stops:
        st.markdown(_("None of the common stop sequences occurs in the texts."))
        return
    quality_shared.shares(
        "stops", [Share(repr(one.name), one.rows) for one in report.stops], _("Rows that contain the stop")
    )


def _labels(report: QualityReport) -> None:
    quality_shared.shares("labels", report.labels, _("Rows by label"))
    quality_shared.findings("labels", report)


_PANELS: dict[str, Callable[[QualityReport], None]] = {
    "labels": _labels,
    "duplicates": _duplicates,
    "adherence": _adherence,
    "coverage": quality_spread.coverage,
    "lengths": quality_spread.lengths,
    "diversity": quality_spread.diversity,
    "remains": _remains,
    "endings": _endings,
    "languages": _languages,
    "stops": _stops,
}
