"""Training: your jobs, a comparison of several jobs, the dialog for a new job, prompts instead of training, models to
train on, and the curve of any results file.

A link to vote on two models' answers opens the vote instead.
"""

from __future__ import annotations

import streamlit as st

from pages.ui import state, visible
from pages.ui.components import budget_notes, cards, views
from pages.ui.i18n import _
from pages.ui.sign_in import is_team
from pages.ui.training import (
    candidate_page,
    export_dialog,
    job_dialog,
    job_view,
    parity_vote,
    prompt_trial,
    results_file,
)


def _parts() -> None:
    job_dialog.asked_for()
    prompt_trial.follow_address()
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        part = views.switch(
            "training_part",
            _("Part"),
            {
                "jobs": _("Jobs") if is_team() else _("Your jobs"),
                prompt_trial.PART: _("Tune or prompt?"),
                "read": _("Results file"),
                # opened from the dialog of a new job; only three parts fit on a phone
                **({candidate_page.PART: _("Candidates")} if state.get("training_part") == candidate_page.PART else {}),
            },
        )
        with cards.show_errors():
            if part == "jobs" and visible.job_list():
                job_dialog.button(primary=False)
    if part != prompt_trial.PART:
        prompt_trial.forget_address()
    with cards.show_errors():
        if part == "jobs":
            budget_notes.show()
            job_view.show()
        elif part == prompt_trial.PART:
            budget_notes.show()
            prompt_trial.show()
        elif part == candidate_page.PART:
            budget_notes.show()
            candidate_page.show()
        else:
            results_file.show()
        job_dialog.show()
        export_dialog.show()


if parity_vote.opened():
    parity_vote.show()
else:
    _parts()
