"""Move: bring every tuned model, its files and its history here before the provider stops them."""

from __future__ import annotations

from pages.ui.components import cards
from pages.ui.move import account_page

with cards.show_errors():
    account_page.show()
