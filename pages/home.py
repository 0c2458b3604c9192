"""Home: the state of your work, the next step, and the guided tour."""

from __future__ import annotations

from pages.ui.components import cards, status
from pages.ui.home import examples_card, examples_form, overview, stopping_card, tour_card

with cards.show_errors():
    stopping_card.show()
    for card in (examples_card, tour_card) if examples_form.on_top() else (tour_card, examples_card):
        card.show()
    overview.show()
    status.strip()
    overview.recent_activity()
