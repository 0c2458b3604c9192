"""Data set: define a grid and generate it, or import rows; follow the run, check quality, export or train."""

from __future__ import annotations

from pages.ui.components import budget_notes, cards, views
from pages.ui.dataset import dataset_picker, design_tab, importing, quality_tab, run_tab, use_tab
from pages.ui.i18n import _

dataset_picker.follow_address()
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
with cards.show_errors():
    if part in ("design", "rows"):
        budget_notes.show()
    if part == "design":
        design_tab.show()
    elif part == "bring":
        importing.show()
    elif part == "rows":
        run_tab.show()
    elif part == "quality":
        quality_tab.show()
    else:
        use_tab.show()
dataset_picker.keep_in_address(part)
