"""Budgets per run, per month and per person, with the amount left. In a team, only admins see those of others."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import streamlit as st

from core.errors import FabulaError
from core.message import msg
from core.people import people
from core.pricing import budget
from core.pricing.budget import BudgetView
from pages.ui import cache, state
from pages.ui.components import cards, fields
from pages.ui.components.fields import fits
from pages.ui.cost import cached_cost
from pages.ui.i18n import _, mark, plain, usd
from pages.ui.sign_in import current_actor, is_team

_SCOPES = {
    "month": mark("Everyone, per month"),
    "person": mark("One person, per month"),
    "run": mark("Each run, job or story"),
    "each": mark("Each person, per month"),
}
_SCOPE = "cost_budget_scope"
_PERSON = "cost_budget_person"


def show(budgets: Sequence[BudgetView]) -> None:
    """Render an expander with the budgets, the amounts left, and the form."""
    with st.expander(
        _("Budgets"), icon=":material/account_balance_wallet:", key="cost_budgets", on_change="rerun"
    ) as row:
        if not row.open:
            return
        actor = current_actor()
        admin = actor.has("admin")
        for one in budgets:
            if admin or one.subject in ("", actor.id):
                _line(one, admin)
        if admin:
            _form()
        st.caption(_("Requests that would exceed a budget are blocked. Reserved amounts count until released."))


def _form() -> None:
    state.set_default(_SCOPE, "month")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        scope = st.selectbox(
            _("Budget for"),
            [name for name in _SCOPES if is_team() or name != "each"],
            format_func=lambda key: _(_SCOPES[key]),
            key=_SCOPE,
            width=260,
        )
        if scope == "person":
            _person()
        fields.decimal_field(
            _("Amount (USD)"), "cost_budget_amount", Decimal(0), budget.MAX_USD, placeholder="20", width=160
        )
        st.button(_("Set budget"), icon=":material/check:", key="cost_budget_set", on_click=_set)


def _person() -> None:
    """Whose budget it is: a member of the team, or a name in local mode."""
    if is_team():
        members = {one.id: one for one in people.everyone(cache.store(), current_actor())}
        st.selectbox(
            _("Person"), list(members), key=_PERSON, width=240,
            format_func=lambda person_id: f"{members[person_id].name} · {members[person_id].email}",
        )  # fmt: skip
        return
    state.set_default(_PERSON, current_actor().id)
    with st.container(gap="xsmall", width=180):
        fits(st.text_input(_("Person"), key=_PERSON), budget.MAX_SUBJECT_LENGTH)


def _line(one: BudgetView, admin: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        name = _(_SCOPES[one.scope]) + (f" · {plain(one.name)}" if one.subject else "")
        left = "" if one.left_usd is None else _(", {left} left").format(left=usd(max(one.left_usd, Decimal(0))))
        st.markdown(_("{name}: **{amount}**{left}").format(name=name, amount=usd(one.amount_usd), left=left))
        if admin:
            st.button(
                _("Remove"), icon=":material/delete:", type="tertiary",
                key=f"cost_budget_remove_{one.scope}_{one.subject}", on_click=_remove, args=(one.scope, one.subject),
            )  # fmt: skip


def _set() -> None:
    scope = state.get(_SCOPE)
    subject = str(state.get(_PERSON) or "") if scope == "person" else ""
    with cards.keep_errors():
        amount = fields.read_decimal("cost_budget_amount", Decimal(0), budget.MAX_USD)
        if amount is None:
            if not str(state.get("cost_budget_amount") or "").strip():
                raise FabulaError(
                    msg("The budget has no amount."), msg("Enter one in USD. 0 blocks every paid request.")
                )
            return
        budget.set_budget(cache.store(), current_actor(), scope, amount, subject)
        state.notify(":material/check:", _("Budget set."))
    cached_cost.forget()


def _remove(scope: budget.Scope, subject: str) -> None:
    with cards.keep_errors():
        budget.set_budget(cache.store(), current_actor(), scope, None, subject)
        state.notify(":material/undo:", _("Budget removed."))
    cached_cost.forget()
