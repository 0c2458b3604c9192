"""Tune or prompt: tries a base model with examples in its prompt before anyone pays for training."""

from __future__ import annotations

import streamlit as st

from core import packaged_models
from core.datasets import datasets, versions
from core.datasets.datasets import DatasetSummary
from core.datasets.versions import Version
from core.evaluation import evaluations, holdout, prompt_trials
from core.evaluation.prompt_trials import PlannedVariant, PromptTrial, StartedTrial, TrialPlan
from core.finetuning.job_form import context_size
from core.parity import prompt_report
from core.pricing.prices import ENGINE
from core.providers import ModelInfo
from pages.ui import cache, state, visible
from pages.ui.cache import shared
from pages.ui.components import cards, fields, models
from pages.ui.components.money import local_price
from pages.ui.dataset import dataset_picker
from pages.ui.i18n import _, as_markdown, n_, number, percent, usd_estimate
from pages.ui.sign_in import current_actor
from pages.ui.training import evaluation_results, job_form, prompt_examples, prompt_result

PART = "prompts"
"""The value of `training_part` for this section."""

_KEY = "training_prompts"
_ADDRESS = "prompts"  # in the URL: the data set and its version
_LIMITS = (20, 50, 100, 200, 500, 1000)
_USUAL_LIMIT = 200
_KEPT_SHARE = 0.2
_LONGEST_INSTRUCTION = 8_000  # characters


def open_for(dataset_id: str, version_id: str | None, tuned: str | None = None) -> None:
    """For buttons: open this section with a data set, and with a tuned model (`provider/id`) to compare."""
    state.set_value("training_part", PART)
    state.set_value(job_form.DATASET, dataset_id)
    state.set_value(f"training_version_{dataset_id}", version_id or "")
    if tuned is not None:
        state.set_value(prompt_result.TUNED, tuned)


def follow_address() -> None:
    """Open the section that is named in the URL, unless the visitor has chosen one."""
    named = st.query_params.get(_ADDRESS)
    if named and state.get("training_part") is None:
        dataset_id, _dot, version_id = named.partition(".")
        open_for(dataset_id, version_id)


def forget_address() -> None:
    """Remove the section from the URL."""
    state.keep_in_address(_ADDRESS, None)


def show() -> None:
    """Render the whole section."""
    st.markdown(
        _(
            "Before you pay for training, see how well a base model does the task with an instruction and with 0, 3 "
            "and 8 examples in its prompt."
        )
    )
    ready = [one for one in visible.dataset_list() if one.done]
    left, right = st.columns(2, gap="medium")
    with left:
        chosen = job_form.pick_rows(ready)
        version = dataset_picker.pick_version("training", chosen) if chosen is not None else None
    with right:
        base = models.picker(_("Base model"), f"{_KEY}_base", prefer=packaged_models.BASE)
        if base is None:
            models.none_yet()
    if chosen is None:
        return
    version_id = version.id if version is not None else None
    state.keep_in_address(_ADDRESS, f"{chosen.id}.{version_id}" if version_id else chosen.id)
    rows = holdout.held_out(cache.store(), chosen.id, version_id).usable
    if not rows:
        _keep_rows(chosen)
        return
    if base is not None:
        with cards.show_errors():
            _form(chosen, version, base, rows)
    _results(chosen.id, version_id)


def _keep_rows(chosen: DatasetSummary) -> None:
    """Offer a version that keeps rows, if none are kept from training."""
    st.info(
        _("All rows are used for training, so there is nothing to compare on. Keep some of them."),
        icon=":material/info:",
    )
    st.button(
        _("Keep {share} of the rows").format(share=percent(_KEPT_SHARE, 0)), icon=":material/call_split:",
        key=f"{_KEY}_keep", on_click=_save_version, args=(chosen.id,),
    )  # fmt: skip


def _save_version(dataset_id: str) -> None:
    with cards.keep_errors():
        version_id = versions.freeze(cache.store(), current_actor(), dataset_id, validation_share=_KEPT_SHARE)
        state.set_value(f"training_version_{dataset_id}", version_id)


def _form(chosen: DatasetSummary, version: Version | None, base: ModelInfo, rows: int) -> None:
    """Render what would be sent and its cost, and the start button."""
    version_id = version.id if version is not None else None
    with st.container(border=True):
        choices = sorted({limit for limit in _LIMITS if limit < rows} | {min(rows, _LIMITS[-1])})
        limit = choices[0]
        if len(choices) > 1:
            usual = min(choices, key=lambda n: abs(n - _USUAL_LIMIT))
            limit = int(st.select_slider(_("Rows to compare on"), choices, usual, key=f"{_KEY}_limit", width=320))
        with st.expander(_("Instruction for the base model"), icon=":material/edit_note:", key=f"{_KEY}_more"):
            instruction = _instruction(chosen, version_id)
        trial = PromptTrial(
            chosen.id, base.provider, base.id, version_id=version_id, instruction=instruction, limit=limit,
            continues_text=models.known_purpose(base).kind in ("base", "stories") and base.format != "chat",
        )  # fmt: skip
        context = base.context or context_size(base.id)
        planned = _plan(trial, context)
        st.table(_plan_table(planned), border="horizontal", alt=_("Requests and their cost"))
        for note in planned.notes:
            st.markdown(f":orange[:material/warning:] {as_markdown(note)}")
        prompt_examples.show(planned.examples, f"{_KEY}_planned")
        st.button(
            n_("Try on {n} row", "Try on {n} rows", planned.rows), type="primary", icon=":material/science:",
            key=f"{_KEY}_start", on_click=_start, args=(trial, context),
            disabled=len(instruction) > _LONGEST_INSTRUCTION,
        )  # fmt: skip


