"""What to do next with one archived model: train on its data set, then compare both models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import streamlit as st

from core.datasets import conversation_rows, datasets, versions
from core.finetuning import job_views
from core.finetuning.job_views import JobView
from core.migrate.tunes import Tune
from pages.ui import cache, live_updates, state, visible
from pages.ui.components import models, views
from pages.ui.dataset import dataset_picker
from pages.ui.i18n import _, localized, n_, plain
from pages.ui.move import candidates, distil, switch_card
from pages.ui.move.tune_table import STATE_NAMES
from pages.ui.training import job_labels, job_list, parity_view, prompt_trial

_MODEL = "move_next_model"
_ORDER = ("data", "retrained", "compared", "archived", "switched")


def show(archive_id: str, listed: Sequence[Tune], provider: str, today: date) -> None:
    """Render the choice of a model and the buttons for it; nothing until one is archived.

    Args:
        provider: id of the account in the registry; "" if its key was entered and is not stored.
    """
    ready = [one for one in listed if one.state in _ORDER]
    if not ready:
        return
    ready.sort(key=lambda one: (_ORDER.index(one.state), one.days_left(today) or 0))
    by_id = {one.id: one for one in ready}
    if state.get(_MODEL) not in by_id:
        state.set_value(_MODEL, ready[0].id)
    _watch_trainings(listed)
    with st.container(border=True, key="move_next"):
        chosen = st.selectbox(
            _("Next step for"), list(by_id), format_func=lambda one: _title(by_id[one]), key=_MODEL, width=480,
            persist_state="session",
        )  # fmt: skip
        tune = by_id[str(chosen)]
        left = tune.days_left(today)
        views.facts((_(STATE_NAMES[tune.state]), "" if left is None else n_("{n} day left", "{n} days left", left)))
        _buttons(archive_id, tune, provider)
    candidates.show(archive_id, tune)
    switch_card.show(tune, provider)


def _title(tune: Tune) -> str:
    """The model's name. Without its state: the browser keeps the label of a chosen option when it changes."""
    return models.short_name(tune.model or tune.id)


def _watch_trainings(listed: Sequence[Tune]) -> None:
    """Render the trainings on the data sets of the account that are going on; rerun the page when one ends."""
    datasets = {one.dataset_id for one in listed if one.dataset_id is not None}
    going = tuple(one.id for one in visible.job_list() if one.dataset_id in datasets and not one.finished)
    if going:
        st.fragment(_trainings)(going)


def _trainings(ids: tuple[str, ...]) -> None:
    going = live_updates.follow(job_list.unfinished, ids)
    for name, status in going:
        st.caption(f":material/exercise: {plain(name)} · {job_labels.status_word(status)}")
    if len(going) < len(ids):
        st.rerun()


def _buttons(archive_id: str, tune: Tune, provider: str) -> None:
    if tune.dataset_id is None:
        st.caption(localized(tune.reason or _("Its files are archived. There is no data set to train on.")))
        distil.button(archive_id, tune, provider)
        return
    jobs = _jobs_here(tune)
    trained = next((one for one in jobs if one.fine_tuned_model is not None), None)
    going = next((one for one in jobs if not one.finished), None)
    conversations = conversation_rows.holds(datasets.summary(cache.store(), tune.dataset_id).columns)
    with st.container(horizontal=True):
        if going is not None and st.button(
            _("Follow the training"), icon=":material/show_chart:", type="primary", key="move_follow"
        ):
            job_list.open_from_elsewhere(going.id)
            st.switch_page("training.py")
        if trained is not None and st.button(
            _("Compare with the old model"), icon=":material/balance:", key="move_compare",
            type="primary" if going is None and tune.state == "retrained" else "secondary",
        ):  # fmt: skip
            _open_evaluation(trained, provider, tune.model)
        if st.button(
            _("Train on this data") if trained is None else _("Train again"), icon=":material/exercise:",
            type="secondary" if jobs or candidates.is_shown(tune) else "primary", key="move_retrain",
        ):  # fmt: skip
            _open_new_job(tune, tune.dataset_id)
        candidates.button(tune)
        if (
            trained is None
            and not conversations
            and st.button(_("Try prompts first"), icon=":material/science:", key="move_prompts")
        ):
            prompt_trial.open_for(tune.dataset_id, _version_of(tune), f"{provider}/{tune.model}")
            st.switch_page("training.py")
        with st.popover(_("More"), icon=":material/more_horiz:"):
            _more(archive_id, tune, tune.dataset_id, provider)
    if conversations:
        st.caption(
            _(
                "Its rows are conversations. A new job trains on them as they are in the file: every message, every "
                "weight and the tools. To compare models, both are asked for the last answer of each conversation; "
                "calls of tools are compared by name and arguments."
            )
        )
    if trained is not None and not provider:
        st.caption(
            _(
                "Fabula has no key for the old model. To compare it, connect the account again with “Save the key” "
                "switched on."
            )
        )


def _more(archive_id: str, tune: Tune, dataset_id: str, provider: str) -> None:
    """Render what is needed less often."""
    if st.button(_("View the data set"), icon=":material/grid_view:", key="move_dataset", width="stretch"):
        dataset_picker.open_part(dataset_id)
        st.switch_page("dataset.py")
    if tune.job_id is not None and st.button(
        _("Open the job"), icon=":material/show_chart:", key="move_job", width="stretch"
    ):
        job_list.open_from_elsewhere(tune.job_id)
        st.switch_page("training.py")
    distil.button(archive_id, tune, provider)


def _jobs_here(tune: Tune) -> list[JobView]:
    """The jobs here that have trained a model on its data set, or are doing so, the newest first."""
    found = [
        one
        for one in visible.job_list()
        if one.dataset_id == tune.dataset_id
        and one.id != tune.job_id
        and one.fine_tuned_model != tune.model
        and (one.fine_tuned_model is not None or not one.finished)
    ]
    return sorted(found, key=lambda one: one.created_at, reverse=True)


def _open_new_job(tune: Tune, dataset_id: str) -> None:
    state.set_value("training_dataset", dataset_id)
    state.set_value(f"training_version_{dataset_id}", _old_split(tune) or "")
    state.set_value("training_part", "new")
    st.switch_page("training.py")


def _version_of(tune: Tune) -> str | None:
    """The version of its data set on which it was trained."""
    return None if tune.job_id is None else job_views.get(cache.store(), tune.job_id).version_id


def _old_split(tune: Tune) -> str | None:
    """The version with the old job's validation rows; None if it had none, so that the new job keeps some to compare
    both models.
    """
    version_id = _version_of(tune)
    if version_id is None or not versions.get(cache.store(), version_id).n_validation:
        return None
    return version_id


def _open_evaluation(job: JobView, provider: str, old_model: str | None) -> None:
    job_list.open_from_elsewhere(job.id)
    state.set_value("training_tab", "evaluation")
    parity_view.open_for(job, f"{provider}/{old_model}" if provider and old_model else None)
    st.switch_page("training.py")
