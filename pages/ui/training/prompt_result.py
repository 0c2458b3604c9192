"""The result of Tune or prompt: the verdict, a table of the variants, the tuned model, and the downloads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import streamlit as st

from core.db.tables import utcnow
from core.evaluation.evaluations import EvaluationView
from core.evaluation.prompt_trials import StartedTrial
from core.parity import prompt_report
from core.parity.prompt_markdown import to_markdown
from core.parity.prompt_variants import Variant
from core.parity.tune_or_prompt import TuneOrPrompt
from core.pricing.prices import ENGINE
from core.providers import ModelInfo
from pages.ui import cache, state
from pages.ui.cache import shared
from pages.ui.components import cards, models, money, views
from pages.ui.components.fields import number_field
from pages.ui.i18n import _, ago, as_markdown, n_, number, usd
from pages.ui.sign_in import current_actor
from pages.ui.training import evaluation_results, prompt_examples
from pages.ui.training.evaluation_results import share

TUNED = "training_prompts_tuned"
"""Key of the tuned model to compare with: `provider/id`, or "" for none."""

_KEY = "training_prompts"
_NONE = ""
_MARGINS = (1, 2, 3, 5, 10)
_USUAL_MARGIN = 5
_USUAL_CALLS = 10_000
_MOST_CALLS = 1_000_000_000
_ICONS = {
    "prompt": ":material/savings:",
    "tune_to_save": ":material/payments:",
    "tune": ":material/exercise:",
    "worse_part": ":material/report:",
    "undecided": ":material/help:",
    "unanswered": ":material/error:",
    "baseline": ":material/flag:",
}


def prompt_name(shots: int | None) -> str:
    """A prompt by its number of examples."""
    return _("No examples") if not shots else n_("{n} example", "{n} examples", shots)


def trial_name(trial: StartedTrial) -> str:
    """A trial in a list: model, rows and time."""
    first = trial.evaluations[0]
    rows = n_("{n} row", "{n} rows", first.total)
    return f"{models.short_name(trial.model)} · {rows} · {ago(first.created_at, utcnow())}"


def show(trial: StartedTrial, tuned_models: Sequence[ModelInfo], tuned: EvaluationView | None) -> None:
    """Render the choice of a tuned model, and the result once the answers are there."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = _pick_tuned(tuned_models)
        margin = st.select_slider(
            _("Accepted loss (points)"), _MARGINS, _USUAL_MARGIN, key=f"{_KEY}_margin", width=220,
            help=_("A prompt is good enough if it is at most this much worse than the tuned model."),
        )  # fmt: skip
        calls = number_field(_("Calls a month"), f"{_KEY}_calls", 1, _MOST_CALLS, _USUAL_CALLS, width=180)
    if chosen is not None and (tuned is None or tuned.state in ("failed", "stopped")):
        st.button(
            n_("Ask it the same {n} row", "Ask it the same {n} rows", trial.evaluations[0].total),
            icon=":material/balance:", key=f"{_KEY}_tuned_start", on_click=_start_tuned,
            args=(trial, chosen.provider, chosen.id),
        )  # fmt: skip
    if tuned is not None:
        evaluation_results.progress(tuned)
    ready = None if tuned is None or tuned.active else tuned
    if not trial.active and not (tuned is not None and tuned.active):
        of_tuned = "" if chosen is None else chosen.provider
        card(_report(trial, ready, margin / 100, calls), (trial.provider, of_tuned))


def _pick_tuned(found: Sequence[ModelInfo]) -> ModelInfo | None:
    """The tuned model to compare with; None while there is none."""
    by_id = {f"{one.provider}/{one.id}": one for one in found}
    if state.get(TUNED) not in by_id:
        state.set_value(TUNED, _NONE)
    labels = models.options(by_id)
    chosen = st.selectbox(
        _("Compare with a tuned model"),
        [_NONE, *by_id],
        format_func=lambda one: labels[one] if one else _("None yet"),
        key=TUNED,
        width=340,
        help=_("A model that you trained, or the older tuned model that it would replace."),
    )
    return by_id.get(str(chosen))


def _start_tuned(trial: StartedTrial, provider: str, model: str) -> None:
    with cards.keep_errors():
        prompt_report.start_tuned(cache.store(), current_actor(), trial, provider, model)


