"""The confirmation of several trainings: what each costs, whether each may start, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from core.errors import FabulaError
from core.finetuning import candidate_jobs, candidates
from core.finetuning.candidate_jobs import Started
from core.finetuning.candidates import TrainingCandidate, TrainingData
from core.finetuning.job_form import JobForm
from core.message import msg
from core.pricing import budget
from pages.ui import background, cache, state
from pages.ui.components import cards
from pages.ui.components.money import local_amount
from pages.ui.i18n import _, as_markdown, code, duration, n_, usd
from pages.ui.sign_in import current_actor
from pages.ui.training import cached_training, job_list

REQUEST = "candidates_request"
"""Id of the request that is being confirmed; "" or missing if none is."""
_RESULT = "candidates_result"


@dataclass(frozen=True, slots=True)
class _Checked:
    """A candidate with the form of its job; `problem`: why it can't start; None if it can."""

    candidate: TrainingCandidate
    form: JobForm
    problem: FabulaError | None


def price(one: TrainingCandidate) -> str:
    """The price of a candidate's training as Markdown; "unknown" if it is."""
    if not one.offer.engine:
        return usd(one.price_usd)
    return _("no bill") if one.machine_usd is None else local_amount(one.seconds)


def show(data: TrainingData, chosen: Sequence[TrainingCandidate]) -> None:
    """Render the dialog if it is open, and the result of the last request."""
    if state.get(REQUEST) and chosen:
        title = n_("Train {n} model", "Train {n} models", len(chosen))
        st.dialog(title, width="large", icon=":material/model_training:", on_dismiss=_close)(_body)(data, chosen)
    _result(data)


def _close() -> None:
    state.set_value(REQUEST, "")


def _body(data: TrainingData, chosen: Sequence[TrainingCandidate]) -> None:
    checked = [one for candidate in chosen if (one := _check(data, candidate)) is not None]
    for one in checked:
        _line(one)
    startable = [one for one in checked if one.problem is None]
    enough = _total(startable)
    st.caption(_("Clicking twice won't start a job twice. Training continues if you close this page."))
    ready = len(checked) == len(chosen) and bool(startable) and enough
    if st.button(
        _button_label(startable), type="primary", icon=":material/model_training:", key="candidates_submit",
        disabled=not ready, on_click=_submit, args=(data, [one.form for one in startable], str(state.get(REQUEST))),
    ):  # fmt: skip
        st.rerun()


def _check(data: TrainingData, candidate: TrainingCandidate) -> _Checked | None:
    """Check the account and the whole file, as for every new job; None while the file is being read."""
    form = candidates.job_form(data, candidate)
    try:
        form.validate()
        account = cached_training.account(form.provider, form.base_model)
        if account.may_train is False:
            return _Checked(candidate, form, FabulaError(account.reason, account.next_step))
        found = background.wait_for_task(cached_training.file_check(form, candidate.rows, candidate.offer.context))
    except FabulaError as problem:
        return _Checked(candidate, form, problem)
    if found is None:
        return None
    wrong = next(iter(found.sentences()), "")
    next_step = msg("Correct the rows, or leave this model out.")
    return _Checked(candidate, form, None if found.ok else FabulaError(wrong, next_step))


def _line(one: _Checked) -> None:
    candidate = one.candidate
    facts = (code(candidate.offer.model), price(candidate), duration(candidate.seconds))
    icon = ":green[:material/check_circle:]" if one.problem is None else ":red[:material/block:]"
    st.markdown(f"{icon} {' · '.join(facts)}")
    if one.problem is not None:
        cards.hint(one.problem)


def _total(startable: Sequence[_Checked]) -> bool:
    """Render the sum of the prices; returns False if it exceeds a budget."""
    known, unknown = candidates.total_usd([one.candidate for one in startable])
    st.markdown(_("**Sum: {price}**").format(price=usd(known) if known or not unknown else _("unknown")))
    if unknown:
        st.caption(
            n_("{n} price is unknown and not in the sum.", "{n} prices are unknown and not in the sum.", unknown)
        )
    left = budget.remaining(cache.store(), current_actor())
    if left is None or known <= left:
        return True
    cards.error_card(
        FabulaError(
            msg("These jobs would exceed your budget: ${left} are left this month.", left=budget.in_words(left)),
            msg("Choose fewer or cheaper models, or ask an admin to raise the budget on the Cost page."),
        )
    )
    return False


def _button_label(startable: Sequence[_Checked]) -> str:
    start = n_("Start {n} job", "Start {n} jobs", len(startable))
    known, unknown = candidates.total_usd([one.candidate for one in startable])
    return start if not known or unknown else _("{rows} for {price}").format(rows=start, price=usd(known))


def _submit(data: TrainingData, forms: Sequence[JobForm], request_id: str) -> None:
    with cards.keep_errors():
        state.set_value(
            _RESULT,
            (data.dataset_id, candidate_jobs.start(cache.store(), current_actor(), data.dataset_id, forms, request_id)),
        )
        _close()
        cache.refresh()


def _result(data: TrainingData) -> None:
    """Render which jobs were started, and which were not."""
    dataset_id, found = state.get(_RESULT) or ("", ())
    if dataset_id != data.dataset_id:
        return
    outcomes: tuple[Started, ...] = found
    ids = [one.job_id for one in outcomes if one.job_id is not None]
    if ids:
        names = ", ".join(code(one.form.base_model) for one in outcomes if one.job_id is not None)
        started = _("Started: {names}.").format(names=names)
        st.success(started, icon=":material/check_circle:")
        if st.button(_("Open the jobs"), icon=":material/show_chart:", key="candidates_open"):
            job_list.open_from_elsewhere(*ids)
            st.switch_page("training.py")
    for one in outcomes:
        if one.error is not None:
            cards.error_card(
                FabulaError(
                    msg("{model} was not started: {what}", model=one.form.base_model, what=one.error.what),
                    one.error.next_step,
                )
            )
    if any(one.error is not None for one in outcomes) and ids:
        st.caption(as_markdown(_("The started jobs are not affected. Choose the others again to start them.")))
