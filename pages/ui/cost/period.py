"""The period whose spending is shown: a month, or all time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import streamlit as st

from pages.ui import state
from pages.ui.cost import cached_cost
from pages.ui.lang import _

_ALL = "all"
_KEY = "cost_period"


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
        return self.name == _ALL


def choose() -> Period:
    """The chosen period, by default this month. The picker is shown once there is an earlier month."""
    tomorrow = cached_cost.tomorrow()
    months = cached_cost.months(tomorrow)
    names = [f"{month:%Y-%m}" for month in months]
    if len(months) == 1:
        return _month(months[0], tomorrow, now=True)
    if state.get(_KEY) not in (*names, _ALL):
        state.set_value(_KEY, names[0])
    chosen = st.selectbox(
        _("Period"),
        [*names, _ALL],
        format_func=lambda name: _("All time") if name == _ALL else _("{month}, this month").format(month=name)
        if name == names[0] else name,
        key=_KEY,
        width=240,
        label_visibility="collapsed",
        persist_state="session",
    )  # fmt: skip
    if chosen == _ALL:
        return Period(_ALL, months[-1], tomorrow, tuple(reversed(months)))
    place = names.index(chosen)
    return _month(months[place], tomorrow if place == 0 else months[place - 1], now=place == 0)


def _month(since: datetime, until: datetime, *, now: bool) -> Period:
    days = tuple(since + timedelta(days=n) for n in range((until - since).days))
    return Period(f"{since:%Y-%m}", since, until, days, now)
