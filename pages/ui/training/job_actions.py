"""Actions of a job: pause, resume, cancel, use its model, train it further, duplicate, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

import streamlit as st

from core.actor import LOCAL
from core.db.tables import utcnow
from core.evaluation import run_export
from core.finetuning import jobs
from core.finetuning.jobs import JobView
from core.pricing.prices import ENGINE, tuned_base
from pages.ui import cached, cards, state
from pages.ui.lang import _, as_markdown, code, mark
from pages.ui.training import cached_curves, cached_training, curves, job_dialog

_NEW_MODEL = timedelta(minutes=2)  # the engine's list of models may not include a model that was just created

_ACTIONS: Mapping[jobs.Request, tuple[str, str]] = {
    "pause": (mark("Pause"), ":material/pause:"),
    "resume": (mark("Resume"), ":material/play_arrow:"),
    "cancel": (mark("Cancel"), ":material/close:"),
}


def show(job: JobView) -> None:
    """One row of buttons."""
    with st.container(horizontal=True):
        _requests(job)
        if job.fine_tuned_model is not None and not model_gone(job):
            if st.button(
                _("Write a story with it"), icon=":material/auto_stories:", type="primary", key="training_try"
            ):
                write_with(job, job.fine_tuned_model)
            further = st.button(
                _("Train it further"), icon=":material/forward:", key="training_further",
                on_click=job_dialog.further, args=(job, job.fine_tuned_model),
            )  # fmt: skip
        else:
            further = False
        again = st.button(
            _("Duplicate job"), icon=":material/replay:", key="training_again", on_click=job_dialog.again, args=(job,),
            help=_("Start a new job with the settings of this one."),
        )  # fmt: skip
        _export_menu(job)
    if further or again:
        st.rerun()  # the dialog belongs to the whole page


def write_with(job: JobView, model: str) -> None:
    """Open the story page with this model."""
    state.set_value("story_model", f"{job.provider}/{model}")
    state.set_value("story_part", "write")
    st.switch_page("story.py")


def _requests(job: JobView) -> None:
    for action, (title, icon) in _ACTIONS.items():
        if jobs.is_allowed(job, action) and (job.status != "failed" or cached_training.summary(job).steps):
            st.button(
                _(title), icon=icon, key=f"training_{action}", on_click=_request, args=(job.id, action),
                disabled=job.request is not None,
            )  # fmt: skip


def _request(job_id: str, action: jobs.Request) -> None:
    with cards.keep_errors():
        jobs.request(cached.store(), LOCAL, job_id, action)


def _export_menu(job: JobView) -> None:
    """The export menu: the results file, or everything in a zip; each is created when its button is pressed."""
    with st.popover(_("Export"), icon=":material/download:"):
        st.download_button(
            _("Results CSV"), data=partial(cached_training.results_text, job.id), file_name=f"{job.name}.csv",
            mime="text/csv", key="training_results_csv", icon=":material/table:", on_click="ignore", width="stretch",
        )  # fmt: skip
        st.download_button(
            _("Everything (zip)"), data=_zipped(job), file_name=f"{job.name}.zip",
            mime="application/zip", key="training_zip", icon=":material/folder_zip:", on_click="ignore",
            width="stretch",
        )  # fmt: skip
        contents = _(
            "Settings, results, events, checkpoints, evaluations, before and after, a model card and the charts."
        )
        st.caption(contents)


def _zipped(job: JobView) -> Callable[[], bytes]:
    """Creates the zip on request, with the charts in the visitor's language."""
    charts_by_name, store = curves.for_file(cached_curves.source(job)), cached.store()

    def make() -> bytes:
        charts = {name: one.whole() for name, one in charts_by_name.items()}
        return run_export.run_zip(store, job.id, charts)

    return make


def model_gone(job: JobView) -> bool:
    """Whether the engine is running but does not have the job's model; False if unknown."""
    if job.provider != ENGINE or job.fine_tuned_model is None:
        return False
    new = job.finished_at is None or utcnow() - job.finished_at < _NEW_MODEL
    served = cached.status().engine.models
    return bool(served) and job.fine_tuned_model not in served and not new


def model_state(job: JobView) -> None:
    """Why the model cannot be called, and what to do; nothing if it can."""
    if job.provider != ENGINE or job.fine_tuned_model is None:
        return
    engine = cached.status().engine
    if model_gone(job):
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
