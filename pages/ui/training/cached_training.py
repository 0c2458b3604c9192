"""Cached reads of the training page's jobs, shared by all visitors; see `pages.ui.cache`.

The cache key is the job's id and the time of its provider's last answer, so that a page with many jobs reads each of
them once. Curves are in `cached_curves`, checks of a new job in `cached_form`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pandas as pd

from core.datasets import datasets
from core.db.tables import utcnow
from core.evaluation import evaluation_comparison, holdout
from core.evaluation.evaluation_comparison import EvaluationComparison
from core.evaluation.evaluations import EvaluationView
from core.evaluation.holdout import PromptChoice
from core.finetuning import checkpoints, job_comparison, jobs, lineage
from core.finetuning.checkpoints import CheckpointView
from core.finetuning.job_comparison import JobComparison
from core.finetuning.jobs import JobView
from core.finetuning.lineage import Family
from core.finetuning.results import Figure, figure, headline_accuracy
from core.sanitize import safe_csv
from pages.ui import cached
from pages.ui.background import BackgroundTask, shared_task
from pages.ui.cache import shared
from pages.ui.lang import language, localized
from pages.ui.training.cached_curves import curve
from pages.ui.training.curve_source import Sendable, sendable

_SPARKS = 40  # points of the small curve in the list
_FRESH_S = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """A job's curve in a few figures, for lists; `headline` is the one accuracy for a card. None: not known."""

    steps: int
    loss: Figure | None
    accuracy: Figure | None
    held_out_accuracy: Figure | None
    headline: Figure | None
    tokens: int | None
    sparks: tuple[float, ...]


def _job_version(job: JobView) -> tuple[str, datetime]:
    """Tells a job from what it was before its provider's last answer."""
    return job.id, job.updated_at


@shared(max_entries=4096, key=_job_version)
def summary(job: JobView) -> Summary:
    """The few figures of a job's curve."""
    read = curve(job)
    losses = read.frame["training_loss"].dropna()
    few = losses.iloc[:: max(1, len(losses) // _SPARKS)]
    return Summary(
        steps=read.steps,
        loss=figure(read, "training_loss"),
        accuracy=figure(read, "training_token_accuracy"),
        held_out_accuracy=figure(read, "validation_token_accuracy"),
        headline=headline_accuracy(read),
        tokens=read.trained_tokens,
        sparks=tuple(float(value) for value in few),
    )


def words(job: JobView) -> str:
    """The state of a job in one sentence."""
    return _ended_words(job) if job.finished else _words(job)


def _words(job: JobView) -> str:
    return localized(jobs.explain(job, utcnow(), None if job.finished else last_event(job)))


@shared(max_entries=4096, key=lambda job: (_job_version(job), language()))
def _ended_words(job: JobView) -> str:
    """A finished job does not change, and building its sentence requires a catalogue search."""
    return _words(job)


@shared(ttl=_FRESH_S, max_entries=32, key=lambda seen, make: seen)
def shared_table(seen: int, make: Callable[[], pd.DataFrame]) -> Sendable:
    """A table shared by all visitors; rebuilt when `seen` changes, and every few seconds because it shows durations."""
    return sendable(make())


@shared(max_entries=256, key=_job_version)
def points(job: JobView) -> tuple[CheckpointView, ...]:
    """A job's checkpoints by step."""
    return checkpoints.list_checkpoints(cached.store(), job.id)


@shared(ttl=_FRESH_S, max_entries=16, key=lambda job: job.id)
def family(job: JobView) -> Family:
    """Everything related to a job."""
    return lineage.family(cached.store(), job.id)


def compared(opened: Sequence[JobView], names: Mapping[str, str]) -> JobComparison:
    """Jobs side by side, with distinct names; rebuilt every few seconds because it shows durations."""
    return _compared(tuple(replace(job, name=names[job.id]) for job in opened))


@shared(
    ttl=_FRESH_S,
    max_entries=16,
    key=lambda named: tuple((job.id, job.updated_at, job.name, job.cost_usd) for job in named),
)
def _compared(named: tuple[JobView, ...]) -> JobComparison:
    return job_comparison.compare(named, [curve(job) for job in named], utcnow())


@shared(max_entries=256, key=_job_version)
def last_event(job: JobView) -> datetime | None:
    """When the provider last sent a new event of a job; None if never."""
    return jobs.last_event(cached.store(), job.id)


@shared_task(
    max_entries=32,
    key=lambda job: job.id,
    version=lambda job: datasets.fingerprint(cached.store(), job.dataset_id or "", job.version_id),
)
def unseen(job: JobView) -> BackgroundTask[PromptChoice]:
    """Prompts for before and after; chosen again when a row of the job's data set is added, removed or edited."""
    store = cached.store()
    return BackgroundTask(lambda seen: holdout.choose_prompts(store, job, seen), job.n_examples or 0)


def results_text(job_id: str) -> str:
    """A job's results file as the provider sent it, with formulas escaped."""
    return safe_csv(jobs.get(cached.store(), job_id).results_csv or "")


@shared(max_entries=64, key=lambda tuned, base: (tuned.id, tuned.finished_at, base.id, base.finished_at))
def against(tuned: EvaluationView, base: EvaluationView) -> EvaluationComparison:
    """Two evaluations, row by row.

    Raises:
        FabulaError: they have no rows in common.
    """
    return evaluation_comparison.compare_evaluations(cached.store(), tuned.id, base.id)
