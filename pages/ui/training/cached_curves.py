"""Curves and their charts, shared between visitors; see `pages.ui.cache`.

A curve is parsed again only when its results file has changed, not at every poll of its job, which keeps the page fast
even with a million steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from core.charts import training_curve
from core.charts.training_curve import CurveLabels, CurveMark
from core.charts.vega_lite import CurveView, Spec
from core.finetuning import curve_analysis, job_views, jobs, results
from core.finetuning.checkpoints import CheckpointView
from core.finetuning.curve_analysis import Observation
from core.finetuning.jobs import JobView
from core.finetuning.results import Results
from pages.ui import cached
from pages.ui.cache import shared
from pages.ui.training.curve_source import CurveSource, RenderedChart

_Mark = tuple[str, int, str]
"""Tells a results file from what it was before: whether its job has ended, its length, how it ends."""


def _key(job: JobView) -> tuple[str, _Mark]:
    """Tells a job's curve from what it was before."""
    return job.id, (f"{job.status} {job.updated_at}", 0, "") if job.finished else _mark_now(job)


@shared(max_entries=256, key=lambda job: (job.id, job.updated_at))
def _mark_now(job: JobView) -> _Mark:
    return ("", *job_views.results_tail(cached.store(), job.id))


@shared(max_entries=16, key=_key)
def curve(job: JobView) -> Results:
    """A job's curve so far; do not modify it."""
    return results.parse(jobs.get(cached.store(), job.id).results_csv or "")


@shared(max_entries=8, key=_key)
def source(job: JobView) -> CurveSource:
    """The curve of one job, with epochs and time if known."""
    read = curve(job)
    found = CurveSource.of(f"{_key(job)}", read, curve_analysis.with_axes(read, job))
    tokens = found.figures.tokens or job.trained_tokens  # today's files do not contain them; the provider reports them
    return replace(found, figures=replace(found.figures, tokens=tokens), examples=job.n_examples)


@shared(max_entries=8, key=lambda chain: tuple(_key(job) for job in chain))
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
    return CurveSource.of(f"chain {[_key(job) for job in chain]}", Results(frame, skipped=0), frame, marks)


@shared(max_entries=64, key=lambda source, points=(): (source.key, len(points), source.examples))
def observations(source: CurveSource, points: tuple[CheckpointView, ...] = ()) -> tuple[Observation, ...]:
    """Observations about a curve, in words."""
    return curve_analysis.observations(source.results, points, source.examples)


_Which = Literal["loss", "accuracy"]


@shared(max_entries=64, key=lambda which, source, view, labels: (which, source.key, source.marks, view, labels))
def curve_chart(which: _Which, source: CurveSource, view: CurveView, labels: CurveLabels) -> RenderedChart:
    """A curve's chart, built once for all visitors with the same view."""
    draw = training_curve.loss_chart if which == "loss" else training_curve.accuracy_chart
    return RenderedChart.of(draw(source.frame, view, labels, source.marks))


@shared(max_entries=32, key=lambda key, draw: repr(key))
def cached_chart(key: tuple[Any, ...], draw: Callable[[], Spec]) -> RenderedChart:
    """Any other chart, drawn once per `key`."""
    return RenderedChart.of(draw())


def read_file(file_id: str, text: str) -> CurveSource:
    """The curve of a results file that a visitor uploaded; stored in the session, not in this cache."""
    read = results.parse(text)
    return CurveSource.of(f"file {file_id}", read, curve_analysis.with_axes(read))
