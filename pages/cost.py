"""Cost: a price comparison, when tuning breaks even, and what was spent."""

from __future__ import annotations

from pages.ui.components import cards, views
from pages.ui.cost import price_list, spending, workload
from pages.ui.i18n import _

part = views.switch("cost_part", _("Part"), {"prices": _("Prices"), "workload": _("My workload"), "spent": _("Spent")})
with cards.show_errors():
    if part == "prices":
        price_list.show()
    elif part == "workload":
        workload.show()
    else:
        spending.show()
