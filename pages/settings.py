"""Settings: people, budgets, providers, base models, engine, data location, versions and licences."""

from __future__ import annotations

import streamlit as st

from pages.ui.components import cards, status
from pages.ui.settings import about, audit_card, bases, budgets_card, guest_links_card, people_card, providers_card

with cards.show_errors():
    people_card.card()
    budgets_card.card()
    guest_links_card.card()
    audit_card.card()
    providers_card.card()
    bases.card()
    left, right = st.columns(2, gap="medium")
    with left:
        status.engine_card()
        about.rescued_card()
        about.data_card()
    with right:
        about.versions_card()
