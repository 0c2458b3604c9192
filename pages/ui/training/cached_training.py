"""Cached reads of the training page, shared by all visitors: jobs, their curves and charts, and the check of a new job.

The cache key is the job's id and the time of its provider's last answer, so that a page with many jobs reads each of
them once. A curve is parsed again only when its results file has changed, not at every poll of its job, which keeps the
page fast even with a million steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median
from typing import Any, Literal

import pandas as pd

from core import packaged_models
from core.charts import training_curve
from core.charts.training_curve import CurveLabels, CurveMark, CurveSource
from core.charts.vega_lite import CurveView, RenderedChart, Sendable, Spec, sendable
from core.datasets import datasets
from core.db.tables import utcnow
from core.evaluation import before_after_prompts, comparing
from core.evaluation.before_after_prompts import PromptChoice
from core.evaluation.evaluations import EvaluationView
from core.evaluation.scoring import EvaluationComparison
from core.finetuning import (
    checkpoints,
    curve_analysis,
    file_checker,
    job_comparison,
    job_cost,
    job_events,
    job_explanation,
    job_views,
    lineage,
    preflight,
    results,
)
from core.finetuning.checkpoints import CheckpointView
from core.finetuning.curve_analysis import Observation
from core.finetuning.file_checker import FileCheck
from core.finetuning.job_comparison import JobComparison
from core.finetuning.job_cost import JobEstimate
from core.finetuning.job_form import JobForm
from core.finetuning.job_views import JobView
from core.finetuning.lineage import Family
from core.finetuning.preflight import Preflight
from core.finetuning.results import Figure, Results, figure, headline_accuracy
from core.parity import from_evaluations
from core.parity.report import ParityReport
from core.pricing.prices import ENGINE, tuned_base
from core.providers import ModelInfo
from core.sanitize import safe_csv
from pages.ui import background, cache
from pages.ui.background import BackgroundTask, shared_task
from pages.ui.cache import shared
from pages.ui.i18n import language, localized

_SPARKS = 40  # points of the small curve in the list
_FRESH_S = 3

_Mark = tuple[str, int, str]
"""Tells a results file from what it was before: whether its job has ended, its length, how it ends."""

_ACCOUNT_S = 300.0  # permission to train rarely changes


@dataclass(frozen=True, slots=True)
class Summary:
    """A job's curve in a few figures, for lists; `headline` is the one accuracy for a card. None means unknown."""

    steps: int
    loss: Figure | None
    accuracy: Figure | None
    held_out_accuracy: Figure | None
    headline: Figure | None
    tokens: int | None
    sparks: tuple[float, ...]


def _job_version(job: JobView) -> tuple[str, datetime]:
    """A key that changes whenever the job's provider responds."""
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
    """A job's state in one sentence."""
    return _ended_words(job) if job.finished else _words(job)


def _words(job: JobView) -> str:
    return localized(job_explanation.explain(job, utcnow(), None if job.finished else last_event(job)))


@shared(max_entries=4096, key=lambda job: (_job_version(job), language()))
def _ended_words(job: JobView) -> str:
    """The sentence for a finished job, cached because it never changes and building it searches the catalogue."""
    return _words(job)


@dataclass(frozen=True, slots=True)
class JobTable:
    """The list of jobs as a table, and the names of its columns that have no content."""

    data: Sendable
    empty: frozenset[str]


@shared(ttl=_FRESH_S, max_entries=32, key=lambda seen, make: seen)
def shared_table(seen: int, make: Callable[[], tuple[pd.DataFrame, frozenset[str]]]) -> JobTable:
    """A table shared by all visitors; rebuilt when `seen` changes, and every few seconds because it shows durations."""
    frame, empty = make()
    return JobTable(sendable(frame), empty)


@shared(max_entries=256, key=_job_version)
def points(job: JobView) -> tuple[CheckpointView, ...]:
    """A job's checkpoints by step."""
    return checkpoints.list_checkpoints(cache.store(), job.id)


@shared(ttl=_FRESH_S, max_entries=16, key=lambda job: job.id)
def family(job: JobView) -> Family:
    """Everything related to a job."""
    return lineage.family(cache.store(), job.id)


@shared(max_entries=256, key=_job_version)
def early_end(job: JobView) -> tuple[str, ...]:
    """The engine's messages about early stopping at the end of a job; () if the job does not use it."""
    if job.status != "succeeded" or not job.hyperparameters.get("early_stopping"):
        return ()
    return job_events.early_end(cache.store(), job.id)


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
    return job_events.last_event(cache.store(), job.id)


