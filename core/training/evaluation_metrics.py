"""From the answers of an evaluation to its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from sqlalchemy import select

from core.cost import engine_time
from core.dataset import quality
from core.dataset.quality import QualityRow
from core.db.store import Store
from core.db.tables import EvaluationAnswer, Spend, TrainingJob
from core.message import msg
from core.training import figures, results, scoring
from core.training.checkpoints import list_checkpoints
from core.training.evaluation_types import EvaluationView, Metrics
from core.training.holdout import examples

_NO_LOSS = msg(
    "This provider does not report the loss of given texts; it is known for tuned models with validation rows."
)
_MEASURED = msg("Measured by the provider during training, on the validation examples.")


def metrics(store: Store, evaluation: EvaluationView) -> Metrics:
    """Everything that the answers so far tell."""
    query = (
        select(EvaluationAnswer)
        .where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None))
        .order_by(EvaluationAnswer.id)
    )
    with store.reading() as session:
        given = list(session.scalars(query))
        lines = session.execute(
            select(Spend.prompt_tokens, Spend.completion_tokens, Spend.cost_usd).where(Spend.reference == evaluation.id)
        ).all()
        took = engine_time.requests_s(session, {evaluation.id: evaluation.finished_at})
    stop = str(evaluation.settings.get("stop") or "")
    pairs = [(_without(one.expected, stop), one.text or "") for one in given]
    labels = [(scoring.normalize_label(expected), scoring.normalize_label(text)) for expected, text in pairs]
    label = evaluation.kind == "label"
    loss = _loss(store, evaluation)
    same = sum(scoring.normalize_text(expected) == scoring.normalize_text(text) for expected, text in pairs)
    return Metrics(
        n=len(given),
        accuracy=scoring.wilson(sum(bool(one.right) for one in given), len(given)) if label else None,
        exact=scoring.wilson(same, len(given)),
        loss=loss,
        loss_note=_MEASURED if loss is not None else _NO_LOSS,
        labels=scoring.label_scores(labels) if label else (),
        confusion=scoring.confusion(labels) if label else {},
        overlap=None if label else scoring.mean([scoring.chrf(text, expected) for expected, text in pairs]),
        quality={} if label else _quality(store, evaluation, given),
        prompt_tokens=_total([line[0] for line in lines]),
        completion_tokens=_total([line[1] for line in lines]),
        cost_usd=_cost([line[2] for line in lines]),
        writing_s=took[evaluation.id],
    )


def _loss(store: Store, evaluation: EvaluationView) -> float | None:
    """On examples kept from training, as the training job measured it for this very model; None: it did not."""
    if evaluation.job_id is None:
        return None
    with store.reading() as session:
        job = session.get(TrainingJob, evaluation.job_id)
        made, text = (job.fine_tuned_model, job.results_csv) if job is not None else (None, None)
    if made == evaluation.model:
        found = figures.figure(results.parse(text or ""), "validation_loss")
        return None if found is None else found.value
    kept = [one for one in list_checkpoints(store, evaluation.job_id) if one.model == evaluation.model]
    names = ("full_valid_loss", "valid_loss", "validation_loss")
    return next((one.metrics[name] for one in kept for name in names if name in one.metrics), None)


def _quality(store: Store, evaluation: EvaluationView, given: Sequence[EvaluationAnswer]) -> Mapping[str, float]:
    """Measures of the data-set report on what the model wrote."""
    values = {one.key: one.values for one in examples(store, evaluation)}
    rows = [
        QualityRow(one.id, values.get(one.row_key, {}), one.prompt, one.text or "", "done", one.finish_reason)
        for one in given
    ]
    if not rows:
        return {}
    columns = sorted({name for row in rows for name in row.values})
    told = quality.report(rows, columns)
    texts = [row.text for row in rows]
    found: dict[str, float | None] = {
        "characters": sum(len(text.strip()) for text in texts) / len(texts),
        "distinct_2": scoring.distinct(texts),
        "grave": told.verdict.share,
        "adherence": _adherence(rows, columns),
    }
    return {name: value for name, value in found.items() if value is not None}


def _adherence(rows: Sequence[QualityRow], columns: Sequence[str]) -> float | None:
    """Share of asked-for values that stand in the texts as they are; None without values."""
    asked = [(row.values[name], row.text) for row in rows for name in columns if row.values.get(name)]
    return sum(value in text for value, text in asked) / len(asked) if asked else None


def _total(counts: Sequence[int | None]) -> int | None:
    return None if not counts or any(count is None for count in counts) else sum(count or 0 for count in counts)


def _cost(costs: Sequence[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if costs and len(known) == len(costs) else None


def _without(text: str, stop: str) -> str:
    return text.removesuffix(stop) if stop else text
