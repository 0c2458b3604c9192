"""Remedies for failed rows and runs that ended early: one line per cause, with the buttons that help.

Existing rows stay. Rewritten rows use the ledger and its budgets like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import streamlit as st

from core import failures
from core.datasets import datasets
from core.datasets.datasets import DatasetSummary
from core.datasets.recipe import Recipe
from core.failures import Cause, Remedy
from core.generation import run_progress, runs
from core.generation.batch import batch_account
from core.generation.run_progress import FailedRows, RunProgress
from core.generation.runs import Change
from core.providers import ModelInfo, client
from pages.ui import cache, state, visible
from pages.ui.components import cards, failure_labels, models, views
from pages.ui.dataset import recipe_form
from pages.ui.dataset.run_settings import estimate
from pages.ui.i18n import _, n_, number, plain, sentences, usd
from pages.ui.sign_in import current_actor

_BELOW: tuple[Remedy, ...] = ("try_again", "wait", "raise_budget")
"""Offered for the whole run by the row of buttons below it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The target of one line's buttons. `cause` is None for rows that no run has written yet."""

    dataset_id: str
    recipe: Recipe
    rows: int
    cause: Cause | None

    @property
    def key(self) -> str:
        return f"dataset_fix_{self.cause or 'run'}"


def failed(summary: DatasetSummary, progress: RunProgress, *, idle: bool) -> None:
    """Render failed rows by cause, the most frequent first; without buttons during a run."""
    recipe = datasets.recipe(cache.store(), summary.id) if progress.failed_by_cause and idle else None
    for group in progress.failed_by_cause:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(_line(group), width="content")
            if recipe is not None:
                place = _Place(summary.id, recipe, group.rows, group.cause)
                for remedy in failures.REMEDIES[group.cause]:
                    _button(remedy, place)
        for message in group.provider_messages:
            st.caption(plain(failure_labels.quoted(message)))
        for reason in group.unknown_reasons:
            st.caption(plain(failure_labels.stored(reason)))


def ended(summary: DatasetSummary, progress: RunProgress) -> None:
    """Render why a run ended early, and remedies other than resuming it."""
    if not progress.reason:
        return
    failure = failures.of_run(progress.reason)
    show = st.error if progress.state == "failed" else st.info
    kept = n_("The {n} finished row is kept.", "The {n} finished rows are kept.", summary.done) if summary.done else ""
    show(sentences(plain(failure_labels.sentence(progress.reason, failure.cause)), kept), icon=":material/error:")
    if failure.cause == "provider_changed":
        _give_up(summary.id, progress.run_id)
    if not summary.pending or (recipe := datasets.recipe(cache.store(), summary.id)) is None:
        return
    place = _Place(summary.id, recipe, summary.pending, None)
    with st.container(horizontal=True, vertical_alignment="center"):
        if failure.cause == "unknown_price" and progress.budget_usd is not None:
            st.button(
                _("Resume without a budget"), icon=":material/play_arrow:", key=f"{place.key}_free", on_click=_resume,
                args=(progress.run_id,),
            )  # fmt: skip
        for remedy in failures.REMEDIES[failure.cause]:
            if remedy not in _BELOW:
                _button(remedy, place)


def _give_up(dataset_id: str, run_id: str) -> None:
    """The button that gives up batches at an earlier account of a provider."""
    if rows := batch_account.stranded_rows(cache.store(), dataset_id):
        st.button(
            n_("Give up the batch and write {n} row again", "Give up the batch and write {n} rows again", rows),
            icon=":material/undo:", key="dataset_fix_give_up", on_click=_write_again, args=(run_id,),
            help=_("The rows are paid for again. What the batch cost there is unknown, and counts at its maximum."),
        )  # fmt: skip


def waiting(progress: RunProgress) -> None:
    """Render why a run is waiting, and when it resumes; a countdown if the surrounding panel is re-rendered every
    second.
    """
    reason = progress.reason or ""
    st.info(plain(failure_labels.sentence(reason, failures.of_run(reason).cause)), icon=":material/hourglass_top:")
    if progress.not_before is not None:
        st.caption(views.resumption(progress.not_before))


def _line(group: FailedRows) -> str:
    count = n_("{n} row failed", "{n} rows failed", group.rows)
    return f":red[:material/error:] **{count}** · {_(failure_labels.WORDS[group.cause])}"


