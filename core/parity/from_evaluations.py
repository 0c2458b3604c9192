"""Evaluations of the model that a job's model replaces, and the parity card of two evaluations.

The answers of evaluations are stored, so a card needs neither model: it can also be made after the old one is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from statistics import fmean
from typing import Any

from sqlalchemy import select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import Dataset, Evaluation, EvaluationAnswer, Spend
from core.evaluation import evaluations, scoring
from core.evaluation.evaluations import EvaluationView
from core.finetuning.job_views import JobView
from core.ownership import edits, reads
from core.parity import json_schema, report
from core.parity.json_schema import BadSchema
from core.parity.report import CallUsage, ParityReport
from core.parity.row_scores import ComparedRow
from core.parity.verdict import DEFAULT_MARGIN
from core.pricing import machine_time
from core.pricing.prices import ENGINE


@requires("editor")
@reads(job="job.id", dataset="job.dataset_id", model="model")
def start(store: Store, actor: Actor, job: JobView, provider: str, model: str, limit: int) -> str:
    """Evaluate the model that a job's model replaces, on the rows of the job's evaluation. Returns the evaluation's id.

    A model of another provider gets the prompts as chat messages, without the separators of the job's training file.

    Raises:
        FabulaError: see `evaluations.start`.
    """
    form = replace(evaluations.form_for(job, limit=limit), provider=provider, model=model, job_id=None)
    if provider != job.provider:
        form = replace(form, file_format="chat", separator=None, stop=None)
    return evaluations.start(store, actor, form)


def compare_evaluations(
    store: Store, old_id: str, new_id: str, *, distilled: bool = False, margin: float = DEFAULT_MARGIN
) -> ParityReport:
    """Compare two evaluations on the rows that both have answered.

    Args:
        old_id: the evaluation of the model that is replaced.
        distilled: the old model wrote the expected texts, so its answers count as right.
        margin: the loss that the user accepts, 0 to 1.

    Raises:
        NotFound: one of them does not exist.
        FabulaError: they have no rows in common.
        ValueError: the margin is not between 0 and 1.
    """
    old, new = evaluations.get(store, old_id), evaluations.get(store, new_id)
    return report.compare(
        compared_rows(store, old, new, distilled=distilled),
        old.model,
        new.model,
        margin=margin,
        old_usage=usage_of(store, old),
        new_usage=usage_of(store, new),
        schema=schema_of(store, new),
    )


def compared_rows(
    store: Store, old: EvaluationView, new: EvaluationView, *, distilled: bool = False
) -> list[ComparedRow]:
    """The rows that both evaluations asked for, with both answers. See `compare_evaluations`."""
    stop = new.settings.get("stop") or old.settings.get("stop")  # no answer has it, but an expected text may
    query = select(
        EvaluationAnswer.row_key,
        EvaluationAnswer.prompt,
        EvaluationAnswer.expected,
        EvaluationAnswer.text,
        EvaluationAnswer.seconds,
    ).order_by(EvaluationAnswer.id)
    with store.reading() as session:
        answered = {
            row_key: (text, seconds)
            for row_key, _prompt, _expected, text, seconds in session.execute(
                query.where(EvaluationAnswer.evaluation_id == old.id)
            )
        }
        return [
            ComparedRow(
                row_key,
                prompt,
                None if distilled else scoring.remove_stop(expected, stop),
                answered[row_key][0],
                text,
                answered[row_key][1],
                seconds,
            )
            for row_key, prompt, expected, text, seconds in session.execute(
                query.where(EvaluationAnswer.evaluation_id == new.id)
            )
            if row_key in answered
        ]


@requires("editor")
@edits(evaluation="evaluation_id")
def set_schema(store: Store, actor: Actor, evaluation_id: str, text: str) -> None:
    """Set the JSON Schema that the answers of an evaluation should follow; "" removes it.

    Raises:
        NotFound: the evaluation does not exist.
        BadSchema: the schema can't be used.
    """
    schema = json_schema.read_schema(text) if text.strip() else None
    evaluations.get(store, evaluation_id)
    with store.session() as session:
        evaluation = session.get_one(Evaluation, evaluation_id)
        evaluation.settings = {**evaluation.settings, "schema": schema}


def schema_of(store: Store, evaluation: EvaluationView) -> dict[str, Any] | None:
    """The schema that was set; if none was, that of the `response_format` with which the data set was written."""
    if "schema" in evaluation.settings:
        found: dict[str, Any] | None = evaluation.settings["schema"]
        return found
    with store.reading() as session:
        recipe = session.scalar(select(Dataset.recipe).where(Dataset.id == evaluation.dataset_id))
    with suppress(BadSchema):
        if (text := str((recipe or {}).get("response_format") or "")) and "json_schema" in text:
            return json_schema.read_schema(text)
    return None


def usage_of(store: Store, evaluation: EvaluationView) -> CallUsage:
    """Mean tokens of an evaluation's answers, and the cost of 1,000 such calls; on the engine its machine time."""
    tokens = select(EvaluationAnswer.prompt_tokens, EvaluationAnswer.completion_tokens)
    tokens = tokens.where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None))
    costs = select(Spend.cost_usd).where(Spend.reference == evaluation.id, Spend.completion_tokens.is_not(None))
    with store.reading() as session:
        counts = session.execute(tokens).all()
        billed = list(session.scalars(costs))
    if evaluation.provider == ENGINE:
        usd = machine_time.usd_per_call(store, [evaluation.id])[evaluation.id]
    else:
        known = [cost for cost in billed if cost is not None]
        usd = sum(known, Decimal(0)) / len(known) if known and len(known) == len(billed) else None
    return CallUsage(
        prompt_tokens=_mean([prompt for prompt, _completion in counts]),
        completion_tokens=_mean([completion for _prompt, completion in counts]),
        usd_per_1000=None if usd is None else 1_000 * usd,
        machine_time=evaluation.provider == ENGINE,
    )


def _mean(counts: Sequence[int | None]) -> float | None:
    """The mean of the known counts; None if there are none."""
    known = [count for count in counts if count is not None]
    return fmean(known) if known else None
