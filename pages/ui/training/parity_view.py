"""The parity card: is the job's model as good as the one that it replaces?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from core.evaluation import evaluations
from core.evaluation.evaluations import EvaluationView
from core.finetuning.job_views import JobView
from core.parity import from_evaluations
from core.parity.markdown import to_markdown
from core.parity.report import CallUsage, ParityReport, Side
from core.providers import ModelInfo
from pages.ui import cache, state, visible
from pages.ui.components import cards, models, money, views
from pages.ui.i18n import _, as_markdown, listed, n_, number, plain, usd
from pages.ui.sign_in import current_actor
from pages.ui.training import cached_training, evaluation_results, parity_judge, parity_schema, parity_vote
from pages.ui.training.evaluation_results import share

_KEY = "training_parity"
_ASKED_FOR = "training_parity_job"  # the job whose comparison is open from the start
_MARGINS = (1, 2, 3, 5, 10)
_USUAL_MARGIN = 5
_ICONS = {
    "better": ":material/trending_up:",
    "as_good": ":material/check_circle:",
    "worse": ":material/trending_down:",
    "worse_part": ":material/report:",
    "undecided": ":material/help:",
}


def show(job: JobView, tuned: EvaluationView | None, on_same_rows: Sequence[EvaluationView], limit: int) -> None:
    """Render the choice of the model that is replaced, the button that evaluates it, its progress, and the card.

    Nothing if there are no other models; the job's base has a comparison of its own.

    Args:
        tuned: the evaluation of the job's model; None if it has to be evaluated too.
        on_same_rows: evaluations of any model on these rows.
        limit: number of rows for both models if the job's has no evaluation yet.
    """
    total = limit if tuned is None else tuned.total
    own = {(job.provider, job.base_model), (job.provider, job.fine_tuned_model)}
    offered = {(one.provider, one.id): one for one in visible.models().found}
    stored = visible.usable(ModelInfo(one.model, one.provider, None, None, None) for one in on_same_rows)
    known = {(one.provider, one.id): one for one in stored} | offered
    others = [one for key, one in known.items() if key not in own]
    if not others:
        return
    with st.expander(_("Replace an older model: is this one as good?"), icon=":material/swap_horiz:", key=_KEY,
                     expanded=is_opened_for(job)):  # fmt: skip
        st.caption(
            _(
                "Both models answer the rows that were not used for training. The answers are stored, so you can "
                "compare even after the older model is gone."
            )
        )
        state.set_default(f"{_KEY}_model", _likely(job, others, on_same_rows))
        fields, below = st.container(horizontal=True, vertical_alignment="bottom"), st.container()
        with fields:
            chosen = models.picker(_("Model to replace"), f"{_KEY}_model", among=others, width=360, purpose_in=below)
            margin = st.select_slider(
                _("Accepted loss (points)"), _MARGINS, _USUAL_MARGIN, key=f"{_KEY}_margin", width=220,
                help=_("The new model is as good if it is at most this much worse, with 95 % confidence."),
            )  # fmt: skip
        if chosen is None:
            return
        asked = [one for one in on_same_rows if (one.provider, one.model) == (chosen.provider, chosen.id)]
        old = next((one for one in asked if one.total == total), None)
        if old is None and (chosen.provider, chosen.id) not in offered:  # it is gone: its answers are what there is
            old = next((one for one in asked if one.answered), None)
        if old is None or old.state in ("failed", "stopped"):
            st.button(
                _("Compare on {n} rows").format(n=number(total)), icon=":material/balance:", key=f"{_KEY}_start",
                on_click=_start, args=(job, chosen.provider, chosen.id, total, tuned is None),
            )  # fmt: skip
        if old is not None and tuned is not None:
            evaluation_results.progress(old)
            if old.metrics is not None and tuned.metrics is not None:
                found = cached_training.parity(old, tuned, margin / 100)
                verdict_first = st.container()
                judged = parity_judge.show(old, tuned, margin / 100)
                voted = parity_vote.on_card(old, tuned, margin / 100)
                with verdict_first:
                    card(replace(found, judge=judged, votes=voted))
                if found.task == "json" or found.new.schema is not None:
                    parity_schema.show(tuned, found)


def _likely(job: JobView, others: Sequence[ModelInfo], on_same_rows: Sequence[EvaluationView]) -> str | None:
    """The model that is probably replaced: one that was asked these rows, or was trained on the same data set."""
    asked = [(one.provider, one.model) for one in on_same_rows]
    same_data = [one for one in visible.job_list() if one.dataset_id == job.dataset_id and one.fine_tuned_model]
    known = {(one.provider, one.id) for one in others}
    likely = (one for one in (*asked, *((one.provider, one.fine_tuned_model) for one in same_data)) if one in known)
    return next((f"{provider}/{model}" for provider, model in likely), None)


def open_for(job: JobView, old_model: str | None) -> None:
    """Open this comparison when the job's evaluation is rendered next.

    Args:
        old_model: `provider/model` of the model that is replaced; None to leave the choice as it is.
    """
    state.set_value(_ASKED_FOR, job.id)
    if old_model is not None:
        state.set_value(f"{_KEY}_model", old_model)


def is_opened_for(job: JobView) -> bool:
    """Whether another page has led the visitor to this job's comparison."""
    return bool(state.get(_ASKED_FOR) == job.id)


