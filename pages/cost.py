"""Prices: what tokens cost, model by model, as multiples of one of them."""

from __future__ import annotations

import streamlit as st

from pages.ui import cards, price_list
from pages.ui.lang import _

with cards.errors_shown():
    choice = price_list.controls()
    lines = price_list.lines(choice)
    if not lines:
        with cards.empty(_("No model has this in its name."), icon=":material/search:"):
            st.caption(_("Search for less, or add a price list."))
    else:
        price_list.answer(lines, choice)
        price_list.chart(lines, choice)
        price_list.table(lines, choice)
