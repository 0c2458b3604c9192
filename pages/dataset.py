"""Data set: set a grid and generate it, or bring rows that exist; watch them come, judge them, take them on."""

from __future__ import annotations

from pages.ui import cards, views
from pages.ui.dataset import address, bring, design, quality, rows, use
from pages.ui.lang import _

address.follow()
part = views.switch(
    "dataset_part",
    _("Part"),
    {
        "design": _("Design"),
        "bring": _("Bring your own"),
        "rows": _("Run"),
        "quality": _("Quality"),
        "use": _("Use"),
    },
)
with cards.errors_shown():
    if part == "design":
        design.show()
    elif part == "bring":
        bring.show()
    elif part == "rows":
        rows.show()
    elif part == "quality":
        quality.show()
    else:
        use.show()
address.keep(part)
