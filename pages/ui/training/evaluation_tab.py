"""Evaluation: a job's model and its base on rows that were not used for training, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.charts import comparison
from core.charts.comparison import IntervalLabels, IntervalRow
from core.db.tables import utcnow
from core.evaluation import evaluations, holdout
from core.evaluation.evaluations import EvaluationView
from core.evaluation.holdout import HeldOut
from core.finetuning.job_views import JobView
from core.parity import judge
from pages.ui import cache, state, visible
from pages.ui.components import cards, models
from pages.ui.components.money import work_cost
from pages.ui.i18n import _, ago, as_markdown, listed, n_, number, pair, percent, plain
from pages.ui.sign_in import current_actor
from pages.ui.training import cached_training, evaluation_results, parity_view
from pages.ui.training.evaluation_results import share

_LIMITS = (20, 50, 100, 120, 200, 500, 1000)
_USUAL_LIMIT = 120
_LEAST_P = 0.0001  # four digits are shown; smaller values would look like 0
_KEY = "training_evaluation"


def show(job: JobView) -> None:
    """Render the results and the start button; updates while an evaluation runs. Only for people who may read the data
    set, because its rows are shown."""
    if not visible.shows_rows(job):
        st.caption(_("Evaluations show rows of the data set, which is not shared with you. Ask its owner."))
        return
    with cards.show_errors():
        running = _running(evaluations.list_on_same_rows(cache.store(), job), job)
        st.fragment(run_every=cache.POLL_S if running else None)(_all)(job, running)


def _all(job: JobView, was_running: bool) -> None:
    with cards.show_errors():
        on_same_rows = evaluations.list_on_same_rows(cache.store(), job)
        found = list(evaluations.of_job(on_same_rows, job))
        running = _running(on_same_rows, job)
        if was_running != running:
            st.rerun()
        pairs = _evaluations_of_job(job, found)
        if pairs:
            _result(*_shown(job, pairs))
        limit = _start(job, running=running)
        if pairs or limit is not None:
            parity_view.show(job, pairs[0][0] if pairs else None, on_same_rows, limit or 0)
        if len(found) > 1:
            _all_evaluations(found)


def _running(on_same_rows: Sequence[EvaluationView], job: JobView) -> bool:
    return any(one.active for one in on_same_rows) or judge.any_active(cache.store(), job.dataset_id)


def _evaluations_of_job(
    job: JobView, found: list[EvaluationView]
) -> list[tuple[EvaluationView, EvaluationView | None]]:
    """Evaluations of the job's own models, newest first, each with the base model's evaluation on the same rows."""
    bases = [one for one in found if one.job_id != job.id]
    return [(one, _base_evaluation(one, bases)) for one in found if one.job_id == job.id]


def _shown(
    job: JobView, pairs: list[tuple[EvaluationView, EvaluationView | None]]
) -> tuple[EvaluationView, EvaluationView | None]:
    """The evaluation that this visitor started or saw first; a button leads to a newer one of another visitor."""
    key, newest = f"{_KEY}_shown_{job.id}", pairs[0][0]
    current = next((pair for pair in pairs if pair[0].id == state.get(key)), None)
    if current is None:
        state.set_value(key, newest.id)
        return pairs[0]
    if current[0].id != newest.id:
        st.button(
            _("Show the newer evaluation"), icon=":material/update:", type="tertiary", key=f"{_KEY}_newest",
            on_click=state.set_value, args=(key, newest.id),
        )  # fmt: skip
    return current


def _base_evaluation(tuned: EvaluationView, bases: list[EvaluationView]) -> EvaluationView | None:
    """The base model's evaluation on the same rows: same version and number of rows, closest in time."""
    alike = [one for one in bases if (one.version_id, one.total) == (tuned.version_id, tuned.total)]
    return min(alike, key=lambda one: abs((one.created_at - tuned.created_at).total_seconds()), default=None)


def _result(tuned: EvaluationView, base: EvaluationView | None) -> None:
    both = [one for one in (tuned, base) if one is not None]
    for one in both:
        evaluation_results.progress(one)
    ready = [one for one in both if one.metrics is not None]
    if not ready:
        return
    if base is not None and tuned.metrics is not None and base.metrics is not None:
        found = cached_training.against(tuned, base)
        st.markdown(f":material/balance: **{as_markdown(found.sentence)}**")
        facts = [_("difference {share}").format(share=share(found.difference))]
        if found.p_value is not None:
            facts.append(_p_value(found.p_value))
        facts.append(n_("{n} row", "{n} rows", found.n))
        st.caption(" · ".join(facts))
    _chart(ready)
    for one in ready:
        with st.expander(
            _("{model}: answers and figures").format(model=plain(models.short_name(one.model))),
            icon=":material/fact_check:",
        ):
            _figures(one)
            evaluation_results.answers(one)


