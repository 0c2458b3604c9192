"""Several runs side by side: what was set differently, what came out, and what a point of accuracy cost. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from core.training.results import Results
from core.training.views import JobView

_SMALLEST = ("last_loss", "valid_loss", "cost_usd", "duration_s", "usd_per_point")
_LARGEST = ("accuracy", "valid_accuracy")
_TAIL = 10  # the last tenth of the steps, as in `reading`


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of all jobs, in their order, as text; "" for what was left to the provider."""

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class JobColumn:
    """What came out of one job. Losses and accuracies are medians of the last tenth of the steps; None: not known.

    `points` are percentage points of token accuracy that training won; `usd_per_point` is what one of them cost.
    """

    job_id: str
    name: str
    first_loss: float | None
    last_loss: float | None
    valid_loss: float | None
    accuracy: float | None
    valid_accuracy: float | None
    tokens: int | None
    cost_usd: Decimal | None
    duration_s: float
    points: float | None
    usd_per_point: Decimal | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Jobs side by side.

    Attributes:
        rows: their settings.
        columns: their outcomes.
        best: figure → id of the job that is best in it; only where at least two are known and they differ.
        sentence: the comparison in words.
    """

    rows: tuple[Setting, ...]
    columns: tuple[JobColumn, ...]
    best: Mapping[str, str]
    sentence: str


def compare(jobs: Sequence[JobView], results: Sequence[Results], now: datetime) -> Comparison:
    """Compare jobs with their results, in the same order.

    Raises:
        ValueError: there are not as many results as jobs.
    """
    columns = tuple(_column(job, result, now) for job, result in zip(jobs, results, strict=True))
    rows = tuple(_setting(name, [read(job) for job in jobs]) for name, read in _SETTINGS.items())
    best = {name: found for name in (*_SMALLEST, *_LARGEST) if (found := _best(columns, name)) is not None}
    return Comparison(rows, columns, best, _sentence(columns, rows, best))


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
    first, last = results.first("training_token_accuracy"), _late(results, "training_token_accuracy")
    points = None if first is None or last is None else 100 * (last - first)
    paid = job.cost_usd
    each = None if paid is None or points is None or points <= 0 else paid / Decimal(str(points))
    return JobColumn(
        job_id=job.id,
        name=job.name,
        first_loss=results.first("training_loss"),
        last_loss=_late(results, "training_loss"),
        valid_loss=results.last("validation_loss"),
        accuracy=last,
        valid_accuracy=results.last("validation_token_accuracy"),
        tokens=job.trained_tokens or results.trained_tokens,
        cost_usd=paid,
        duration_s=job.duration_s(now),
        points=points,
        usd_per_point=each,
    )


def _late(results: Results, column: str) -> float | None:
    known = results.frame[column].dropna()
    return float(known.tail(max(1, len(known) // _TAIL)).median()) if len(known) else None


def _best(columns: Sequence[JobColumn], name: str) -> str | None:
    known = [(getattr(one, name), one.job_id) for one in columns if getattr(one, name) is not None]
    if len(known) < 2 or len({value for value, _ in known}) < 2:
        return None
    return (min if name in _SMALLEST else max)(known, key=lambda one: one[0])[1]


def _sentence(columns: Sequence[JobColumn], rows: Sequence[Setting], best: Mapping[str, str]) -> str:
    """By validation where there is any, else by training accuracy."""
    by_id = {one.job_id: one for one in columns}
    differing = sum(row.differs for row in rows)
    if not differing and len(columns) > 1:
        return "These runs have the same settings; what differs is chance."
    if (winner := by_id.get(best.get("valid_loss", ""))) is not None:
        return f"{winner.name!r} is best on examples that it never saw: validation loss {winner.valid_loss:.3f}."
    if (winner := by_id.get(best.get("accuracy", ""))) is not None:
        return _by_training(winner, columns)
    return "None of them is clearly better than the others."


def _by_training(winner: JobColumn, columns: Sequence[JobColumn]) -> str:
    """Who is best at what it was trained on, and why nothing is said about new examples."""
    validated, total = sum(one.valid_loss is not None for one in columns), len(columns)
    if not validated:
        return f"{winner.name!r} gets most of its training tokens right ({winner.accuracy:.0%}); none was validated."
    if validated < total:
        return (
            f"{winner.name!r} gets most of its training tokens right ({winner.accuracy:.0%}); "
            f"only {validated} of {total} were validated."
        )
    return (
        f"{winner.name!r} gets most of its training tokens right ({winner.accuracy:.0%}); "
        "on examples that they never saw all do equally well."
    )
