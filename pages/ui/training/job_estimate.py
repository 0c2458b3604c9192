"""The second step of a new job: hyperparameters, and the estimate of tokens, money and time."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from core.errors import FabulaError
from core.finetuning import trackers
from core.finetuning.job_cost import JobEstimate
from core.finetuning.job_form import (
    BATCH_SIZE,
    DEFAULT_PROJECT,
    MAX_PROJECT_LENGTH,
    N_EPOCHS,
    SEED,
    TRACKERS,
    learning_rate_advice,
    suffix_error,
)
from core.finetuning.preflight import Preflight
from core.pricing.tokens import TokenCount
from core.providers import ModelInfo
from pages.ui import background, state
from pages.ui.components import cards, shutdown_notes, views
from pages.ui.components.fields import text_field
from pages.ui.components.money import local_amount
from pages.ui.dataset import training_file
from pages.ui.i18n import _, about, as_markdown, duration, n_, number, usd
from pages.ui.training import auto_fields, cached_training, job_form, job_labels, job_options, preference_form
from pages.ui.training.job_form import JobDraft

_USUAL_RATE = 1.0


@dataclass(frozen=True, slots=True)
class JobRequirements:
    """Requirements of a job. `estimate` is None while tokens are being counted; `account`: None if unknown."""

    estimate: JobEstimate | None
    exact: bool
    account: Preflight | None
    problem: FabulaError | None = None

    @property
    def may(self) -> bool:
        """True unless the account is known to be refused."""
        return self.account is None or self.account.may_train is not False


def show() -> bool:
    """Render the step; returns True if the person can continue."""
    draft = job_form.draft()
    left, right = st.columns(2, gap="medium")
    with left:
        readable = _numbers(draft)
    with right, st.container(border=True):
        st.markdown(_("**Estimate**"))
        found = requirements(draft, wait=True)
        facts(draft, found)
        differing = job_options.differences(job_form.form(draft), draft.base)
        if differing:
            st.caption(" · ".join(differing))
    return found.may and readable


def requirements(draft: JobDraft, *, wait: bool = False) -> JobRequirements:
    """What the job in the current form would require."""
    form = job_form.form(draft)
    account, problem = None, None
    try:
        account = cached_training.account(draft.base.provider, draft.base.id)
    except FabulaError as found:
        problem = found
    work = counting(draft)
    count = background.wait_for_task(work) if wait else work.get()
    if count is None:
        return JobRequirements(None, False, account, problem)
    tokens = epoch_tokens(draft, count)
    estimate = cached_training.estimate(
        draft.base, tokens, form.n_epochs, draft.rows, _validation_tokens(draft, count, tokens)
    )
    return JobRequirements(estimate, count.exact, account, problem)


def counting(draft: JobDraft) -> background.BackgroundTask[TokenCount]:
    """Tokens of all chosen rows, as the model reads them.

    Raises:
        FabulaError: the rows cannot be written in this format.
    """
    version_id = draft.version.id if draft.version is not None else None
    return training_file.tokens_of(draft.chosen.id, version_id, draft.file_rows, draft.marks, draft.base)


def epoch_tokens(draft: JobDraft, count: TokenCount) -> int:
    """Training tokens per epoch, without the share that will be kept for validation."""
    return round(count.tokens * (1 - (draft.share or 0)))


def _validation_tokens(draft: JobDraft, count: TokenCount, trained: int) -> int:
    """Tokens of the rows that are kept for validation."""
    if draft.version is not None:
        return round(count.tokens * draft.version.n_validation / max(1, draft.version.n_train))
    return count.tokens - trained


def facts(draft: JobDraft, found: JobRequirements) -> None:
    """Render tokens, cost and time; then the account check, and how long the model can be called."""
    one = found.estimate
    if one is None:
        st.caption(_("Counting tokens…"))
    else:
        tokens = number(one.trained_tokens) if found.exact else about(one.trained_tokens)
        with st.grid(3, min_column_width=150):
            views.metric(n_("Tokens, {n} epoch", "Tokens, {n} epochs", one.epochs), tokens)
            views.metric(_("Price"), local_amount(one.seconds) if one.local else usd(one.cost_usd))
            views.metric(_("Estimated time") if one.rough else _("Time"), duration(one.seconds))
        if one.basis:
            st.caption(as_markdown(one.basis))
        if one.cost_usd is None and not one.local:
            st.caption(
                _("The price is unknown, so a budget can't be enforced. You can set the price on the cost page.")
            )
    if found.problem is not None:
        cards.hint(found.problem)
    elif found.account is not None:
        icon = {True: ":green[:material/check_circle:]", False: ":red[:material/block:]"}.get(
            found.account.may_train,  # type: ignore[arg-type]  # None if unknown
            ":gray[:material/help:]",
        )
        account = found.account
        for mark, sentence in ((icon, account.reason), (":material/arrow_forward:", account.next_step)):
            if sentence:
                st.markdown(f"{mark} {as_markdown(sentence)}")
        _lifetime(draft.base, account)
        if account.lasting:
            st.button(
                _("Try again"), icon=":material/refresh:", key="training_account_again",
                on_click=cached_training.ask_account_again, args=(draft.base.provider, draft.base.id),
            )  # fmt: skip


def _lifetime(base: ModelInfo, account: Preflight) -> None:
    """Render how long the tuned model can be called, with the way to Move if that is not long."""
    tuned = f"ft:{base.id}"
    notice = shutdown_notes.notice_of(base.provider, tuned, base.id)
    if notice is None:
        st.markdown(f":material/event: {as_markdown(account.lifetime)}")
    elif account.callable_until is not None:
        shutdown_notes.line(as_markdown(account.lifetime))
    else:  # the price list has no day, but the provider has announced one
        shutdown_notes.line(shutdown_notes.sentence(notice, tuned))


def _numbers(draft: JobDraft) -> bool:
    """Render suffix and hyperparameters, each automatic or set; returns True if a provider would accept them."""
    suffix_fits = _suffix()
    auto_fields.whole(_("Epochs"), "training_epochs", 3, *N_EPOCHS)
    auto_fields.whole(_("Batch size"), "training_batch", 4, *BATCH_SIZE)
    rate = auto_fields.real(_("Learning rate multiplier"), "training_rate", _USUAL_RATE, *job_form.RATES)
    advice = learning_rate_advice(draft.rows, draft.base.is_tuned, draft.base.provider, draft.marks.method)
    st.caption(as_markdown(advice))
    beta_fits = draft.marks.method != "dpo" or preference_form.beta_field()
    options_fit = job_options.show(draft.base, has_validation=draft.has_validation)
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.popover(_("More"), icon=":material/tune:"):
            auto_fields.whole(_("Seed"), "training_seed", 0, *SEED)
        _trackers(draft.base.provider)
    return suffix_fits and options_fit and beta_fits and rate.problem is None


def _suffix() -> bool:
    """Render the field for the suffix, with a message if it is invalid; returns whether it is valid."""
    with st.container(gap="xsmall"):
        st.text_input(
            _("Suffix: becomes part of the model's name"),
            key=job_form.SUFFIX,
            placeholder=_("for example ultraman"),
            persist_state="session",
        )
        problem = suffix_error(job_form.typed_suffix())
        if problem is not None:
            cards.hint(problem)
    return problem is None


def _trackers(provider: str) -> None:
    """Render the choice of optional trackers. OpenAI logs to W&B itself."""
    with st.popover(_("Also log to W&B or Trackio"), icon=":material/monitoring:"):
        for name in TRACKERS:
            why_not = trackers.unavailable(name, provider=provider)
            if why_not is not None:
                state.set_value(f"training_tracker_{name}", False)
            st.checkbox(
                job_labels.TRACKERS.get(name, name), key=f"training_tracker_{name}", disabled=why_not is not None,
                persist_state="session",
            )  # fmt: skip
            if why_not is not None:
                st.caption(as_markdown(why_not))
        state.set_default(job_form.PROJECT_KEY, DEFAULT_PROJECT)
        text_field(_("Project name"), job_form.PROJECT_KEY, MAX_PROJECT_LENGTH, persist_state="session")
