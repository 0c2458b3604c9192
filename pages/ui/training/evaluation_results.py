"""The results of an evaluation in words: state, main score, scores per label or of the texts, and the answers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.evaluation import evaluations
from core.evaluation.evaluations import EvaluationView
from core.evaluation.scoring import Interval, LabelScore, Metrics
from pages.ui import cache
from pages.ui.components import cards, models
from pages.ui.i18n import (
    PERCENT_FORMAT,
    _,
    as_markdown,
    localized,
    mark,
    n_,
    number,
    pair,
    percent,
    plain,
    table_percent,
)

STATES = {
    "queued": mark("waiting for the worker"),
    "running": mark("running"),
    "stopping": mark("stopping"),
    "stopped": mark("stopped"),
    "done": mark("finished"),
    "failed": mark("failed"),
}

_MOST = 100
_QUALITY = {
    "characters": mark("Characters"),
    "distinct_2": mark("Distinct word pairs"),
    "grave": mark("Texts with problems"),
    "adherence": mark("Contains the requested value"),
}
_COUNTS = ("characters",)


def state_of(view: EvaluationView) -> str:
    """An evaluation's state in words, with its progress."""
    words = _(STATES[view.state]) if view.state in STATES else view.state
    if view.active:
        words += " · " + _("{n} of {total} answers").format(n=number(view.answered), total=number(view.total))
    if view.reason:
        words += f" · {as_markdown(view.reason)}"
    return words


def progress(one: EvaluationView, name: str | None = None) -> None:
    """Render the progress bar of a running evaluation with its stop button, or which answers are missing.

    Args:
        name: its name; None means the model's.
    """
    name = plain(models.short_name(one.model)) if name is None else name
    if one.active:
        share_done = one.answered / one.total if one.total else 0.0
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(min(1.0, share_done), text=pair(name, state_of(one)))
            st.button(
                _("Stop"), icon=":material/stop:", key=f"training_evaluation_stop_{one.id}", on_click=cards.act,
                args=(evaluations.stop, one.id),
                disabled=one.state == "stopping",
            )  # fmt: skip
        return
    if one.failed or one.state in ("failed", "stopped"):
        with st.container(horizontal=True, vertical_alignment="center"):
            missing = n_("{n} row has no answer", "{n} rows have no answer", max(one.failed, one.total - one.answered))
            st.markdown(f":material/error: {pair(name, state_of(one))} · {missing}")
            st.button(
                _("Retry these"), icon=":material/replay:", key=f"training_evaluation_retry_{one.id}",
                on_click=cards.act, args=(evaluations.retry, one.id),
            )  # fmt: skip


def share(interval: Interval | None) -> str:
    """A share with its 95 % interval."""
    if interval is None:
        return _("unknown")
    return _("{share} ({low} to {high})").format(
        share=percent(interval.value), low=percent(interval.low), high=percent(interval.high)
    )


def judged(view: EvaluationView) -> Interval | None:
    """The main score: the share of correct labels, or for texts the similarity to the expected ones."""
    if view.metrics is None:
        return None
    return view.metrics.accuracy if view.kind == "label" else view.metrics.overlap


def newest(job_ids: Sequence[str]) -> dict[str, EvaluationView]:
    """The newest finished evaluation of each job's own model, by the job's id."""
    found: dict[str, EvaluationView] = {}
    for job_id in job_ids:
        done = [one for one in evaluations.list_evaluations(cache.store(), job_id=job_id) if one.metrics is not None]
        if done:
            found[job_id] = max(done, key=lambda one: one.created_at)
    return found


def scores(metrics: Metrics) -> None:
    """Render one row per label with its confusions; for texts, the metrics of the quality report."""
    if metrics.labels:
        _by_label(metrics.labels)
    if metrics.quality:
        st.table(
            {
                _(_QUALITY[name]) if name in _QUALITY else plain(name): number(value)
                if name in _COUNTS
                else percent(value)
                for name, value in metrics.quality.items()
            },
            border="horizontal",
            width="content",
            alt=_("Text measurements"),
        )


def _by_label(labels: Sequence[LabelScore]) -> None:
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "label": one.label,
                    "n": one.n,
                    "right": one.right,
                    "precision": table_percent(one.precision),
                    "recall": table_percent(one.recall),
                }
                for one in labels
            ]
        ),
        hide_index=True,
        height="content" if len(labels) <= 8 else 260,
        column_config={
            "label": st.column_config.TextColumn(_("Label")),
            "n": st.column_config.NumberColumn(_("Rows"), format="localized"),
            "right": st.column_config.NumberColumn(_("Correct"), format="localized"),
            "precision": st.column_config.NumberColumn(
                _("Precision"),
                format=PERCENT_FORMAT,
                help=_("Of the rows that the model gave this label, the share for which it is correct."),
            ),
            "recall": st.column_config.NumberColumn(
                _("Recall"),
                format=PERCENT_FORMAT,
                help=_("Of the rows that have this label, the share that the model labelled correctly."),
            ),
        },
        placeholder="–",
        alt=_("Scores by label"),
    )


def answers(view: EvaluationView) -> None:
    """Render the rows with expected and actual text."""
    key = f"training_wrong_{view.id}"
    wrong = st.toggle(_("Only wrong answers"), value=view.kind == "label", key=key)
    found = evaluations.answers(cache.store(), view.id, wrong_only=wrong, limit=_MOST)
    if not found:
        st.caption(_("None."))
        return
    frame = pd.DataFrame(
        [
            {
                "prompt": one.prompt,
                "expected": one.expected,
                "answer": one.text if one.text is not None else localized(one.reason or ""),
                "correct": one.correct,
            }
            for one in found
        ]
    )
    st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(found) <= 6 else 300,
        column_config={
            "prompt": st.column_config.TextColumn(_("Prompt")),
            "expected": st.column_config.TextColumn(_("Expected")),
            "answer": st.column_config.TextColumn(_("Answer")),
            "correct": st.column_config.CheckboxColumn(_("Correct")),
        },
        placeholder="–",
        alt=_("Answers"),
    )