def _report_key(trial: StartedTrial, tuned: EvaluationView | None, margin: float, calls: int) -> tuple[object, ...]:
    ended: list[tuple[str, datetime | None]] = [(one.id, one.finished_at) for one in trial.evaluations]
    return (*ended, None if tuned is None else (tuned.id, tuned.finished_at), margin, calls)


@shared(max_entries=32, ttl=30.0, key=_report_key)
def _report(trial: StartedTrial, tuned: EvaluationView | None, margin: float, calls: int) -> TuneOrPrompt:
    """The result; read again when an evaluation ends, and now and then because prices change."""
    return prompt_report.report(cache.store(), cache.prices(), trial, tuned, margin=margin, calls_per_month=calls)


def card(found: TuneOrPrompt, providers: tuple[str, str]) -> None:
    """Render the verdict, the table, the notes and the downloads. `providers`: of the base and of the tuned model."""
    st.markdown(f"{_ICONS[found.outcome]} **{as_markdown(found.sentence)}**")
    st.table(_table(found, providers), border="horizontal", alt=_("Prompts and the tuned model"))
    for note in found.notes:
        st.caption(f":material/info: {as_markdown(note)}")
    if any(one.shots is None for one in found.variants):
        st.caption(_training(found, providers[1]))
    if found.instruction:
        with st.expander(_("Instruction"), icon=":material/edit_note:", key=f"{_KEY}_shown_instruction"):
            st.text(found.instruction)
    prompt_examples.show(found.examples, f"{_KEY}_shown_examples")
    views.report_downloads(to_markdown(found), found.to_dict(), "tune-or-prompt", _KEY)


def _table(found: TuneOrPrompt, providers: tuple[str, str]) -> dict[str, list[str]]:
    """A row for each figure, and a column for the tuned model and each prompt: a phone shows the first three."""
    lines = sorted(found.variants, key=lambda one: one.shots is not None)
    scores = {"label": _("Correct"), "json": _("Correct fields"), "text": _("Similarity")}
    rows = {scores[found.task]: [share(one.score) for one in lines]}
    if any(one.difference is not None for one in lines):
        rows[_("Against tuned (points)")] = [_difference(one) for one in lines]
    rows |= {
        _("Answered"): [_("{n} of {total}").format(n=number(one.answered), total=number(one.asked)) for one in lines],
        _("Input tokens per call"): [
            _("unknown") if one.prompt_tokens is None else number(one.prompt_tokens) for one in lines
        ],
        _("Cost of 1,000 calls"): [_cost(one.usd_per_thousand, providers[one.shots is None]) for one in lines],
    }
    if any(one.seconds is not None for one in lines):
        rows[_("Seconds per call")] = [_("unknown") if one.seconds is None else number(one.seconds, 1) for one in lines]
    if any(one.break_even is not None for one in lines):
        rows[_("Tuning costs less after")] = [_crossing(one) for one in lines]
    names = [_("Tuned model") if one.shots is None else prompt_name(one.shots) for one in lines]
    return {"": list(rows)} | {name: [row[place] for row in rows.values()] for place, name in enumerate(names)}


def _cost(amount: Decimal | None, provider: str) -> str:
    return money.local_amount(None) if amount is None and provider == ENGINE else usd(amount)


def _difference(one: Variant) -> str:
    if one.difference is None:
        return "–"
    value, low, high = (
        f"{100 * bound:+.1f}" for bound in (one.difference.value, one.difference.low, one.difference.high)
    )
    return _("{share} ({low} to {high})").format(share=value, low=low, high=high)


def _crossing(one: Variant) -> str:
    if one.break_even is None:
        return "–"
    if one.break_even.outcome == "at":
        return n_("{n} call", "{n} calls", one.break_even.requests or 0)
    names = {"at_once": _("the first call"), "never": _("never")}
    return names.get(one.break_even.outcome, _("unknown"))


def _training(found: TuneOrPrompt, provider: str) -> str:
    costs = [_("Training: {price}").format(price=_cost(found.training.usd, provider))]
    if found.training.hosting_usd_per_month:
        costs.append(_("hosting: {price} a month").format(price=usd(found.training.hosting_usd_per_month)))
    return " · ".join(costs)
