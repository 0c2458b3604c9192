"""Budgets of a team, where a person spends: a warning at 80 %, and a request to the admins for more.

None of this appears in local mode. Admins get no button to ask: they change budgets themselves.
"""

from __future__ import annotations

from decimal import Decimal

import streamlit as st

from core.db.tables import utcnow
from core.errors import FabulaError
from core.pricing import budget, budget_requests
from core.pricing.budget import BudgetView, Scope
from core.pricing.budget_requests import BudgetRequestView
from pages.ui import cache, state
from pages.ui.i18n import _, ago, mark, plain, usd
from pages.ui.sign_in import current_actor, is_team

_NEARLY = {
    "month": mark("This month's budget for everyone is nearly used up: {spent} of {limit}."),
    "person": mark("Your budget for this month is nearly used up: {spent} of {limit}."),
}
_USED_UP = {
    "month": mark("This month's budget for everyone is used up: {spent} of {limit}. Paid requests are blocked."),
    "person": mark("Your budget for this month is used up: {spent} of {limit}. Paid requests are blocked."),
}


def show() -> None:
    """A warning for each budget of this person that is at least 80 % used."""
    if not is_team():
        return
    for one in budget.of_person(cache.store(), current_actor()):
        if one.nearly_used_up:
            with st.container(horizontal=True, vertical_alignment="center", key=f"budget_{one.scope}"):
                show_line = st.error if one.used_up else st.warning
                show_line(sentence(one), icon=":material/savings:")
                ask_button(f"budget_ask_{one.scope}", one.scope)


def sentence(one: BudgetView) -> str:
    """How much of a monthly budget is used, for Markdown."""
    template = (_USED_UP if one.used_up else _NEARLY)[one.scope]
    return _(template).format(spent=usd(one.spent_usd), limit=usd(one.amount_usd))


def ask_button(
    key: str, scope: Scope | None = None, *, reference: str | None = None, missing_usd: Decimal | None = None
) -> None:
    """A button that asks the admins for a higher budget, or the outcome of the last request. See `budget_requests.ask`.

    Args:
        scope: which budget; None: the one that leaves the least.
    """
    if not is_team() or (actor := current_actor()).has("admin"):
        return
    asked = budget_requests.own(cache.store(), actor)
    last = asked.get(scope) if scope else next((one for one in asked.values() if one.state == "open"), None)
    if last is not None:
        _answer(last)
    if last is None or last.state != "open":
        st.button(
            _("Ask an admin for more"), icon=":material/outgoing_mail:", key=key, on_click=_ask,
            args=(scope, reference, missing_usd),
        )  # fmt: skip


def _answer(last: BudgetRequestView) -> None:
    if last.state == "open":
        st.caption(_("You asked for more {time}. Admins see it under Settings.").format(time=when(last)))
    elif last.state == "declined":
        st.caption(
            _("{name} declined your request {time}.").format(name=plain(last.decided_by), time=when(last)),
            width="content",
        )


def when(request: BudgetRequestView) -> str:
    """How long ago it was answered, or asked."""
    return ago(request.decided_at or request.created_at, utcnow())


def _ask(scope: Scope | None, reference: str | None, missing_usd: Decimal | None) -> None:
    try:
        budget_requests.ask(cache.store(), current_actor(), scope, reference=reference, missing_usd=missing_usd)
        state.notify(":material/outgoing_mail:", _("Request sent. Admins see it under Settings."))
    except FabulaError as error:
        state.studio().problem = error