def _p_value(p: float) -> str:
    if p < _LEAST_P:
        return _("p below {p}, McNemar's exact test").format(p=number(_LEAST_P, 4))
    return _("p = {p}, McNemar's exact test").format(p=number(p, 4))


def _chart(ready: list[EvaluationView]) -> None:
    spans = []
    for one in ready:
        interval = evaluation_results.judged(one)
        if interval is not None:
            spans.append(IntervalRow(models.short_name(one.model), interval.value, interval.low, interval.high))
    if not spans:
        return
    title = _("Correct labels") if ready[0].kind == "label" else _("Similarity to the expected texts (chrF)")
    labels = IntervalLabels(title, _("Model"), _("95 % interval"))
    key = (tuple(spans), labels)
    chart = cached_training.cached_chart(key, lambda: comparison.intervals(spans, labels))
    words = listed((pair(span.name, percent(span.value)) for span in spans), semicolons=True)
    st.vega_lite_chart(chart.rows, chart.spec, alt=words, key=f"{_KEY}_chart")


def _figures(one: EvaluationView) -> None:
    """Render the loss or why there is none, the scores of labels or texts, and the cost."""
    metrics = one.metrics
    if metrics is None:
        return
    facts = [share(evaluation_results.judged(one)), n_("{n} answer", "{n} answers", metrics.n)]
    facts.append(_("cost: {price}").format(price=work_cost(one.provider, metrics.cost_usd, metrics.writing_s)))
    if metrics.loss is not None:
        facts.append(_("loss {loss}").format(loss=number(metrics.loss, 3)))
    st.markdown(" · ".join(facts))
    if metrics.loss is None and metrics.loss_note:
        st.caption(as_markdown(metrics.loss_note))
    evaluation_results.scores(metrics)


def _start(job: JobView, *, running: bool) -> int | None:
    """Render the rows for an evaluation, their number, and the start button. Returns the number; None without rows."""
    if job.fine_tuned_model is None or job.dataset_id is None:
        st.caption(
            _(
                "There is no model to evaluate yet. When the job is done, you can test it on rows that "
                "were not used for training."
            )
        )
        return None
    rows = holdout.held_out(cache.store(), job.dataset_id, job.version_id)
    if not rows.usable:
        st.info(
            _(
                "All rows were used for training, so the model can't be evaluated fairly. Keep some for "
                "validation when you start the next job, or hold some out on the data set page."
            ),
            icon=":material/info:",
        )
        return None
    with st.container(border=True):
        st.markdown(_held_out(rows))
        with st.container(horizontal=True, vertical_alignment="bottom"):
            choices = sorted({limit for limit in _LIMITS if limit < rows.usable} | {min(rows.usable, _LIMITS[-1])})
            limit = choices[0]
            if len(choices) > 1:
                usual = min(choices, key=lambda n: abs(n - _USUAL_LIMIT))
                limit = st.select_slider(_("Rows to evaluate"), choices, usual, key=f"{_KEY}_limit", width=320)
            st.button(
                _("Compare with its base"), icon=":material/balance:", key=f"{_KEY}_start", on_click=_judge,
                args=(job, int(limit)), disabled=running,
            )  # fmt: skip
        if not cache.models().found:
            models.none_yet()
    return int(limit)


def _held_out(rows: HeldOut) -> str:
    """A description of the rows."""
    unseen = n_("{n} row was not used for training", "{n} rows were not used for training", rows.usable)
    if rows.kind == "label":
        shown = listed(plain(label) for label in rows.labels[:6]) + (" …" if len(rows.labels) > 6 else "")
        return _(
            "{unseen_rows}. The answers are labels ({labels}), so the share of correct labels is measured."
        ).format(unseen_rows=unseen, labels=shown)
    return _(
        "{unseen_rows}. The answers are texts: they are compared with the expected text, and measured like the data "
        "set."
    ).format(unseen_rows=unseen)


def _judge(job: JobView, limit: int) -> None:
    with cards.keep_errors():
        started = evaluations.start_pair(cache.store(), current_actor(), job, limit=limit)
        state.set_value(f"{_KEY}_shown_{job.id}", started[0])


def _all_evaluations(found: list[EvaluationView]) -> None:
    """Render all evaluations of this job, as a table."""
    with st.expander(n_("{n} evaluation of this job", "{n} evaluations of this job", len(found))):
        st.table(
            {
                _("Model"): [plain(models.dated_name(one.provider, one.model)) for one in found],
                _("State"): [evaluation_results.state_of(one) for one in found],
                _("Correct"): [share(evaluation_results.judged(one)) for one in found],
                _("Requested"): [ago(one.created_at, utcnow()) for one in found],
            },
            border="horizontal",
            alt=_("Evaluations of this job"),
        )
