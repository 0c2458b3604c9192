"""Several runs side by side: what was set differently, what came out, and what a point of accuracy cost. Pure.

Runs are ranked only where they learned from the same rows and kept the same rows for validation. A loss on other rows
is another measurement. Losses and accuracies are per token, so only runs of one base model are ranked by them: another
tokenizer cuts the same text into other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from core.cost.prices import tuned_base
from core.message import msg, sentences
from core.training.figures import Figure, figure
from core.training.job_views import JobView
from core.training.results import Results

_SMALLEST = ("last_loss", "valid_loss", "cost_usd", "training_s", "usd_per_point")
_LARGEST = ("accuracy", "valid_accuracy")
_PER_TOKEN = ("last_loss", "valid_loss", "usd_per_point", *_LARGEST)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of all jobs, in their order, as text; "" for what was left to the provider."""

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class JobColumn:
    """The outcome of one job. Losses and accuracies are the figures of `core.training.figures`; None: not known.

    Attributes:
        training_s: seconds of training, without waiting.
        points: percentage points of token accuracy that training won.
        usd_per_point: what one of them cost.
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
        rows: their settings.
        columns: their outcomes.
        comparable: whether they have the same data set and the same split.
        best: outcome → id of the job that is best in it: of comparable jobs, where at least two outcomes are known,
            have the same definition, and differ. Outcomes per token only where all jobs have one base model.
        sentence: the comparison in words.
    """

    rows: tuple[Setting, ...]
    columns: tuple[JobColumn, ...]
    comparable: bool
    best: Mapping[str, str]
    sentence: str


def compare(jobs: Sequence[JobView], results: Sequence[Results], now: datetime) -> JobComparison:
    """Compare jobs with their results, in the same order.

    Raises:
        ValueError: there are not as many results as jobs.
    """
    columns = tuple(_column(job, result, now) for job, result in zip(jobs, results, strict=True))
    rows = tuple(_setting(name, [read(job) for job in jobs]) for name, read in _SETTINGS.items())
    same_rows = comparable(jobs)
    best = {name: found for name in (*_SMALLEST, *_LARGEST) if (found := _best(columns, name)) is not None}
    same_tokens = len({tuned_base(job.base_model) or job.base_model for job in jobs}) == 1
    best = {name: id_ for name, id_ in best.items() if same_rows and (same_tokens or name not in _PER_TOKEN)}
    sentence = _sentence(columns, rows, best) if same_tokens else _OTHER_TOKENS
    sentence = sentence if same_rows else _NOT_COMPARABLE
    return JobComparison(rows, columns, same_rows, best, sentence)


def comparable(jobs: Sequence[JobView]) -> bool:
    """Whether all jobs have the same data set and split.

    A version of a data set fixes both. Jobs without one learned from all finished rows of that time: the same where
    their number is the same. A data set that is not known is no other job's.
    """
    rows = {(job.dataset_id, job.version_id, job.n_examples, job.validation_share) for job in jobs}
    return len(rows) == 1 and all(job.dataset_id is not None for job in jobs)


_NOT_COMPARABLE = msg("These runs have different data sets or splits, so their figures cannot be ranked.")
_OTHER_TOKENS = msg(
    "These runs have different base models. Loss and accuracy count each model's own tokens, so they cannot be ranked."
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


def _setting(name: str, values: Sequence[object]) -> Setting:
    told = tuple("" if value is None else str(value) for value in values)
    return Setting(name, told, len(set(told)) > 1)


def _column(job: JobView, results: Results, now: datetime) -> JobColumn:
    first, accuracy = results.first("training_token_accuracy"), figure(results, "training_token_accuracy")
    points = None if first is None or accuracy is None else 100 * (accuracy.value - first)
    paid = job.cost_usd
    each = None if paid is None or points is None or points <= 0 else paid / Decimal(str(points))
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
        cost_usd=paid,
        training_s=job.training_s(now),
        points=points,
        usd_per_point=each,
    )


def _best(columns: Sequence[JobColumn], name: str) -> str | None:
    found = [(getattr(one, name), one.job_id) for one in columns]
    definitions = {value.definition for value, _ in found if isinstance(value, Figure)}
    known = [
        (value.value if isinstance(value, Figure) else value, job_id) for value, job_id in found if value is not None
    ]
    if len(known) < 2 or len(definitions) > 1 or len({value for value, _ in known}) < 2:
        return None
    return (min if name in _SMALLEST else max)(known, key=lambda one: one[0])[1]


def _sentence(columns: Sequence[JobColumn], rows: Sequence[Setting], best: Mapping[str, str]) -> str:
    """By validation where there is any, else by training accuracy."""
    by_id = {one.job_id: one for one in columns}
    differing = sum(row.differs for row in rows)
    if not differing and len(columns) > 1:
        return msg("These runs have the same settings; their differences are due to chance.")
    winner = by_id.get(best.get("valid_loss", ""))
    if winner is not None and winner.valid_loss is not None:
        return msg(
            "{name} is best on held-out rows: validation loss {value}.",
            name=repr(winner.name),
            value=f"{winner.valid_loss.value:.3f}",
        )
    if (winner := by_id.get(best.get("accuracy", ""))) is not None:
        return _by_training(winner, columns)
    return msg("None of them is clearly better than the others.")


def _by_training(winner: JobColumn, columns: Sequence[JobColumn]) -> str:
    """Which run is best on its training rows, and why nothing is said about new examples."""
    assert winner.accuracy is not None
    if winner.accuracy.definition == "smoothed":
        highest = msg(
            "{name} has the highest training accuracy: {value} (smoothed).",
            name=repr(winner.name),
            value=f"{winner.accuracy.value:.1%}",
        )
    else:
        highest = msg(
            "{name} has the highest training accuracy: {value} (last step).",
            name=repr(winner.name),
            value=f"{winner.accuracy.value:.1%}",
        )
    return sentences(highest, _by_validation(columns))


def _by_validation(columns: Sequence[JobColumn]) -> str:
    """Why no run is best on held-out rows."""
    validated, total = sum(one.valid_loss is not None for one in columns), len(columns)
    if not validated:
        return msg("No run used validation data.")
    if validated < total:
        return msg("Runs with validation data: {validated} of {total}.", validated=validated, total=total)
    return msg("All runs perform equally on held-out rows.")
