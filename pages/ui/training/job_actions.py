"""Actions for a job: pause, resume, cancel, use its model or a checkpoint, duplicate, export; remedies for failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import streamlit as st

from core import failures
from core.db.tables import utcnow
from core.evaluation import run_export
from core.failures import Remedy
from core.finetuning import job_form, jobs
from core.finetuning.checkpoints import CheckpointView
from core.finetuning.job_views import JobView
from core.ownership import Thing
from core.pricing.prices import ENGINE, tuned_base
from core.providers import ModelInfo
from pages.ui import cache, state, visible
from pages.ui.components import cards, failure_labels, models, sharing, shutdown_notes
from pages.ui.i18n import _, as_markdown, code, mark, number, percent, sentences
from pages.ui.training import cached_training, curves, export_dialog, job_dialog, job_labels

_NEW_MODEL = timedelta(minutes=2)  # the engine's list of models may not include a model that was just created

_ACTIONS: Mapping[jobs.Request, tuple[str, str]] = {
    "pause": (mark("Pause"), ":material/pause:"),
    "resume": (mark("Resume"), ":material/play_arrow:"),
    "cancel": (mark("Cancel"), ":material/close:"),
}

_CHECKPOINT = "training_checkpoint"
_CLICKED = "training_checkpoint_clicked"


def show(job: JobView) -> None:
    """Render the job's buttons in one row."""
    with st.container(horizontal=True):
        _requests(job)
        if job.fine_tuned_model is not None and not model_gone(job):
            if st.button(
                _("Write a story with it"), icon=":material/auto_stories:", type="primary", key="training_try"
            ):
                write_with(job, job.fine_tuned_model)
            if job.method == "dpo" and st.button(
                _("Compare and vote"), icon=":material/how_to_vote:", key="training_compare",
                help=_("Write with this model, the one it started from and its base, with hidden names."),
            ):  # fmt: skip
                _compare(job, job.fine_tuned_model)
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
        files = not model_gone(job) and export_dialog.button(job)
        _export_menu(job)
        sharing.button(Thing("job", job.id), job)
    if further or again or files:
        st.rerun()  # the dialog belongs to the whole page


def write_with(job: JobView, model: str) -> None:
    """Open the story page with this model."""
    state.set_value("story_model", f"{job.provider}/{model}")
    state.set_value("story_part", "write")
    st.switch_page("story.py")


def _compare(job: JobView, model: str) -> None:
    """Open the story page with the new model, the one it started from, and that one's base, blind."""
    names = dict.fromkeys(name for name in (job.base_model, tuned_base(job.base_model)) if name)
    state.set_value("story_compare", True)
    state.set_value("story_blind", True)
    state.set_value("story_others", [f"{job.provider}/{name}" for name in names])
    write_with(job, model)


def _requests(job: JobView) -> None:
    for action, (title, icon) in _ACTIONS.items():
        if jobs.is_allowed(job, action) and (job.status != "failed" or cached_training.summary(job).steps):
            st.button(
                _(title), icon=icon, key=f"training_{action}", on_click=cards.act, args=(jobs.request, job.id, action),
                disabled=job.request is not None,
            )  # fmt: skip


def _export_menu(job: JobView) -> None:
    """Render the export menu: the results file, or everything in a zip; each is created when its button is pressed."""
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
            "Settings, results, events, checkpoints, evaluations, the before-and-after comparison, a model card and "
            "the charts."
        )
        st.caption(contents)


def _zipped(job: JobView) -> Callable[[], bytes]:
    """Creates the zip on request, with the charts in the visitor's language."""
    charts_by_name, store = curves.for_file(cached_training.source(job)), cache.store()

    def make() -> bytes:
        charts = {name: one.whole() for name, one in charts_by_name.items()}
        return run_export.run_zip(store, job.id, charts)

    return make


def model_gone(job: JobView) -> bool:
    """Whether the engine is running but does not have the job's model, or its provider has stopped it; False if
    unknown."""
    if job.fine_tuned_model is None:
        return False
    if job.provider != ENGINE:
        notice = shutdown_notes.notice_of(job.provider, job.fine_tuned_model, job.base_model)
        return notice is not None and notice.kind == "dark"
    new = job.finished_at is None or utcnow() - job.finished_at < _NEW_MODEL
    served = cache.status().engine.models
    return bool(served) and job.fine_tuned_model not in served and not new


