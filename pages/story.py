"""Story: pick a model, give it an idea, read along as it writes."""

from __future__ import annotations

import streamlit as st

from pages.ui import cards, composer, shelf, teller, views
from pages.ui.lang import _

part = views.switch("story_part", _("Part"), {"write": _("Write"), "shelf": _("Earlier stories")})
with cards.errors_shown():
    if part == "write":
        left, right = st.columns([2, 3], gap="medium")
        with left:
            composer.form(teller.button)
        with right:
            teller.page()
    else:
        shelf.show()
