"""Whether a job's model can be called now: the engine may be down, or no longer have the model or its base."""

from __future__ import annotations

from datetime import timedelta

import streamlit as st

from core.db.tables import utcnow
from core.finetuning.jobs import JobView
from core.pricing.prices import ENGINE, tuned_base
from pages.ui import cached
from pages.ui.lang import _, as_markdown, code

_NEW = timedelta(minutes=2)  # the engine's list of models may not include a model that was just created


def gone(job: JobView) -> bool:
    """Whether the engine is running but does not have the job's model; False if unknown."""
    if job.provider != ENGINE or job.fine_tuned_model is None:
        return False
    new = job.finished_at is None or utcnow() - job.finished_at < _NEW
    served = cached.status().engine.models
    return bool(served) and job.fine_tuned_model not in served and not new


def show(job: JobView) -> None:
    """Why the model cannot be called, and what to do; nothing if it can."""
    if job.provider != ENGINE or job.fine_tuned_model is None:
        return
    engine = cached.status().engine
    if gone(job):
        base = tuned_base(job.fine_tuned_model) or job.base_model
        if base in engine.models:
            words = _("The engine no longer has this model. Its curve, answers and settings are kept.")
            next_step = _("**Duplicate job** trains it again.")
        else:
            words = _("The engine no longer has {base}, the base of this model.").format(base=code(base))
            next_step = _("Add it to `FABULA_ENGINE_MODELS` under this name and restart Fabula: the model works again.")
        st.warning(f"{words}\n\n:material/arrow_forward: {next_step}", icon=":material/search_off:")
    elif engine.state != "up" and engine.message:
        st.caption(f":material/cloud_off: {as_markdown(engine.message)} {as_markdown(engine.next_step)}")
