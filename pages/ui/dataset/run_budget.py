"""Budgets of runs: raise that of a running or stopped run, set one for the next run."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_DOWN, Decimal

import streamlit as st

from core.actor import LOCAL
from core.errors import FabulaError
from core.generation import runs
from core.generation.runs import RunProgress
from core.message import msg
from core.pricing.budget import MAX_USD
from pages.ui import cached, cards, decimal_field, state
from pages.ui.dataset.row_actions import CENT
from pages.ui.lang import _

_STEP = Decimal("0.5")  # US dollars: proposed amounts are rounded up to multiples of this
_ROOM = Decimal("1.1")  # the remaining rows may be longer than the previous ones
_OPEN = "dataset_raise"


def is_capped(progress: RunProgress) -> bool:
    """True if the run stopped at its budget and has rows left."""
    has_limit = progress.budget_usd is not None and progress.remaining > 0
    return has_limit and progress.state == "stopped" and progress.reason is not None


def raise_limit(progress: RunProgress) -> None:
    """Raise the limit of a run. A stopped run continues; what it has spent still counts."""
    over = is_capped(progress)
    popover = st.popover(
        _("Raise the budget"), icon=":material/savings:", key=_OPEN, on_change="rerun",
        type="primary" if over else "secondary",
    )  # fmt: skip
    if not popover.open or progress.budget_usd is None:
        return
    with popover:
        least = progress.budget_usd
        amount = f"dataset_more_budget_{progress.run_id}_{least}"  # raised in another tab: start from the new value
        _amount(amount, _projected_limit(progress) if over else progress.budget_usd, least)
        st.button(
            _("Resume") if over else _("Set"),
            key="dataset_set_budget",
            type="primary" if over else "secondary",
            on_click=_raise,
            args=(progress.run_id, amount, least, over),
        )


def next_run_limit(last: RunProgress, button: str) -> str:
    """Ask for the budget of a new run after a run with a budget; returns the key of the input field."""
    left = (last.budget_usd or Decimal(0)) - (last.at_most_usd or Decimal(0))
    amount = f"dataset_{button}_budget_{last.run_id}"
    _amount(amount, left if left >= CENT else last.budget_usd or CENT, CENT)
    return amount


def dollars(amount: str, least: Decimal = CENT) -> Decimal:
    """The typed amount, to the cent.

    Raises:
        FabulaError: nothing was typed, or it is not an amount of at least `least`.
    """
    amount_usd = decimal_field.read(amount, least, MAX_USD)
    if amount_usd is None:
        raise FabulaError(msg("No amount entered."), msg("Enter the maximum cost in US dollars."))
    return amount_usd.quantize(CENT)


def _amount(key: str, proposed: Decimal, least: Decimal) -> None:
    state.set_default(key, f"{max(proposed.quantize(CENT, ROUND_DOWN), least):.2f}")
    decimal_field.decimal_field(_("Spending limit (US dollars)"), key, least, MAX_USD)


def _projected_limit(progress: RunProgress) -> Decimal:
    """The projected cost of the run's rows, rounded up to a multiple of `_STEP`."""
    budget = progress.budget_usd or Decimal(0)
    projected = max((progress.projected_usd or Decimal(0)) * _ROOM, budget + CENT)
    return (projected / _STEP).to_integral_value(ROUND_CEILING) * _STEP


def _raise(run_id: str, amount: str, least: Decimal, go_on: bool) -> None:
    with cards.keep_errors():
        runs.raise_budget(cached.store(), LOCAL, run_id, dollars(amount, least))
        if go_on:
            runs.resume(cached.store(), LOCAL, run_id)
        state.set_value(_OPEN, False)
