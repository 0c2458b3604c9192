"""Settings: engine, base models, providers, data location, versions and licences."""

from __future__ import annotations

import streamlit as st

from pages.ui import about, status
from pages.ui.components import cards
from pages.ui.settings import bases

with cards.show_errors():
    left, right = st.columns(2, gap="medium")
    with left:
        status.engine_card()
        bases.card()
        status.providers_card()
    with right:
        about.rescued_card()
        about.data_card()
        about.versions_card()
