"""A team's budgets: what the visitor may still spend. Admins also see requests for more and budgets nearly used up."""

from __future__ import annotations

from decimal import Decimal

import streamlit as st

from core.actor import Actor
from core.db.store import Store
from core.errors import FabulaError, NotAllowed
from core.message import msg
from core.pricing import budget, budget_requests
from core.pricing.budget import MAX_USD, BudgetView, Scope
from core.pricing.budget_requests import BudgetRequestView
from pages.ui import cache, state
from pages.ui.components import budget_notes, cards, failure_labels, fields
from pages.ui.cost import cached_cost
from pages.ui.i18n import _, mark, n_, plain, usd
from pages.ui.sign_in import current_actor, is_team

_ASKED: dict[Scope, str] = {
    "person": mark("**{name}** asks for a higher monthly budget. Now: {limit}."),
    "month": mark("**{name}** asks for a higher monthly budget for everyone. Now: {limit}."),
    "run": mark("**{name}** asks for a higher budget for each run, job or story. Now: {limit}."),
}


def card() -> None:
    """The card; nothing in local mode."""
    if not is_team():
        return
    store, actor = cache.store(), current_actor()
    with st.container(border=True, key="settings_budgets"):
        st.subheader(_("Budgets"), anchor=False)
        _own(store, actor)
        if not actor.has("admin"):
            return
        try:
            asked, full = budget_requests.open_requests(store, actor), budget.nearly_used_up(store, actor)
        except NotAllowed as exc:  # since this run began
            cards.error_card(exc)
            return
        if asked:
            st.markdown(f"**{n_('{n} request for more', '{n} requests for more', len(asked))}**")
        for one in asked:
            with st.container(border=True, key=f"settings_budget_request_{one.id}"):
                _request(one)
        if full := [one for one in full if one.scope == "person" and one.subject != actor.id]:
            st.markdown(_("**At least 80 % used this month**"))
            for view in full:
                _used(view, plain(view.name))
        failure_labels.page_button("open_budgets", "settings")


def _own(store: Store, actor: Actor) -> None:
    """This person's own budget and everyone's, each with a button to ask for more from 80 % on."""
    views = budget.of_person(store, actor)
    for one in views:
        _used(one, _("Everyone, per month") if one.scope == "month" else _("You, per month"))
        if one.nearly_used_up:
            budget_notes.ask_button(f"settings_budget_ask_{one.scope}", one.scope)
    if not views:
        st.caption(_("No monthly budget limits what you spend."))


def _used(one: BudgetView, name: str) -> None:
    """A bar with the amounts, and a badge from 80 % on."""
    spent, limit = one.spent_usd or Decimal(0), one.amount_usd
    words = _("{name}: {spent} of {limit}").format(name=name, spent=usd(spent), limit=usd(limit))
    if one.used_up:
        words += f" {_(':red-badge[:material/block: used up]')}"
    elif one.nearly_used_up:
        words += f" {_(':orange-badge[:material/savings: nearly used up]')}"
    st.progress(min(float(spent / limit), 1.0) if limit else 1.0, text=words)


def _request(one: BudgetRequestView) -> None:
    key = f"settings_budget_amount_{one.id}"
    fields.default_decimal(key, one.proposed_usd)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        with st.container(gap=None, width="content"):
            st.markdown(_(_ASKED[one.scope]).format(name=plain(one.name), limit=usd(one.limit_usd)))
            st.caption(budget_notes.when(one))
        with st.container(horizontal=True, gap="small", width="content", vertical_alignment="bottom"):
            fields.decimal_field(_("New budget (USD)"), key, Decimal(0), MAX_USD, width=150)
            st.button(
                _("Grant"), icon=":material/check:", type="primary", key=f"settings_budget_grant_{one.id}",
                on_click=_grant, args=(one.id, key),
            )  # fmt: skip
            st.button(
                _("Decline"), icon=":material/close:", key=f"settings_budget_decline_{one.id}", on_click=_decline,
                args=(one.id,),
            )  # fmt: skip


def _grant(request_id: str, key: str) -> None:
    with cards.keep_errors():
        amount = fields.read_decimal(key, Decimal(0), MAX_USD)
        if amount is None:
            raise FabulaError(msg("The budget has no amount."), msg("Enter the new budget in US dollars."))
        budget_requests.grant(cache.store(), current_actor(), request_id, amount)
        state.notify(":material/check:", _("Budget raised."))
    cached_cost.forget()


def _decline(request_id: str) -> None:
    with cards.keep_errors():
        budget_requests.decline(cache.store(), current_actor(), request_id)
        state.notify(":material/close:", _("Request declined."))