def _instruction(chosen: DatasetSummary, version_id: str | None) -> str:
    """The field for the system prompt; each data set has its own."""
    key = f"{_KEY}_instruction_{chosen.id}"
    state.set_default(key, prompt_trials.default_instruction(cache.store(), chosen.id, version_id))
    typed = st.text_area(
        _("System prompt"), key=key, height=120, persist_state="session",
        label_visibility="collapsed",
    )  # fmt: skip
    fields.fits(str(typed), _LONGEST_INSTRUCTION)
    return str(typed).strip()


def _planned_key(trial: PromptTrial, context: int | None) -> tuple[object, ...]:
    rows = datasets.fingerprint(cache.store(), trial.dataset_id, trial.version_id)
    return trial, context, rows, cache.prices().today


@shared(max_entries=32, ttl=60.0, key=_planned_key)
def _plan(trial: PromptTrial, context: int | None) -> TrialPlan:
    """What a trial would send; read again when the rows change."""
    return prompt_trials.plan(cache.store(), cache.prices(), trial, context)


def _plan_table(planned: TrialPlan) -> dict[str, list[str]]:
    return {
        _("Prompt"): [prompt_result.prompt_name(one.form.shots) for one in planned.variants],
        _("Input tokens per call"): [
            number(one.estimate.prompt_tokens / max(1, one.estimate.requests)) for one in planned.variants
        ],
        _("Cost"): [_cost(one) for one in planned.variants],
    }


def _cost(one: PlannedVariant) -> str:
    if one.form.provider == ENGINE:
        return local_price()
    found = one.estimate
    if found.expected_usd is None or found.worst_usd is None:
        return _("price unknown")
    return usd_estimate(found.expected_usd, found.worst_usd)


def _start(trial: PromptTrial, context: int | None) -> None:
    with cards.keep_errors():
        prompt_trials.start(cache.store(), current_actor(), cache.prices(), trial, context)
        state.drop(f"{_KEY}_shown")


# --- results ----------------------------------------------------------------------------------------------------------


def _results(dataset_id: str, version_id: str | None) -> None:
    """Render the trials on these rows; live while one runs."""
    running = _active(dataset_id, version_id)
    st.fragment(run_every=cache.POLL_S if running else None)(_live)(dataset_id, version_id, running)


def _active(dataset_id: str, version_id: str | None) -> bool:
    found = prompt_trials.list_trials(cache.store(), dataset_id, version_id)
    return any(one.active for one in found) or any(
        one.active
        for one in evaluations.list_evaluations(cache.store(), dataset_id=dataset_id)
        if one.version_id == version_id
    )


def _live(dataset_id: str, version_id: str | None, was_running: bool) -> None:
    with cards.show_errors():
        if was_running != _active(dataset_id, version_id):
            st.rerun()
        trials = prompt_trials.list_trials(cache.store(), dataset_id, version_id)
        if not trials:
            return
        trial = _shown(trials)
        for one in trial.evaluations:
            evaluation_results.progress(one, prompt_result.prompt_name(one.shots))
        prompt_result.show(trial, *_tuned(trial))


def _shown(trials: tuple[StartedTrial, ...]) -> StartedTrial:
    """The trial whose result is shown: the newest, unless the visitor chooses another one."""
    if len(trials) == 1:
        return trials[0]
    by_id = {trial.evaluations[0].id: trial for trial in trials}
    key = f"{_KEY}_shown"
    if state.get(key) not in by_id:
        state.set_value(key, next(iter(by_id)))
    shown = st.selectbox(
        _("Trial"), list(by_id), format_func=lambda one: prompt_result.trial_name(by_id[one]), key=key, width=480
    )
    return by_id[str(shown)]


def _tuned(trial: StartedTrial) -> tuple[list[ModelInfo], evaluations.EvaluationView | None]:
    """The tuned models to compare with, first those trained on these rows, and the evaluation of the chosen one on the
    rows of the trial.
    """
    jobs = {
        (job.provider, job.fine_tuned_model)
        for job in visible.job_list()
        if (job.dataset_id, job.version_id) == (trial.dataset_id, trial.version_id) and job.fine_tuned_model
    }
    found = [one for one in visible.models().found if one.is_tuned]
    found.sort(key=lambda one: (one.provider, one.id) not in jobs)
    if found and (found[0].provider, found[0].id) in jobs:
        state.set_default(prompt_result.TUNED, f"{found[0].provider}/{found[0].id}")
    chosen = state.get(prompt_result.TUNED)
    info = next((one for one in found if f"{one.provider}/{one.id}" == chosen), None)
    if info is None:
        return found, None
    form = prompt_report.form_of(cache.store(), trial, info.provider, info.id)
    asked = evaluations.list_evaluations(cache.store(), dataset_id=trial.dataset_id)
    alike = (
        one
        for one in asked
        if (one.provider, one.model, one.version_id) == (info.provider, info.id, trial.version_id)
        and (one.settings["limit"], one.settings["seed"]) == (form.limit, form.seed)
        and one.settings["file_format"] == form.file_format
    )
    return found, next(alike, None)
