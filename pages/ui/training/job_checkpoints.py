"""The checkpoints of a job: try one, or train it further."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.finetuning.checkpoints import CheckpointView
from core.finetuning.jobs import JobView
from pages.ui import state
from pages.ui.lang import _, code, number, percent
from pages.ui.training import job_actions, job_dialog, job_labels

_KEY = "training_checkpoint"
_CLICKED = "training_checkpoint_clicked"


def show(job: JobView, points: Sequence[CheckpointView], clicked: int | None) -> None:
    """One line: pick a checkpoint (or click its mark in the curve), its figures and its buttons."""
    if not points:
        return
    by_step = {point.step: point for point in points}
    key = f"{_KEY}_{job.id}"
    if clicked in by_step and clicked != state.get(_CLICKED):
        state.set_value(key, clicked)
    state.set_value(_CLICKED, clicked)
    if state.get(key) not in by_step:
        state.set_value(key, points[-1].step)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = by_step[
            int(
                st.selectbox(
                    _("Checkpoint"), list(by_step), format_func=lambda step: _label(by_step[step]), key=key, width=320
                )
            )
        ]
        if st.button(_("Try it"), icon=":material/auto_stories:", key="training_checkpoint_try"):
            job_actions.write_with(job, chosen.model)
        if st.button(
            _("Train it further"), icon=":material/forward:", key="training_checkpoint_further",
            on_click=job_dialog.further, args=(job, chosen.model),
        ):  # fmt: skip
            st.rerun()
        st.caption(code(chosen.model))


def _label(point: CheckpointView) -> str:
    """Step and metrics of a checkpoint."""
    words = [_("step {step}").format(step=number(point.step))]
    if (loss := point.loss()) is not None:
        words.append(job_labels.named(_("loss {loss}").format(loss=number(loss.value, 3)), loss))
    if (accuracy := point.accuracy()) is not None:
        words.append(job_labels.named(_("accuracy {share}").format(share=percent(accuracy.value)), accuracy))
    return " · ".join(words)
