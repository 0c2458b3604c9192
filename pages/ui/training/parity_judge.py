"""A judge model on the parity card: its form with prompt and price, its progress, and what it decided."""

from __future__ import annotations

import streamlit as st

from core.evaluation.evaluations import EvaluationView
from core.evaluation.judge_rows import INSTRUCTIONS
from core.parity import judge
from core.parity.judge import JudgeEstimate
from core.parity.preference import JudgeResult
from core.pricing.prices import ENGINE
from pages.ui import cache, state
from pages.ui.cache import shared
from pages.ui.components import cards, models, money
from pages.ui.components.fields import fits
from pages.ui.i18n import _, as_markdown, n_, number, percent, plain, usd_estimate
from pages.ui.sign_in import current_actor
from pages.ui.training import evaluation_results
from pages.ui.training.evaluation_results import share

_KEY = "training_parity_judge"
_LIMITS = (20, 50, 100, 200, 500)
_USUAL_LIMIT = 100


def show(old: EvaluationView, new: EvaluationView, margin: float) -> JudgeResult | None:
    """Render the judge's progress, verdict and form. Returns what it decided, None if there is no judge yet."""
    found = judge.find(cache.store(), old, new)
    result = None
    if found is not None:
        evaluation_results.progress(found)
        if found.answered or found.metrics is not None:
            result = judge.result(cache.store(), found, margin)
            _verdict(result)
    if found is None or not found.active:
        with st.popover(_("Ask a judge model"), icon=":material/gavel:", key=f"{_KEY}_form"):
            _form(old, new, 0 if found is None else found.answered)
    return result


def _verdict(found: JudgeResult) -> None:
    name = plain(models.short_name(found.model))
    said = _("no readable verdict yet") if found.preference is None else as_markdown(found.preference.sentence)
    st.markdown(":material/gavel: " + _("**Judge {model}:** {verdict}").format(model=name, verdict=said))
    facts = [n_("{n} row changed with the order: a tie", "{n} rows changed with the order: ties", found.disagreeing)]
    if found.preference is not None:
        facts.insert(0, _("difference {share}").format(share=share(found.preference.difference)))
    if found.identical:
        facts.append(n_("{n} row with equal answers: a tie", "{n} rows with equal answers: ties", found.identical))
    if found.first is not None:
        facts.append(
            _("the answer shown first won {share} (50 % without bias)").format(share=percent(found.first.value))
        )
    if found.unparsable:
        facts.append(n_("{n} unreadable reply not counted", "{n} unreadable replies not counted", found.unparsable))
    st.caption(" · ".join(facts))
    if found.own_answers:
        st.warning(_own_answers(), icon=":material/warning:")


def _own_answers() -> str:
    return _("This judge is one of the two models. Models tend to prefer their own answers: use another one.")


def _form(old: EvaluationView, new: EvaluationView, judged: int) -> None:
    """Render model, rows, instructions, the whole prompt, the price, and the start button."""
    st.caption(
        _("A model reads each row with both answers, twice: each answer is shown first once. If the verdicts differ, "
          "the row is a tie. Equal answers are not sent.")
    )  # fmt: skip
    chosen = models.picker(_("Judge model"), f"{_KEY}_model")
    if chosen is None:
        return
    if chosen.id in (old.model, new.model):
        st.warning(_own_answers(), icon=":material/warning:")
    limit = int(st.select_slider(_("Rows"), _LIMITS, _USUAL_LIMIT, key=f"{_KEY}_limit"))
    state.set_default(f"{_KEY}_instructions", INSTRUCTIONS)
    instructions = st.text_area(_("What the judge decides"), height=120, key=f"{_KEY}_instructions")
    with st.expander(_("The whole prompt, with the first row")):
        st.code(judge.example_prompt(cache.store(), old, new, instructions), language=None, wrap_lines=True)
    expected = _estimate(old, new, chosen.provider, chosen.id, limit, instructions, judged)
    if not expected.calls:
        st.caption(_("This model has already judged these rows with these instructions."))
        return
    if chosen.provider == ENGINE:
        price = money.local_price()
    elif expected.usd is None or expected.most_usd is None:
        price = _("price unknown")
    else:
        price = usd_estimate(expected.usd, expected.most_usd)
    st.markdown(n_("{n} call", "{n} calls", expected.calls) + f" · {price}")
    st.button(
        _("Judge {n} answers").format(n=number(expected.calls)), type="primary", icon=":material/gavel:",
        key=f"{_KEY}_start", disabled=not instructions.strip() or not fits(instructions, judge.MAX_INSTRUCTIONS),
        on_click=_start, args=(old, new, chosen.provider, chosen.id, limit, instructions),
    )  # fmt: skip


@shared(
    ttl=60.0,
    max_entries=32,
    key=lambda a, b, *others: (a.id, a.finished_at, b.id, b.finished_at, *others),
)
def _estimate(
    old: EvaluationView, new: EvaluationView, provider: str, model: str, limit: int, instructions: str, judged: int
) -> JudgeEstimate:
    """`judged`: number of verdicts so far, with which the estimate changes."""
    return judge.estimate(cache.store(), cache.prices(), old, new, provider, model, limit, instructions)


def _start(old: EvaluationView, new: EvaluationView, provider: str, model: str, limit: int, instructions: str) -> None:
    with cards.keep_errors():
        judge.start(cache.store(), current_actor(), old, new, provider, model, limit=limit, instructions=instructions)