def _start(job: JobView, provider: str, model: str, limit: int, both: bool) -> None:
    """Ask the older model; `both`: the job's own too."""
    with cards.keep_errors():
        if both:
            evaluations.start(cache.store(), current_actor(), evaluations.form_for(job, limit=limit))
        from_evaluations.start(cache.store(), current_actor(), job, provider, model, limit=limit)


def card(found: ParityReport) -> None:
    """Render a card: the verdict, both models' figures, parts and the worst rows, and the downloads."""
    verdict = found.verdict
    st.markdown(f"{_ICONS[verdict.outcome]} **{as_markdown(verdict.sentence)}**")
    facts = [
        _("difference {share}").format(share=share(verdict.difference)),
        n_("{n} row", "{n} rows", verdict.difference.n),
    ]
    if found.against_old:
        facts.append(_("the older model's answers count as correct"))
    st.caption(" · ".join(facts))
    st.table(_figures(found), border="horizontal", alt=_("Figures of both models"))
    if found.parts:
        _parts(found)
    if found.worst:
        _worst(found)
    views.report_downloads(to_markdown(found), found.to_dict(), "parity", _KEY)


def _figures(found: ParityReport) -> dict[str, list[str]]:
    """A row for each figure and a column for each model, so that a phone shows both."""
    sides = (found.old, found.new)
    rows = {
        _("Model"): [plain(models.short_name(side.model)) for side in sides],
        _("Correct") if found.task != "text" else _("Similarity"): [_score(side) for side in sides],
        _("Answered"): [number(side.answered) for side in sides],
        _("Characters per answer"): [number(side.characters) for side in sides],
    }
    if found.task == "json":
        rows[_("Valid JSON")] = [share(side.valid) for side in sides]
    if found.new.schema is not None:
        rows[_("Follows the JSON Schema")] = [share(side.schema.valid if side.schema else None) for side in sides]
    rows[_("Time per answer (median, 95th percentile)")] = [_seconds(side) for side in sides]
    rows[_("Tokens per call (prompt + answer)")] = [_tokens(side.usage) for side in sides]
    rows[_("Cost of 1,000 such calls")] = [_cost(side.usage) for side in sides]
    olds, news = (list(column) for column in zip(*rows.values(), strict=True))
    return {"": list(rows), _("Older model"): olds, _("New model"): news}


def _seconds(side: Side) -> str:
    if side.seconds is None:
        return _("unknown")
    return listed(_("{n} s").format(n=number(value, 2)) for value in (side.seconds, side.seconds_p95))


def _tokens(usage: CallUsage) -> str:
    return " + ".join(number(count) for count in (usage.prompt_tokens, usage.completion_tokens))


def _cost(usage: CallUsage) -> str:
    return money.local_amount(None) if usage.machine_time and not usage.usd_per_1000 else usd(usage.usd_per_1000)


def _score(side: Side) -> str:
    return _("counts as correct") if side.score is None else share(side.score)


def _parts(found: ParityReport) -> None:
    worst_first = sorted(found.parts, key=lambda part: (part.gained - part.lost, -part.n))
    st.dataframe(
        pd.DataFrame(
            [{"name": part.name, "n": part.n, "old": part.old_right, "new": part.new_right} for part in worst_first]
        ),
        hide_index=True,
        height="content" if len(worst_first) <= 8 else 260,
        column_config={
            "name": st.column_config.TextColumn(_("Label") if found.task == "label" else _("Field")),
            "n": st.column_config.NumberColumn(_("Rows"), format="localized"),
            "old": st.column_config.NumberColumn(_("Correct, older model"), format="localized"),
            "new": st.column_config.NumberColumn(_("Correct, new model"), format="localized"),
        },
        alt=_("Correct answers by label or field"),
    )


def _worst(found: ParityReport) -> None:
    st.markdown(n_("{n} row is answered worse", "{n} rows are answered worse", found.worse_rows))
    st.dataframe(
        pd.DataFrame(
            [{"prompt": row.prompt, "expected": row.reference, "old": row.old, "new": row.new} for row in found.worst]
        ),
        hide_index=True,
        height="content" if len(found.worst) <= 6 else 300,
        column_config={
            "prompt": st.column_config.TextColumn(_("Prompt")),
            "expected": st.column_config.TextColumn(_("Expected")),
            "old": st.column_config.TextColumn(_("Older model")),
            "new": st.column_config.TextColumn(_("New model")),
        },
        placeholder="–",
        alt=_("Rows that are answered worse"),
    )
