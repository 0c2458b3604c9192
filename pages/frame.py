"""The shell around every page: page config, language, navigation, title."""

from __future__ import annotations

import streamlit as st

from core import logs, metrics
from core.db.store import new_id
from pages.ui import i18n
from pages.ui.components import cards
from pages.ui.components.entrance import Entrance
from pages.ui.i18n import _
from pages.ui.sign_in import current_actor
from pages.ui.story import presenter

st.set_page_config(
    page_title="Fabula",
    page_icon="📖",  # rendered by the browser itself: a named icon would be fetched from a font server
    layout="wide",
    menu_items={"About": _("Fabula: from an idea to a tuned, costed, streaming model.")},
)

_SENTENCES = {
    "": _("Design a grid, generate examples, train a model, and write stories with it."),
    "dataset": _("Define a grid or bring prompts; a model writes a text for each."),
    "training": _("Train a model on your stories and follow its progress."),
    "cost": _("Compare prices, estimate your workload, and see what you have spent."),
    "story": _("Pick a model, give it an idea, and watch the story appear."),
    "move": _("Archive, retrain and replace your tuned models before their provider stops them."),
    "settings": _("The engine, the providers, the language, and where your data is stored."),
}
entrance = Entrance()
page = st.navigation(
    [
        st.Page("home.py", title=_("Home"), icon=":material/home:", default=True),
        st.Page("dataset.py", title=_("Data set"), icon=":material/grid_view:", url_path="dataset"),
        st.Page("training.py", title=_("Training"), icon=":material/model_training:", url_path="training"),
        st.Page("cost.py", title=_("Cost"), icon=":material/payments:", url_path="cost"),
        st.Page("story.py", title=_("Story"), icon=":material/auto_stories:", url_path="story"),
        st.Page("move.py", title=_("Move"), icon=":material/move_to_inbox:", url_path="move"),
        st.Page("settings.py", title=_("Settings"), icon=":material/settings:", url_path="settings"),
    ],
    position="top" if entrance.open and not presenter.on() else "hidden",
)

full_screen = presenter.on() and entrance.open

with st.container(horizontal_alignment="center"), st.container(width="stretch" if full_screen else 1320):
    if not full_screen:
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            with st.container(width="content", gap=None):
                st.title(_("Fabula") if page.url_path == "" or not entrance.open else page.title, anchor=False)
                st.caption(_SENTENCES[page.url_path] if entrance.open else _SENTENCES[""])
            with st.container(horizontal=True, width="content", vertical_alignment="center"):
                entrance.who_am_i()
                i18n.picker()
        cards.show_last_action()
    if entrance.open:
        with logs.bound(person=current_actor().id, request=new_id()), metrics.timed_page(page.url_path or "home"):
            page.run()
    else:
        entrance.draw()