def model_state(job: JobView) -> None:
    """Render why the model cannot be called, and what to do; nothing if it can."""
    if job.provider != ENGINE:
        shutdown_notes.show(job.provider, job.fine_tuned_model or job.base_model, job.base_model)
        return
    if job.fine_tuned_model is None:
        return
    engine = cache.status().engine
    if model_gone(job):
        base = tuned_base(job.fine_tuned_model) or job.base_model
        if base in engine.models:
            words = _("The engine no longer has this model. Its curve, answers and settings are kept.")
            next_step = _("**Duplicate job** trains it again.")
        else:
            words = _("The engine no longer has {base}, the base of this model.").format(base=code(base))
            next_step = _("Add it again under Settings → Base models, with this name: the model then works again.")
        st.warning(f"{words}\n\n:material/arrow_forward: {next_step}", icon=":material/search_off:")
    elif engine.state != "up" and engine.message:
        st.caption(f":material/cloud_off: {sentences(as_markdown(engine.message), as_markdown(engine.next_step))}")


def checkpoints(job: JobView, points: Sequence[CheckpointView], clicked: int | None) -> None:
    """Render one line: pick a checkpoint (or click its mark in the curve), its figures and its buttons."""
    if not points:
        return
    by_step = {point.step: point for point in points}
    key = f"{_CHECKPOINT}_{job.id}"
    if clicked in by_step and clicked != state.get(_CLICKED):
        state.set_value(key, clicked)
    state.set_value(_CLICKED, clicked)
    if state.get(key) not in by_step:
        state.set_value(key, points[-1].step)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = by_step[
            int(
                st.selectbox(
                    _("Checkpoint"),
                    list(by_step),
                    format_func=lambda step: _checkpoint_label(by_step[step]),
                    key=key,
                    width=320,
                )
            )
        ]
        if st.button(_("Try it"), icon=":material/auto_stories:", key="training_checkpoint_try"):
            write_with(job, chosen.model)
        if st.button(
            _("Train it further"), icon=":material/forward:", key="training_checkpoint_further",
            on_click=job_dialog.further, args=(job, chosen.model),
        ):  # fmt: skip
            st.rerun()
        st.caption(code(chosen.model))


def _checkpoint_label(point: CheckpointView) -> str:
    """Step and metrics of a checkpoint."""
    words = [_("step {step}").format(step=number(point.step))]
    if (loss := point.loss()) is not None:
        words.append(job_labels.named(_("loss {loss}").format(loss=number(loss.value, 3)), loss))
    if (accuracy := point.accuracy()) is not None:
        words.append(job_labels.named(_("accuracy {share}").format(share=percent(accuracy.value)), accuracy))
    return " · ".join(words)


def remedies(job: JobView) -> None:
    """Render one line for a failed job; nothing for others."""
    if job.status != "failed":
        return
    failure = failures.of_job(job.error)
    pressed = False
    with st.container(horizontal=True, vertical_alignment="center"):
        if failure.cause != "other":
            st.markdown(f"**{_(failure_labels.WORDS[failure.cause])}**", width="content")
        for remedy in failures.JOB_REMEDIES[failure.cause]:
            pressed = _remedy_button(remedy, job) or pressed
    if pressed:
        st.rerun()  # the dialog belongs to the whole page


def _remedy_button(remedy: Remedy, job: JobView) -> bool:
    """Render one remedy; returns True if it was just pressed.

    Most open the form with the job's settings and the fix applied.
    """
    if failure_labels.page_button(remedy, "training_fix") or (offer := _offer(remedy, job)) is None:
        return False
    label, icon, fixed = offer
    return st.button(
        label, icon=icon, key=f"training_fix_{remedy}", on_click=job_dialog.again, args=(job,), kwargs=fixed
    )


def _offer(remedy: Remedy, job: JobView) -> tuple[str, str, dict[str, Any]] | None:
    """Label, icon, and the changed settings of the new job; None if not applicable."""
    match remedy:
        case "smaller_batch" if (batch := job_form.smaller_batch(job)) is not None:
            label = _("Try again with batch size {n}").format(n=batch)
            return label, ":material/memory_alt:", {"batch_size": batch}
        case "lower_rate":
            rate = job_form.lower_rate(job)
            label = _("Try again with learning rate multiplier {rate}").format(rate=number(rate, 2))
            return label, ":material/trending_down:", {"learning_rate_multiplier": rate}
        case "check_file":
            return _("Check the file"), ":material/fact_check:", {}
        case "another_model" if (other := _another_base(job)) is not None:
            label = _("Start from {model}").format(model=models.short_name(other.id))
            return label, ":material/swap_horiz:", {"provider": other.provider, "base_model": other.id}
        case "try_again" | "wait":
            return _("Submit again"), ":material/replay:", {}
    return None


def _another_base(job: JobView) -> ModelInfo | None:
    """Another model to start from, preferably untuned; None if there is no other model."""
    others = [one for one in visible.trainable() if (one.provider, one.id) != (job.provider, job.base_model)]
    return min(others, key=lambda one: one.id.startswith("ft:"), default=None)