@shared_task(
    max_entries=32,
    key=lambda job: job.id,
    version=lambda job: datasets.fingerprint(cache.store(), job.dataset_id or "", job.version_id),
)
def unseen(job: JobView) -> BackgroundTask[PromptChoice]:
    """Prompts for the before-and-after comparison; chosen again when the rows of the job's data set change."""
    store = cache.store()
    return BackgroundTask(lambda seen: before_after_prompts.choose_prompts(store, job, seen), job.n_examples or 0)


def results_text(job_id: str) -> str:
    """A job's results file as the provider sent it, with formulas escaped."""
    return safe_csv(job_views.get(cache.store(), job_id).results_csv or "")


@shared(max_entries=64, key=lambda tuned, base: (tuned.id, tuned.finished_at, base.id, base.finished_at))
def against(tuned: EvaluationView, base: EvaluationView) -> EvaluationComparison:
    """Compare two evaluations row by row.

    Raises:
        FabulaError: they have no rows in common.
    """
    return comparing.compare_evaluations(cache.store(), tuned.id, base.id)


@shared(max_entries=32, key=lambda old, new, margin: _parity_key(old, new, margin))
def parity(old: EvaluationView, new: EvaluationView, margin: float) -> ParityReport:
    """The parity card of two evaluations.

    Raises:
        FabulaError: they have no rows in common.
    """
    return from_evaluations.compare_evaluations(cache.store(), old.id, new.id, margin=margin)


def _parity_key(old: EvaluationView, new: EvaluationView, margin: float) -> tuple[object, ...]:
    return old.id, old.finished_at, new.id, new.finished_at, margin, str(new.settings.get("schema", "default"))


def _curve_key(job: JobView) -> tuple[str, _Mark]:
    """A key that changes whenever the job's curve does."""
    return job.id, (f"{job.status} {job.updated_at}", 0, "") if job.finished else _mark_now(job)


@shared(max_entries=256, key=lambda job: (job.id, job.updated_at))
def _mark_now(job: JobView) -> _Mark:
    return ("", *job_views.results_tail(cache.store(), job.id))


@shared(max_entries=16, key=_curve_key)
def curve(job: JobView) -> Results:
    """A job's curve so far; do not modify it."""
    return results.parse(job_views.get(cache.store(), job.id).results_csv or "")


@shared(max_entries=8, key=_curve_key)
def source(job: JobView) -> CurveSource:
    """The curve of one job, with epochs and time if known."""
    read = curve(job)
    found = CurveSource.of(f"{_curve_key(job)}", read, curve_analysis.with_axes(read, job))
    tokens = found.figures.tokens or job.trained_tokens  # today's files do not contain them; the provider reports them
    return replace(found, figures=replace(found.figures, tokens=tokens), examples=job.n_examples)


@shared(max_entries=8, key=lambda chain: tuple(_curve_key(job) for job in chain))
def chain_source(chain: Sequence[JobView]) -> CurveSource:
    """One continuous curve of a chain of jobs; where each begins is marked with its name."""
    frame = curve_analysis.curve_frame([(job, curve(job)) for job in chain])
    frame = frame.drop(columns=["step", "elapsed_tokens"])
    frame = frame.rename(columns={"total_step": "step", "total_tokens": "elapsed_tokens"})
    begins = frame.drop_duplicates("job")
    names = {job.id: job.name for job in chain}
    marks = tuple(
        CurveMark(int(step), names.get(str(job), str(job)), "part")
        for step, job in zip(begins["step"], begins["job"], strict=True)
    )
    return CurveSource.of(f"chain {[_curve_key(job) for job in chain]}", Results(frame, skipped=0), frame, marks)


@shared(max_entries=64, key=lambda source, points=(): (source.key, len(points), source.examples))
def observations(source: CurveSource, points: tuple[CheckpointView, ...] = ()) -> tuple[Observation, ...]:
    """Observations about a curve, in words."""
    return curve_analysis.observations(source.results, points, source.examples)


CurveName = Literal["loss", "accuracy", "rewards/margins", "rewards/accuracies"]
"""The charts of a curve; rewards have the names that TRL gives them."""
_DRAWINGS: Mapping[CurveName, Callable[..., Spec]] = {
    "loss": training_curve.loss_chart,
    "accuracy": training_curve.accuracy_chart,
    "rewards/margins": training_curve.reward_margin_chart,
    "rewards/accuracies": training_curve.reward_accuracy_chart,
}