def _button(remedy: Remedy, place: _Place) -> None:
    """Render one remedy; nothing if it does not apply."""
    if failure_labels.page_button(remedy, place.key):
        return
    if remedy == "another_model":
        _another_model(place)
    elif remedy == "open_recipe":
        if not place.recipe.listed and st.button(
            _("Open the recipe"), icon=":material/edit:", key=f"{place.key}_recipe", on_click=_open_recipe,
            args=(place.recipe,),
        ):  # fmt: skip
            st.rerun()  # the form is on another tab
    else:
        label, change = _OFFERS[remedy](place.recipe)
        st.button(label, icon=":material/replay:", key=f"{place.key}_{remedy}", on_click=_write, args=(place, change))


def _raise_limit(recipe: Recipe) -> tuple[str, Change]:
    limit = runs.higher_limit(recipe.max_tokens)
    label = _("Raise the limit to {limit} tokens and retry").format(limit=number(limit))
    return label, Change(max_tokens=limit)


def _lower_temperature(recipe: Recipe) -> tuple[str, Change]:
    lower = runs.lower_temperature(recipe.temperature)
    if lower is None:
        return _retry(recipe)
    label = _("Lower the temperature to {value} and retry").format(value=number(lower, 2))
    return label, Change(temperature=lower)


def _retry(recipe: Recipe) -> tuple[str, Change]:
    return _("Retry"), Change()


_OFFERS: dict[Remedy, Callable[[Recipe], tuple[str, Change]]] = {
    "raise_limit": _raise_limit,
    "lower_temperature": _lower_temperature,
    "try_again": _retry,
    "wait": _retry,
}


def _another_model(place: _Place) -> None:
    """Render the models that could write these rows, and the expected cost."""
    key, writer = f"{place.key}_writer", (place.recipe.provider, place.recipe.model)
    popover = st.popover(_("Another model"), icon=":material/swap_horiz:", key=key, on_change="rerun")
    if not popover.open:  # rendered only while it is open, because the surrounding panel is re-rendered repeatedly
        return
    others = [one for one in visible.models().found if (one.provider, one.id) != writer]
    with popover:
        if not others:
            st.caption(_("There is no other model here. Set a key for another provider in the settings."))
            failure_labels.page_button("open_settings", f"{key}_none")
            return
        chosen = models.picker(_("Written by"), f"{key}_model", among=others)
        if chosen is None:
            return
        st.caption(_cost(place, chosen))
        st.button(
            n_("Write {n} row with it", "Write {n} rows with it", place.rows),
            type="primary", icon=":material/replay:", key=f"{key}_go", on_click=_write_with, args=(place, chosen, key),
        )  # fmt: skip


def _cost(place: _Place, chosen: ModelInfo) -> str:
    guess = estimate(replace(place.recipe, provider=chosen.provider, model=chosen.id))
    if guess.local:
        return _("Written on this machine.")
    cost = None if guess.usd is None else guess.usd * place.rows / place.recipe.rows()
    return _("price unknown") if cost is None else _("about {cost}").format(cost=usd(cost))


def _open_recipe(recipe: Recipe) -> None:
    recipe_form.open_recipe(recipe)
    state.set_value("dataset_part", "design")


def _write_with(place: _Place, chosen: ModelInfo, popover: str) -> None:
    state.set_value(popover, False)
    _write(place, Change(provider=chosen.provider, model=chosen.id))


def _write(place: _Place, change: Change) -> None:
    """Write the rows of the line with other settings, within the rest of the last run's budget."""
    with cards.keep_errors():
        store = cache.store()
        mode, budget = runs.last_settings(store, place.dataset_id)
        if change.provider is not None and not client.supports_batch(cache.registry().provider(change.provider)):
            mode = "live"
        if place.cause is None:
            runs.enqueue(
                store,
                current_actor(),
                place.dataset_id,
                budget_usd=budget,
                retry_failed=False,
                mode=mode,
                change=change,
            )
        else:
            ids = run_progress.failed_row_ids(store, place.dataset_id, place.cause)
            runs.retry_failed(
                store, current_actor(), place.dataset_id, ids, budget_usd=budget, mode=mode, change=change
            )


def _write_again(run_id: str) -> None:
    with cards.keep_errors():
        batch_account.give_up(cache.store(), current_actor(), run_id)
        runs.resume(cache.store(), current_actor(), run_id)


def _resume(run_id: str) -> None:
    with cards.keep_errors():
        runs.raise_budget(cache.store(), current_actor(), run_id, None)
        runs.resume(cache.store(), current_actor(), run_id)
