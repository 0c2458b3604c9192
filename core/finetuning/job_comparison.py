"""Compares training runs: settings, results, and the cost per point of accuracy. Pure.

Runs are ranked only if they use the same training and validation rows; otherwise their losses are not comparable.
Losses and accuracies are per token, so they rank only runs with the same base model and tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from core.engine import training_options
from core.finetuning.job_views import JobView
from core.finetuning.results import Figure, Results, figure
from core.message import msg, percent, sentences
from core.pricing.prices import tuned_base

_LOWER_IS_BETTER = ("last_loss", "valid_loss", "cost_usd", "training_s", "usd_per_point")
_HIGHER_IS_BETTER = ("accuracy", "valid_accuracy")
_PER_TOKEN = ("last_loss", "valid_loss", "usd_per_point", *_HIGHER_IS_BETTER)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting across all jobs, in their order, as text; "" where it was left to the provider."""

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class JobColumn:
    """The results of one job. Losses and accuracies are figures from `core.finetuning.results`; None means unknown.

    Attributes:
        training_s: seconds of training, without waiting.
        points: gain in token accuracy, in percentage points.
        usd_per_point: cost per point.
    """

    job_id: str
    name: str
    provider: str
    first_loss: float | None
    last_loss: Figure | None
    valid_loss: Figure | None
    accuracy: Figure | None
    valid_accuracy: Figure | None
    tokens: int | None
    cost_usd: Decimal | None
    training_s: float | None
    points: float | None
    usd_per_point: Decimal | None


@dataclass(frozen=True, slots=True)
class JobComparison:
    """Jobs side by side.

    Attributes:
        rows: settings.
        columns: results.
        comparable: whether all jobs use the same data set and split.
        best: result → id of the best job. Only for comparable jobs, if at least two values are known, have the same
            definition and differ; per-token results only if all jobs have the same base model.
        sentence: the comparison in words.
    """

    rows: tuple[Setting, ...]
    columns: tuple[JobColumn, ...]
    comparable: bool
    best: Mapping[str, str]
    sentence: str


def compare(jobs: Sequence[JobView], results: Sequence[Results], now: datetime) -> JobComparison:
    """Compare jobs. `results` are in the same order as `jobs`.

    Raises:
        ValueError: `jobs` and `results` differ in length.
    """
    columns = tuple(_column(job, result, now) for job, result in zip(jobs, results, strict=True))
    rows = (*(_setting(name, [read(job) for job in jobs]) for name, read in _SETTINGS.items()), *_options(jobs))
    same_rows = comparable(jobs)
    best = {
        name: winner for name in (*_LOWER_IS_BETTER, *_HIGHER_IS_BETTER) if (winner := _best(columns, name)) is not None
    }
    same_tokens = len({tuned_base(job.base_model) or job.base_model for job in jobs}) == 1
    best = {name: id_ for name, id_ in best.items() if same_rows and (same_tokens or name not in _PER_TOKEN)}
    sentence = _sentence(columns, rows, best) if same_tokens else _DIFFERENT_BASES
    sentence = sentence if same_rows else _NOT_COMPARABLE
    return JobComparison(rows, columns, same_rows, best, sentence)


def comparable(jobs: Sequence[JobView]) -> bool:
    """Whether all jobs use the same data set and split.

    A version fixes both. Jobs without a data set version used every row that was finished at that time; two such jobs
    with equal row counts are assumed to have used the same rows. Jobs with an unknown data set are not comparable.
    """
    rows = {(job.dataset_id, job.version_id, job.n_examples, job.validation_share) for job in jobs}
    return len(rows) == 1 and all(job.dataset_id is not None for job in jobs)


_NOT_COMPARABLE = msg("These runs use different data sets or splits, so their results can't be ranked.")
_DIFFERENT_BASES = msg(
    "These runs use different base models. Loss and accuracy are per token of each model, so they can't be ranked."
)
_SETTINGS: Mapping[str, Callable[[JobView], object]] = {
    "base_model": lambda job: job.base_model,
    "provider": lambda job: job.provider,
    "n_epochs": lambda job: job.hyperparameters.get("n_epochs"),
    "batch_size": lambda job: job.hyperparameters.get("batch_size"),
    "learning_rate_multiplier": lambda job: job.hyperparameters.get("learning_rate_multiplier"),
    "seed": lambda job: job.seed,
    "suffix": lambda job: job.suffix,
    "n_examples": lambda job: job.n_examples,
    "dataset_id": lambda job: job.dataset_id,
    "version_id": lambda job: job.version_id,
    "file_format": lambda job: job.file_format,
    "validation_share": lambda job: job.validation_share,
}


