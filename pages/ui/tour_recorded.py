"""A recorded tour, for machines without the engine: its curve, and before and after, marked as a recording."""

from __future__ import annotations

import streamlit as st

from core.evaluation.before_after import SideAnswer
from core.finetuning import results
from core.finetuning.results import Results
from core.tours import tour_recording
from pages.ui import views
from pages.ui.cache import shared
from pages.ui.lang import _, language, number
from pages.ui.training import before_after_view, curves


def show() -> None:
    """Draw the recording in the page's language; nothing if there is none."""
    recording = tour_recording.load(language())
    if recording is None:
        return
    st.subheader(_("A recorded tour"), anchor=False)
    st.caption(
        _(
            "Recorded on {day}: {base} was trained on {stories} stories ({tokens} tokens). The whole "
            "tour took {minutes} minutes. This is a recording: nothing is training now."
        ).format(
            day=recording.recorded_on,
            base=recording.base_model,
            stories=number(recording.stories),
            tokens=number(recording.trained_tokens),
            minutes=number(recording.minutes, 1),
        )
    )
    curves.pair(_curve(recording.results_csv), "home_tour_recorded_curve")
    views.prompt(recording.prompt, "home_tour_recorded_prompt")
    left, right = st.columns(2, gap="medium")
    with left:
        answer = SideAnswer("done", recording.before, finish_reason=recording.before_finish)
        before_after_view.answer(_("Before"), recording.base_model, answer)
    with right:
        answer = SideAnswer("done", recording.after, finish_reason=recording.after_finish)
        before_after_view.answer(_("After"), recording.tuned_model, answer)


@shared(max_entries=2)
def _curve(results_csv: str) -> Results:
    return results.parse(results_csv)
