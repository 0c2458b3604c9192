"""Quality against price: results of blind votes and evaluations, and the cost of a story."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.charts import cost
from core.pricing import quality
from core.pricing.quality import Quality
from pages.ui.components import shutdown_notes
from pages.ui.components.money import as_float
from pages.ui.cost import cached_cost
from pages.ui.i18n import PERCENT_FORMAT, _, listed, n_, percent, plain, table_percent, usd


def show() -> None:
    """Render a sentence, the chart and the table, or how to get a first measurement."""
    st.subheader(_("Quality and price"), anchor=False)
    found = cached_cost.qualities()
    if not found:
        st.caption(_("No votes or evaluations yet. Compare two models blind on the Story page, or evaluate a job."))
        return
    _sentence(found)
    if any(one.cost_usd is not None for one in found):
        words = cost.QualityLabels(
            cost=_("US dollars per story (log scale)"),
            quality=_("Quality"),
            model=_("Model"),
            count=_("Rounds or examples"),
            kinds=(_("blind votes"), _("evaluation")),
            free=_("free"),
            comma=listed(["", ""]),
        )
        st.vega_lite_chart(
            cost.quality_scatter(found, words),
            alt=_("Quality of {n} models against their cost per story").format(n=len(found)),
            key="cost_quality_chart",
        )
    _table(found)
    shutdown_notes.show_all((one.provider, one.model, None) for one in found)
    unknown = sum(one.cost_usd is None for one in found)
    if unknown:
        st.caption(
            n_("{n} result is not in the chart: its price is unknown.",
               "{n} results are not in the chart: their prices are unknown.", unknown)
        )  # fmt: skip


def _table(found: Sequence[Quality]) -> None:
    frame = pd.DataFrame(
        {
            "model": [shutdown_notes.named(one.provider, one.model) for one in found],
            "measured": [_("blind votes") if one.kind == "votes" else _("evaluation") for one in found],
            "share": [table_percent(one.share) for one in found],
            "interval": [_interval(one) for one in found],
            "n": [one.n for one in found],
            "each": [as_float(one.cost_usd) for one in found],
            "preferred": [as_float(one.usd_per_preferred) for one in found],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "model": st.column_config.TextColumn(_("Model"), pinned=True),
            "measured": st.column_config.TextColumn(_("Measured by")),
            "share": st.column_config.NumberColumn(_("Quality"), format=PERCENT_FORMAT),
            "interval": st.column_config.TextColumn(_("95 % interval")),
            "n": st.column_config.NumberColumn(_("Rounds or examples"), format="localized"),
            "each": st.column_config.NumberColumn(_("Per story"), format="%.6f", help=_("US dollars")),
            "preferred": st.column_config.NumberColumn(
                _("Per preferred story"), format="%.6f",
                help=_("US dollars per blind round won"),
            ),
        },
        placeholder=_("unknown"),
        alt=_("Quality and cost of each model with votes or evaluations"),
    )  # fmt: skip


def _interval(one: Quality) -> str | None:
    """The 95 % interval; None if the measure has none."""
    return None if one.low == one.high else f"{percent(one.low, 0)} – {percent(one.high, 0)}"


def _sentence(found: Sequence[Quality]) -> None:
    """Render the best model, if the intervals support one, and a cheaper one that may be as good."""
    first = quality.leader(found)
    if first is None:
        return
    best = first.best
    names = {"model": plain(best.model), "share": percent(best.share), "n": _counted(best)}
    if first.clear:
        st.markdown(_("Best so far: **{model}** with {share} of {n}.").format(**names))
    elif first.compared == 1:
        st.markdown(
            _("**{model}**: {share} of {n}. Measure a second model in the same way to compare.").format(**names)
        )
    else:
        others = listed(plain(one.model) for one in first.rivals)
        st.markdown(
            _("No clear winner yet: **{model}** has {share} of {n}, but the 95 % interval overlaps with {others}.")
            .format(others=others, **names)
        )  # fmt: skip
    _cheaper(best, first.rivals)


def _cheaper(best: Quality, rivals: Sequence[Quality]) -> None:
    """Name the cheapest rival if it costs less than the leader."""
    priced = [(one.cost_usd, one) for one in rivals if one.cost_usd is not None]
    if not priced:
        return
    cost_usd, cheapest = min(priced, key=lambda pair: (pair[0], -pair[1].share))
    if best.cost_usd is not None and cost_usd >= best.cost_usd:
        return
    st.markdown(
        _("**{model}** may be as good (the intervals overlap) and costs {cost} per story.").format(
            model=plain(cheapest.model), cost=usd(cost_usd)
        )
    )


def _counted(one: Quality) -> str:
    if one.kind == "votes":
        return n_("{n} blind round", "{n} blind rounds", one.n)
    return n_("{n} example", "{n} examples", one.n)
