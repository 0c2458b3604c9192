"""Computes the metrics of an evaluation from its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from sqlalchemy import select

from core.datasets import quality
from core.datasets.quality import QualityRow
from core.db.store import Store
from core.db.tables import EvaluationAnswer, Spend, TrainingJob
from core.evaluation import scoring
from core.evaluation.evaluation_types import EvaluationView, Metrics
from core.evaluation.holdout import examples
from core.finetuning import figures, results
from core.finetuning.checkpoints import list_checkpoints
from core.message import msg
from core.pricing import machine_time

_NO_LOSS = msg(
    "This provider can't compute the loss of given texts. The loss is known only for tuned models with validation rows."
)
_MEASURED = msg("Measured by the provider during training, on the validation examples.")


def compute_metrics(store: Store, evaluation: EvaluationView) -> Metrics:
    """All metrics of the answers so far."""
    query = (
        select(EvaluationAnswer)
        .where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None))
        .order_by(EvaluationAnswer.id)
    )
    with store.reading() as session:
        answered = list(session.scalars(query))
        spend_rows = session.execute(
            select(Spend.prompt_tokens, Spend.completion_tokens, Spend.cost_usd).where(Spend.reference == evaluation.id)
        ).all()
        durations = machine_time.request_seconds(session, {evaluation.id: evaluation.finished_at})
    stop = str(evaluation.settings.get("stop") or "")
    pairs = [(_remove_stop(one.expected, stop), one.text or "") for one in answered]
    labels = [(scoring.normalize_label(expected), scoring.normalize_label(text)) for expected, text in pairs]
    is_label = evaluation.kind == "label"
    loss = _loss(store, evaluation)
    exact = sum(scoring.normalize_text(expected) == scoring.normalize_text(text) for expected, text in pairs)
    return Metrics(
        n=len(answered),
        accuracy=scoring.wilson(sum(bool(one.right) for one in answered), len(answered)) if is_label else None,
        exact=scoring.wilson(exact, len(answered)),
        loss=loss,
        loss_note=_MEASURED if loss is not None else _NO_LOSS,
        labels=scoring.label_scores(labels) if is_label else (),
        confusion=scoring.confusion(labels) if is_label else {},
        overlap=None if is_label else scoring.mean([scoring.chrf(text, expected) for expected, text in pairs]),
        quality={} if is_label else _quality(store, evaluation, answered),
        prompt_tokens=_total([line[0] for line in spend_rows]),
        completion_tokens=_total([line[1] for line in spend_rows]),
        cost_usd=_cost([line[2] for line in spend_rows]),
        writing_s=durations[evaluation.id],
    )


def _loss(store: Store, evaluation: EvaluationView) -> float | None:
    """The validation loss that the training job measured for this model; None: not measured."""
    if evaluation.job_id is None:
        return None
    with store.reading() as session:
        job = session.get(TrainingJob, evaluation.job_id)
        model, text = (job.fine_tuned_model, job.results_csv) if job is not None else (None, None)
    if model == evaluation.model:
        validation = figures.figure(results.parse(text or ""), "validation_loss")
        return None if validation is None else validation.value
    matching = [
        checkpoint for checkpoint in list_checkpoints(store, evaluation.job_id) if checkpoint.model == evaluation.model
    ]
    names = ("full_valid_loss", "valid_loss", "validation_loss")
    return next(
        (checkpoint.metrics[name] for checkpoint in matching for name in names if name in checkpoint.metrics), None
    )


def _quality(store: Store, evaluation: EvaluationView, answered: Sequence[EvaluationAnswer]) -> Mapping[str, float]:
    """The quality measures of the data set report, applied to the model's texts."""
    values = {one.key: one.values for one in examples(store, evaluation)}
    rows = [
        QualityRow(one.id, values.get(one.row_key, {}), one.prompt, one.text or "", "done", one.finish_reason)
        for one in answered
    ]
    if not rows:
        return {}
    columns = sorted({name for row in rows for name in row.values})
    report = quality.report(rows, columns)
    texts = [row.text for row in rows]
    found: dict[str, float | None] = {
        "characters": sum(len(text.strip()) for text in texts) / len(texts),
        "distinct_2": scoring.distinct(texts),
        "grave": report.verdict.share,
        "adherence": _adherence(rows, columns),
    }
    return {name: value for name, value in found.items() if value is not None}


def _adherence(rows: Sequence[QualityRow], columns: Sequence[str]) -> float | None:
    """Share of requested column values that appear verbatim in the texts; None: no values."""
    wanted = [(row.values[name], row.text) for row in rows for name in columns if row.values.get(name)]
    return sum(value in text for value, text in wanted) / len(wanted) if wanted else None


def _total(counts: Sequence[int | None]) -> int | None:
    return None if not counts or any(count is None for count in counts) else sum(count or 0 for count in counts)


def _cost(costs: Sequence[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if costs and len(known) == len(costs) else None


def _remove_stop(text: str, stop: str) -> str:
    return text.removesuffix(stop) if stop else text
