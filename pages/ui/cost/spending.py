"""What was spent in a period: the total against the budget, by day and model, and estimate against actual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import pandas as pd
import streamlit as st

from core.charts import cost
from core.pricing import spend_history
from core.pricing.budget import BudgetView
from core.pricing.prices import ENGINE
from core.pricing.spend_history import DayLine, WorkLine
from pages.ui import cache, state
from pages.ui.components import cards, shutdown_notes, views
from pages.ui.components.money import total_spent
from pages.ui.cost import budgets_form, cached_cost
from pages.ui.i18n import _, duration, mark, n_, number, percent, usd
from pages.ui.sign_in import current_actor

_PAGES = {
    "dataset": mark("Data set"),
    "training": mark("Training"),
    "story": mark("Story"),
    "comparison": mark("Before and after"),
    "settings": mark("Provider tests"),
    "shadow": mark("Relayed calls"),
}

_ALL_TIME = "all"
_PERIOD = "cost_period"


def show() -> None:
    """Render the whole section."""
    period = choose_period()
    lines = cached_cost.by_period(period.starts, period.until)
    budgets = cached_cost.budgets()
    if not lines:
        with cards.empty(_nothing(period), icon=":material/savings:"):
            budgets_form.show(budgets)
        return
    _total(lines, budgets, period)
    if any(line.cost_usd for line in lines):
        _by_day(lines, period)
    _by_model(lines)
    actor = current_actor()
    person = None if actor.has("admin") else actor.id
    if works := cached_cost.by_reference(period.since, period.until, person):
        _by_work(works)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            _("Download every call as CSV"),
            data=lambda: spend_history.export(cache.store(), period.since, period.until, person),
            file_name=f"fabula_spend_{period.name}.csv",
            mime="text/csv",
            icon=":material/download:",
            key="cost_export",
            on_click="ignore",
        )
    budgets_form.show(budgets)


def _nothing(period: Period) -> str:
    if period.now:
        return _("No calls this month. Every call will be listed here.")
    return _("No calls in {month}.").format(month=period.name)


def _total(lines: Sequence[DayLine], budgets: Sequence[BudgetView], period: Period) -> None:
    """Render total spending, including machine time; budgets only count provider bills."""
    month = next((one for one in budgets if one.scope == "month"), None)
    if period.now and month is not None:
        _of_budget(lines, month)
    else:
        st.markdown(_spent(lines, period))
    _machine_time([line for line in lines if line.provider == ENGINE])
    _unknown(lines)
    with st.grid(4, min_column_width=150):
        views.metric(_("Calls"), number(sum(line.calls for line in lines)))
        views.metric(_("Tokens"), number(sum(line.tokens for line in lines)))
        unknown = sum(line.unknown for line in lines)
        views.metric(_("Calls with an unknown cost"), number(unknown), help=_("Not included in any total."))
        views.metric(_("Models"), number(len({(line.provider, line.model) for line in lines})))


def _spent(lines: Sequence[DayLine], period: Period) -> str:
    amount, since = total_spent(lines), f"{period.since:%Y-%m}"
    if period.now:
        return _("Spent this month: **{spent}**. No budget is set.").format(spent=amount)
    if period.monthly:
        return _("Spent since {month}: **{spent}**").format(spent=amount, month=since)
    return _("Spent in {month}: **{spent}**").format(spent=amount, month=since)


def _of_budget(lines: Sequence[DayLine], month: BudgetView) -> None:
    billed = [line for line in lines if line.provider != ENGINE]
    known = spend_history.known_usd(billed) if billed else Decimal(0)
    st.markdown(
        _("**{spent}** of **{budget}** spent this month, {left} left.").format(
            spent=usd(known), budget=usd(month.amount_usd), left=usd(max(month.left_usd or Decimal(0), Decimal(0)))
        )
    )
    if month.amount_usd == 0:
        st.caption(_("This budget blocks every paid request."))
        return
    share = float((known or Decimal(0)) / month.amount_usd)
    st.progress(min(max(share, 0.0), 1.0), text=percent(share, 0))


def _machine_time(engine: Sequence[DayLine]) -> None:
    """Render the cost of the engine's work, or a note that no hourly cost is set."""
    if not engine:
        return
    if cached_cost.hour() is None:
        st.caption(
            _("Engine work has no price yet. To include it, enter this machine's cost per hour under “My workload”.")
        )
    else:
        st.caption(
            _("Engine machine time: {amount}. Budgets don't include it.").format(
                amount=usd(spend_history.known_usd(engine))
            )
        )


def _unknown(lines: Sequence[DayLine]) -> None:
    """Render how much the calls with an unknown cost count against budgets."""
    most = sum((line.unknown_at_most_usd for line in lines), Decimal(0))
    if most:
        st.caption(
            _(
                "The cost of some calls is unknown. They are not in the total; budgets count them at their highest "
                "possible cost, {amount} together."
            ).format(amount=usd(most))
        )


def _by_day(lines: Sequence[DayLine], period: Period) -> None:
    words = cost.SpendingLabels(
        day=_("Month (UTC)") if period.monthly else _("Day (UTC)"),
        spent=_("US dollars"),
        model=_("Model"),
        others=_("other models"),
    )
    st.vega_lite_chart(
        cost.spending_bars(lines, period.starts, words, monthly=period.monthly),
        alt=_("US dollars spent by month and model") if period.monthly else _("US dollars spent by day and model"),
        key="cost_days_chart",
    )


