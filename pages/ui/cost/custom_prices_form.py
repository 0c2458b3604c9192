"""Prices that users of this studio set themselves: the list, a form, and a button to remove one."""

from __future__ import annotations

from decimal import Decimal

import streamlit as st

from core.pricing import custom_prices
from core.pricing.price_book import PriceBook
from core.pricing.price_csv import UNITS, max_amount
from core.pricing.prices import ENGINE
from pages.ui import cache, state
from pages.ui.components import cards, fields, shutdown_notes
from pages.ui.components.fields import fits, text_field
from pages.ui.cost import cached_cost
from pages.ui.cost.price_choice import list_names, show_own
from pages.ui.i18n import _, ago, mark, plain
from pages.ui.sign_in import current_actor

_USES = {
    "input": mark("Input"),
    "cached_input": mark("Cached input"),
    "output": mark("Output"),
    "training": mark("Training"),
    "hosting_hour": mark("Hosting per hour"),
    "batch_factor": mark("Batch price factor"),
    "speech": mark("Speech"),
}
_UNITS = {
    "mtok": mark("1M tokens"),
    "ktok": mark("1k tokens"),
    "hour": mark("hour"),
    "factor": mark("× live price"),
    "mchar": mark("1M characters"),
}
_LONGEST_NOTE = 200  # characters


def show(book: PriceBook) -> None:
    """Render an expander with the custom prices and the form."""
    custom = custom_prices.list_custom(cache.store())
    title = _("Your own prices") if not custom else _("Your own prices ({n})").format(n=len(custom))
    changed = bool(state.get("cost_own_changed"))  # a new title would create a new, collapsed expander
    with st.expander(title, changed, icon=":material/edit:", key="cost_own", on_change="rerun") as opened:
        if opened.open:
            for one in custom:
                _line(one)
            shutdown_notes.show_all((one.provider, one.model, None) for one in custom)
            _form(book)


def _line(one: custom_prices.CustomPriceView) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            _("**{model}** · {provider}: {kind} {amount} {currency} / {unit}").format(
                model=plain(one.model),
                provider=plain(one.provider),
                kind=_(_USES[one.kind]),
                amount=one.amount,
                currency=one.currency,
                unit=_(_UNITS[one.unit]),
            )
        )
        st.caption(" · ".join(part for part in (plain(one.note), ago(one.created_at, cached_cost.now())) if part))
        st.button(
            _("Remove"), icon=":material/delete:", type="tertiary", key=f"cost_own_remove_{one.id}",
            on_click=_remove, args=(one.id,),
        )  # fmt: skip


def _form(book: PriceBook) -> None:
    st.caption(
        _("Overrides the list price; marked as yours. To price all models tuned from a base, put ft: before its name.")
    )
    names = {name: title for name, title in list_names(book).items() if name != ENGINE}
    state.set_default("cost_own_provider", "openai")
    state.set_default("cost_own_kind", "output")
    with st.grid(4, min_column_width=150):
        st.selectbox(
            _("Provider"), list(names), format_func=lambda name: names.get(name, name), key="cost_own_provider",
            accept_new_options=True,
        )  # fmt: skip
        with st.container(gap="xsmall"):
            model = st.text_input(_("Model"), key="cost_own_model", placeholder="ft:gpt-4.1-mini-2025-04-14")
            fits(model, custom_prices.MAX_MODEL_LENGTH)
        price_kind = st.selectbox(_("For"), list(_USES), format_func=lambda use: _(_USES[use]), key="cost_own_kind")
        amount, unit = st.container(), st.container()
        units = UNITS[price_kind or "output"]
        if state.get("cost_own_unit") not in units:
            state.set_value("cost_own_unit", units[0])
        per = unit.selectbox(_("Per"), units, format_func=lambda unit: _(_UNITS[unit]), key="cost_own_unit")
        with amount:
            fields.decimal_field(
                _("Amount"), "cost_own_amount", Decimal(0), max_amount(price_kind or "output", per or units[0]),
                placeholder="0.40",
            )  # fmt: skip
        st.selectbox(_("Currency"), custom_prices.CURRENCIES, key="cost_own_currency")
        text_field(_("Note"), "cost_own_note", _LONGEST_NOTE, placeholder=_("Source of the price"))
    st.button(_("Set price"), icon=":material/check:", key="cost_own_set", on_click=_set)


def _set() -> None:
    with cards.keep_errors():
        custom_prices.set_price(
            cache.store(),
            current_actor(),
            provider=str(state.get("cost_own_provider") or ""),
            model=str(state.get("cost_own_model") or ""),
            kind=str(state.get("cost_own_kind")),
            amount=str(state.get("cost_own_amount") or ""),
            currency=str(state.get("cost_own_currency") or "USD"),
            unit=str(state.get("cost_own_unit")),
            note=str(state.get("cost_own_note") or ""),
        )
        state.set_value("cost_own_amount", "")
        show_own()
        state.set_value("cost_own_changed", True)
        state.notify(":material/check:", _("Price set."))
    cached_cost.forget()


def _remove(price_id: str) -> None:
    with cards.keep_errors():
        custom_prices.remove(cache.store(), current_actor(), price_id)
        state.set_value("cost_own_changed", True)
        state.notify(":material/undo:", _("Price removed. The list price applies again."))
    cached_cost.forget()