def _options(jobs: Sequence[JobView]) -> list[Setting]:
    """The hyperparameters of `core.engine.training_options` that any of the jobs names."""
    named = [name for name in training_options.NAMES if any(name in job.hyperparameters for job in jobs)]
    return [_setting(name, [job.hyperparameters.get(name) for job in jobs]) for name in named]


def _setting(name: str, values: Sequence[object]) -> Setting:
    texts = tuple("" if value is None else str(value) for value in values)
    return Setting(name, texts, len(set(texts)) > 1)


def _column(job: JobView, results: Results, now: datetime) -> JobColumn:
    first, accuracy = results.first("training_token_accuracy"), figure(results, "training_token_accuracy")
    points = None if first is None or accuracy is None else 100 * (accuracy.value - first)
    cost_usd = job.cost_usd
    usd_per_point = None if cost_usd is None or points is None or points <= 0 else cost_usd / Decimal(str(points))
    return JobColumn(
        job_id=job.id,
        name=job.name,
        provider=job.provider,
        first_loss=results.first("training_loss"),
        last_loss=figure(results, "training_loss"),
        valid_loss=figure(results, "validation_loss"),
        accuracy=accuracy,
        valid_accuracy=figure(results, "validation_token_accuracy"),
        tokens=job.trained_tokens or results.trained_tokens,
        cost_usd=cost_usd,
        training_s=job.training_s(now),
        points=points,
        usd_per_point=usd_per_point,
    )


def _best(columns: Sequence[JobColumn], name: str) -> str | None:
    outcomes = [(getattr(outcome, name), outcome.job_id) for outcome in columns]
    definitions = {value.definition for value, _ in outcomes if isinstance(value, Figure)}
    known = [
        (value.value if isinstance(value, Figure) else value, job_id) for value, job_id in outcomes if value is not None
    ]
    if len(known) < 2 or len(definitions) > 1 or len({value for value, _ in known}) < 2:
        return None
    return (min if name in _LOWER_IS_BETTER else max)(known, key=lambda outcome: outcome[0])[1]


def _sentence(columns: Sequence[JobColumn], rows: Sequence[Setting], best: Mapping[str, str]) -> str:
    """A sentence naming the best run by validation loss, otherwise by training accuracy."""
    by_id = {column.job_id: column for column in columns}
    differing = sum(row.differs for row in rows)
    if not differing and len(columns) > 1:
        return msg("These runs have the same settings. Their differences are due to chance.")
    winner = by_id.get(best.get("valid_loss", ""))
    if winner is not None and winner.valid_loss is not None:
        return msg(
            "{name} is best on held-out rows: validation loss {loss}.",
            name=repr(winner.name),
            loss=f"{winner.valid_loss.value:.3f}",
        )
    if (winner := by_id.get(best.get("accuracy", ""))) is not None:
        return _by_training(winner, columns)
    return msg("None of them is clearly better than the others.")


def _by_training(winner: JobColumn, columns: Sequence[JobColumn]) -> str:
    """A sentence naming the run with the best training accuracy and explaining why validation does not decide."""
    assert winner.accuracy is not None
    if winner.accuracy.definition == "smoothed":
        highest = msg(
            "{name} has the highest training accuracy: {accuracy} (smoothed).",
            name=repr(winner.name),
            accuracy=percent(winner.accuracy.value),
        )
    else:
        highest = msg(
            "{name} has the highest training accuracy: {accuracy} (last step).",
            name=repr(winner.name),
            accuracy=percent(winner.accuracy.value),
        )
    return sentences(highest, _by_validation(columns))


def _by_validation(columns: Sequence[JobColumn]) -> str:
    """A sentence explaining why no run is best by validation."""
    validated, total = sum(column.valid_loss is not None for column in columns), len(columns)
    if not validated:
        return msg("No run used validation data.")
    if validated < total:
        return msg("Runs with validation data: {validated} of {total}.", validated=validated, total=total)
    return msg("All runs perform equally on held-out rows.")
