"""Data set: set a grid and generate it, or bring rows that exist; watch them come, take them on."""

from __future__ import annotations

from pages.ui import bring, cards, design, rows, views
from pages.ui.lang import _

part = views.switch(
    "dataset_part",
    _("Part"),
    {"design": _("Design a grid"), "bring": _("Bring your own"), "rows": _("Your data sets")},
)
with cards.errors_shown():
    if part == "design":
        design.show()
    elif part == "bring":
        bring.show()
    else:
        rows.show()
