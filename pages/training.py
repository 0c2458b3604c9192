"""Training: your jobs and how they go, a new one, or the curve of any results file."""

from __future__ import annotations

from pages.ui import cards, job_form, job_view, results_file, views
from pages.ui.lang import _

part = views.switch(
    "training_part", _("Part"), {"jobs": _("Your jobs"), "new": _("New job"), "read": _("Read a results file")}
)
with cards.errors_shown():
    if part == "jobs":
        job_view.show()
    elif part == "new":
        job_form.show()
    else:
        results_file.show()
