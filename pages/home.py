"""Home: where am I, what next; the guided tour."""

from __future__ import annotations

from pages.ui import activity, cards, examples_card, overview, status, tour_card

with cards.errors_shown():
    tour_card.show()
    examples_card.show()
    overview.show()
    status.strip()
    activity.show()