@shared(max_entries=64, key=lambda which, source, view, labels: (which, source.key, source.marks, view, labels))
def curve_chart(which: CurveName, source: CurveSource, view: CurveView, labels: CurveLabels) -> RenderedChart:
    """A curve's chart, built once for all visitors with the same view."""
    return RenderedChart.of(_DRAWINGS[which](source.frame, view, labels, source.marks))


@shared(max_entries=32, key=lambda key, draw: repr(key))
def cached_chart(key: tuple[Any, ...], draw: Callable[[], Spec]) -> RenderedChart:
    """Any other chart, rendered once per `key`."""
    return RenderedChart.of(draw())


def read_file(file_id: str, text: str) -> CurveSource:
    """The curve of a results file that a visitor uploaded; stored in the session, not in this cache."""
    read = results.parse(text)
    return CurveSource.of(f"file {file_id}", read, curve_analysis.with_axes(read))


def account(provider: str, model: str) -> Preflight:
    """Whether the account may train this model, and for how long the result can be called.

    A lasting refusal is kept until the providers change, or `ask_account_again`. Raises FabulaError if the provider is
    not set up.
    """
    found, checked_at = _account(provider, model)
    kept_s = math.inf if found.lasting else _ACCOUNT_S if found.answered else background.FAILURE_KEPT_S
    if time.monotonic() - checked_at >= kept_s:
        ask_account_again(provider, model)
        found, checked_at = _account(provider, model)
    return found


def ask_account_again(provider: str, model: str) -> None:
    """Ask the provider at the next `account`."""
    _account.clear(provider, model)


@shared(max_entries=64, key=lambda provider, model: (provider, model, cache.registry().revision()))
def _account(provider: str, model: str) -> tuple[Preflight, float]:
    """The state of an account, and when it was checked (`time.monotonic()`)."""
    found = preflight.preflight(cache.store(), cache.quick(provider), cache.prices(), model, utcnow())
    return found, time.monotonic()


def estimate(
    model: ModelInfo, tokens: int, epochs: int | None, examples: int | None = None, validation_tokens: int = 0
) -> JobEstimate:
    """The estimate for training on a file with this many tokens; see `core.finetuning.job_cost`."""
    engine = cache.status().engine if model.provider == ENGINE else None
    packaged_base = (tuned_base(model.id) or model.id) == packaged_models.BASE  # the rough figure only applies to it
    at_hand = engine is not None and not engine.external and packaged_base
    return job_cost.estimate(
        cache.store(),
        cache.prices(),
        model.provider,
        model.id,
        tokens=tokens,
        epochs=epochs,
        examples=examples,
        speed=engine.training_speeds.get(tuned_base(model.id) or model.id) if engine is not None else None,
        rough_speed=_rough_speed() if at_hand else None,
        validation_tokens=validation_tokens,
    )


def packaged_training_speed() -> float | None:
    """Training speed of the packaged base on the engine's machine, in tokens per second: from its newest steps or jobs,
    else a rough estimate; None if no job was trained yet and the engine runs on another machine.
    """
    engine = cache.status().engine
    if steps := engine.training_speeds.get(packaged_models.BASE):
        return steps
    if jobs := job_cost.measured_speeds(cache.store(), ENGINE, packaged_models.BASE):
        return median(jobs)
    return None if engine.external else _rough_speed()


@shared(max_entries=1)
def _rough_speed() -> float:
    return job_cost.measure_rough_speed()


def _file_key(form: JobForm, rows: int, context: int | None) -> tuple[object, ...]:
    """A key that distinguishes training files, except for the state of their rows."""
    marks = (form.method, form.file_format, form.separator, form.stop)
    return form.dataset_id, form.version_id, marks, form.provider, form.base_model, context


@shared_task(
    max_entries=16,
    key=_file_key,
    version=lambda form, rows, context: datasets.fingerprint(cache.store(), form.dataset_id, form.version_id),
)
def file_check(form: JobForm, rows: int, context: int | None) -> BackgroundTask[FileCheck]:
    """The check of the whole file that this form would send; repeated when a row is added, removed or edited.

    Args:
        context: maximum tokens per example as the model's server reports it; None if not reported.
    """
    store = cache.store()

    def look(row_seen: Callable[[], None]) -> FileCheck:
        reported = 0

        def count(lines: int) -> None:
            nonlocal reported
            while reported < min(lines, rows):
                reported += 1
                row_seen()

        return file_checker.check_form(store, form, context=context, on_progress=count)

    return BackgroundTask(look, rows)