def _by_model(lines: Sequence[DayLine]) -> None:
    st.subheader(_("By model, page and person"), anchor=False)
    frame = pd.DataFrame(
        {
            "model": _named(lines),
            "provider": [line.provider for line in lines],
            "page": [_(_PAGES.get(line.page, line.page)) for line in lines],
            "id": [line.person for line in lines],
            "person": [line.person_name for line in lines],
            "calls": [line.calls for line in lines],
            "unknown": [line.unknown for line in lines],
            "tokens": [line.tokens for line in lines],
            "spent": [float(line.cost_usd) for line in lines],
        }
    )
    keys = ["model", "provider", "page", "id", "person"]
    frame = frame.groupby(keys, as_index=False, sort=False).sum().sort_values("spent", ascending=False)
    frame.loc[frame["unknown"] == frame["calls"], "spent"] = None
    st.dataframe(
        frame.drop(columns="id"),  # two people may have the same name
        hide_index=True,
        column_config={
            "model": st.column_config.TextColumn(_("Model"), pinned=True),
            "provider": st.column_config.TextColumn(_("Provider")),
            "page": st.column_config.TextColumn(_("Page")),
            "person": st.column_config.TextColumn(_("Person")),
            "calls": st.column_config.NumberColumn(_("Calls"), format="localized"),
            "unknown": st.column_config.NumberColumn(_("Calls with an unknown cost"), format="localized"),
            "tokens": st.column_config.NumberColumn(_("Tokens"), format="localized"),
            "spent": st.column_config.NumberColumn(_("US dollars"), format="%.4f"),
        },
        placeholder=_("unknown"),
        alt=_("Cost of each model, by page and person"),
    )
    shutdown_notes.show_all((line.provider, line.model, None) for line in lines)


def _named(lines: Sequence[DayLine] | Sequence[WorkLine]) -> list[str]:
    """The model of each line, with its last day if it stops soon."""
    models = {(line.provider, line.model) for line in lines}
    book = cache.prices()
    names = {one: shutdown_notes.named(*one, book=book) for one in models}
    return [names[line.provider, line.model] for line in lines]


def _by_work(works: Sequence[WorkLine]) -> None:
    st.subheader(_("Estimated and actual cost"), anchor=False)
    over = [w for w in works if w.cost_usd and w.estimated_usd is not None and w.cost_usd > w.estimated_usd]
    if over:
        st.markdown(
            n_(
                "{n} run or job cost more than estimated.",
                "{n} runs or jobs cost more than estimated.",
                len(over),
            )
        )
    frame = _work_frame(works)
    st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(frame) <= 12 else 440,
        column_config={
            "name": st.column_config.TextColumn(_("Run, job or story"), pinned=True, width=200),
            "page": st.column_config.TextColumn(_("Page")),
            "model": st.column_config.TextColumn(_("Model")),
            "began": st.column_config.DatetimeColumn(_("Started (UTC)"), format="YYYY-MM-DD HH:mm"),
            "took": st.column_config.TextColumn(_("Duration"), help=_("Working time, without queues and pauses")),
            "calls": st.column_config.NumberColumn(_("Calls"), format="localized"),
            "estimated": st.column_config.NumberColumn(
                _("Estimated"), format="%.4f", help=_("US dollars; for a run, the highest possible cost of its rows")
            ),
            "spent": st.column_config.NumberColumn(_("Actual"), format="%.4f", help=_("US dollars")),
            "person": st.column_config.TextColumn(_("Person")),
        },
        placeholder=_("unknown"),
        alt=_("Runs, jobs and stories with estimated and actual cost"),
    )


def _work_frame(works: Sequence[WorkLine]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "name": [work.name or work.reference for work in works],
            "page": [_(_PAGES.get(work.page, work.page)) for work in works],
            "model": _named(works),
            "began": [work.started_at for work in works],
            "took": [duration(work.duration_s) for work in works],
            "calls": [work.calls for work in works],
            "estimated": [None if work.estimated_usd is None else float(work.estimated_usd) for work in works],
            "spent": [None if work.cost_usd is None else float(work.cost_usd) for work in works],
            "person": [work.person_name for work in works],
        }
    )


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` until before `until` (UTC).

    `starts`: the start of each bar: the days of a month, or the months of all time.
    """

    name: str
    since: datetime
    until: datetime
    starts: tuple[datetime, ...]
    now: bool = False

    @property
    def monthly(self) -> bool:
        """Whether a bar is a month."""
        return self.name == _ALL_TIME


def choose_period() -> Period:
    """The chosen period, by default this month. The picker is shown once there is an earlier month."""
    tomorrow = cached_cost.tomorrow()
    months = cached_cost.months(tomorrow)
    names = [f"{month:%Y-%m}" for month in months]
    if len(months) == 1:
        return _month(months[0], tomorrow, now=True)
    if state.get(_PERIOD) not in (*names, _ALL_TIME):
        state.set_value(_PERIOD, names[0])
    chosen = st.selectbox(
        _("Period"),
        [*names, _ALL_TIME],
        format_func=lambda name: _("All time") if name == _ALL_TIME else _("{month}, this month").format(month=name)
        if name == names[0] else name,
        key=_PERIOD,
        width=240,
        label_visibility="collapsed",
        persist_state="session",
    )  # fmt: skip
    if chosen == _ALL_TIME:
        return Period(_ALL_TIME, months[-1], tomorrow, tuple(reversed(months)))
    place = names.index(chosen)
    return _month(months[place], tomorrow if place == 0 else months[place - 1], now=place == 0)


def _month(since: datetime, until: datetime, *, now: bool) -> Period:
    days = tuple(since + timedelta(days=n) for n in range((until - since).days))
    return Period(f"{since:%Y-%m}", since, until, days, now)
